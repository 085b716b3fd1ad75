"""Reads what couplings are computed from, as it stands in the tables."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.coupling_features import (
    EXTRA,
    FEATURES,
    RATIOS,
    WINDOW_FEATURES,
    CouplingInputs,
    SizeTable,
)
from sedarchive.compute.rolling.window_tables import window_keys
from sedarchive.digests import canonical_digest
from sedarchive.inference.coupling import RunMetric
from sedarchive.inference.surrogates import DRAWS
from sedarchive.tables import Database

Floats = NDArray[np.float64]

_WINDOWS = (
    f"SELECT list_position(?, scope) - 1 AS row, step, {', '.join((*WINDOW_FEATURES, EXTRA))}, "
    "coalesce(irregular, false) AS irregular FROM windows "
    "WHERE run = ? AND window_size = ? AND list_contains(?, scope)"
)
_SIGMAS = (
    "SELECT list_position(?, scope) - 1 AS row, step, k, ratio FROM window_sigmas "
    "WHERE run = ? AND window_size = ? AND list_contains(?, scope) AND k <= ?"
)
_LOGGED = (
    "SELECT step, min_by(value, coalesce(source, '')) FROM metrics WHERE run = ? AND name = ? AND isfinite(value) "
    "GROUP BY step ORDER BY step"
)
_LOSSES = (
    "SELECT DISTINCT name FROM metrics WHERE run = ? AND isfinite(value) "
    "AND (name IN ('val_loss', 'train_loss') OR name LIKE 'val\\_loss/%' ESCAPE '\\') ORDER BY name"
)


LOG_HASHES = (
    "SELECT name, count(*), bit_xor(hash(step, value, coalesce(source, ''))) FROM metrics "
    "WHERE run = ? AND (name LIKE '%loss%' OR name = 'lr') GROUP BY name ORDER BY name"
)
"""Hashes of a run's logged losses and learning rate."""


def read_inputs(
    database: Database,
    run: str,
    steps: Sequence[int],
    sizes: Sequence[int],
    scopes: Sequence[str],
    draws: int = DRAWS,
) -> CouplingInputs:
    """Read the windows of some sizes and scopes, and the losses, of one run with checkpoints at ``steps``."""
    reached = [size for size in sorted(sizes) if size < len(steps)]
    tables = tuple(_size_table(database, run, np.array(steps), scopes, size) for size in reached)
    return CouplingInputs(tuple(scopes), tables, _metrics(database, run, np.array(steps, dtype=np.float64), draws))


def input_keys(database: Database, run: str, sizes: Sequence[int]) -> dict[str, str]:
    """Scope -> hash of everything that its couplings follow from, without reading it."""
    logged = database.rows(LOG_HASHES, [run]).rows
    windows: dict[str, list[tuple[int, str]]] = {}
    for (scope, size), key in window_keys(database, run).items():
        if size in sizes:
            windows.setdefault(scope, []).append((size, key))
    return {scope: canonical_digest([keys, [list(map(str, row)) for row in logged]]) for scope, keys in windows.items()}


def _size_table(database: Database, run: str, steps: NDArray[np.int64], scopes: Sequence[str], size: int) -> SizeTable:
    shape = (len(scopes), len(steps) - size)
    features = {name: np.full(shape, np.nan) for name in (*FEATURES, EXTRA)}
    irregular = np.zeros(len(scopes), dtype=bool)
    parameters = [list(scopes), run, size, list(scopes)]
    windows = database.arrays(_WINDOWS, parameters)
    place = windows["row"], np.searchsorted(steps[size:], windows["step"])
    for name in (*WINDOW_FEATURES, EXTRA):
        features[name][place] = windows[name]
    irregular[windows["row"][windows["irregular"]]] = True
    sigmas = database.arrays(_SIGMAS, [*parameters, RATIOS])
    place = sigmas["row"], np.searchsorted(steps[size:], sigmas["step"])
    for k in range(1, RATIOS + 1):
        of_k = sigmas["k"] == k
        features[f"ratio_{k}"][place[0][of_k], place[1][of_k]] = sigmas["ratio"][of_k]
    return SizeTable(size, features, irregular)


def _metrics(database: Database, run: str, steps: Floats, draws: int) -> dict[str, RunMetric]:
    """Validation losses, val_loss first; the training loss where there is none."""
    names = [name for (name,) in database.rows(_LOSSES, [run]).rows]
    chosen = [name for name in names if name != "train_loss"] or names
    lr_steps, lr_values = _logged(database, run, "lr")
    lr = np.interp(steps, lr_steps, lr_values) if len(lr_steps) else None
    joined = {name: RunMetric.joined(steps, *_logged(database, run, name), lr) for name in chosen}
    return {name: replace(metric, draws=draws) for name, metric in joined.items()}


def _logged(database: Database, run: str, name: str) -> tuple[Floats, Floats]:
    rows = database.rows(_LOGGED, [run, name]).rows
    pairs = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
