"""The null that keeps the lag-1 correlation of updates, beside windows that stand in the tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.keyed import KeyedRows, Pair
from sedarchive.compute.rolling.window_rows import Columns, concatenated
from sedarchive.compute.stages import Stage
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.nulls.momentum import DRAWS, SEED, MomentumBands, momentum_bands
from sedarchive.tables import Database

ALGORITHM = "momentum-null-1"
TABLE_NAME = "momentum_null"
MOST_WINDOWS = 16
"""Windows of one scope and size whose null is drawn, evenly spaced: it costs an eigenproblem a draw."""
_COLUMNS = ("edge_ratio_ar1_null", "edge_ratio_ar1_null_high", "edge_ratio_ar1_p")
_KEYS = (
    "SELECT scope, window_size, key FROM computations WHERE run = ? AND table_name = 'windows' AND window_size > 1 "
    "AND list_contains(?, window_size) AND NOT contains(scope, ':')"
)
_UPDATES = "SELECT norm, cos_previous FROM updates WHERE run = ? AND scope = ? ORDER BY step"
_WINDOWS = "SELECT step, edge_ratio, p_eff FROM windows WHERE run = ? AND scope = ? AND window_size = ? ORDER BY step"


@dataclass(frozen=True)
class _Standing:
    """Windows of one scope and size, of which some are looked at."""

    scope: str
    size: int
    step: NDArray[np.int64]
    norms: NDArray[np.float64]
    """(n, W)."""
    cosines: NDArray[np.float64]
    edge_ratio: NDArray[np.float64]
    p_eff: float

    def columns(self, bands: MomentumBands) -> Columns:
        """Columns of the rows of ``windows`` that this null belongs to."""
        n_rows = len(self.step)
        named = {"scope": np.full(n_rows, self.scope), "window_size": np.full(n_rows, self.size), "step": self.step}
        return named | dict(zip(_COLUMNS, (bands.median, bands.high, bands.p), strict=True))


def keyed_momentum(run: str) -> KeyedRows:
    """Windows of one run that have this null; it stands in columns of their own rows."""
    return KeyedRows(run, TABLE_NAME, ALGORITHM, ())


def wanted_momentum(database: Database, run: str, sizes: Sequence[int]) -> dict[Pair, str]:
    """Keys of what should stand, by scope and size: a hash of the windows."""
    return {
        (scope, size): canonical_digest([ALGORITHM, DRAWS, SEED, MOST_WINDOWS, key])[:16]
        for scope, size, key in database.rows(_KEYS, [run, list(sizes)]).rows
    }


def momentum_stages(run: str, sizes: Sequence[int], turns: Turns) -> list[Stage[Any]]:
    """Stages that draw the null of the windows of the asked sizes whose own null is missing or stale.

    Scopes of one layer, role or tensor, which are many, have none.
    """
    started = datetime.now(UTC)
    keyed = keyed_momentum(run)
    work = keyed.outstanding(turns.database, wanted_momentum(turns.database, run, sizes))
    if not work:
        return []
    standing = [_read(turns.database, run, *pair) for pair in sorted(work.pairs)]

    def write(found: Iterator[MomentumBands]) -> None:
        made = [one.columns(bands) for one, bands in zip(standing, found, strict=True) if len(one.step)]
        if made:
            turns.database.update("windows", {"run": run}, ["scope", "window_size", "step"], concatenated(made))
        keyed.write(turns.database, work, {}, started)  # last: what is recorded stands

    tasks = [partial(momentum_bands, one.norms, one.cosines, one.edge_ratio, one.p_eff) for one in standing]
    return [Stage(tasks, len(tasks), write, sum(len(one.step) for one in standing))]


def _read(database: Database, run: str, scope: str, size: int) -> _Standing:
    updates = _numbers(database.rows(_UPDATES, [run, scope]).rows, 2)
    windows = _numbers(database.rows(_WINDOWS, [run, scope, size]).rows, 3)
    taken = np.arange(0, len(windows), -(-len(windows) // MOST_WINDOWS)) if len(windows) else np.arange(0)
    inside = taken[:, None] + np.arange(size)
    return _Standing(
        scope,
        size,
        windows[taken, 0].astype(np.int64),
        updates[inside, 0],
        updates[inside, 1],
        windows[taken, 1],
        float(windows[0, 2]) if len(windows) else 0.0,
    )


def _numbers(rows: Sequence[tuple[Any, ...]], columns: int) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64).reshape(-1, columns)
