"""The sampled null beside windows that stand in the tables already.

A null follows from the norms of the updates, the effective dimension and the observed edge ratio, all of which are
columns: neither weights nor Gram matrices are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.window_rows import Columns, concatenated, null_columns, ratio_null_columns
from sedarchive.executor import Executor
from sedarchive.nulls import NullBands, NullCache, null_bands
from sedarchive.tables import Database

ScopeSize = tuple[str, int]
_WINDOWS = "SELECT step, edge_ratio, p_eff FROM windows WHERE run = ? AND scope = ? AND window_size = ? ORDER BY step"


@dataclass(frozen=True)
class StandingWindows:
    """Windows of one scope and size as they stand."""

    scope: str
    size: int
    norms: NDArray[np.float64]
    """Norms of all updates of the scope (n_updates,)."""
    step: NDArray[np.int64]
    """Of each window (n,)."""
    edge_ratio: NDArray[np.float64]
    p_eff: float


def read_standing(database: Database, run: str, pairs: Sequence[ScopeSize]) -> list[StandingWindows]:
    """Windows of some scopes and sizes, with what their nulls follow from."""
    if not pairs:
        return []
    norms = _by_scope(database.rows("SELECT scope, norm FROM updates WHERE run = ? ORDER BY scope, step", [run]).rows)
    found = []
    for scope, size in pairs:
        step, edge_ratio, p_eff = zip(*database.rows(_WINDOWS, [run, scope, size]).rows, strict=True)
        observed = np.array(edge_ratio, dtype=np.float64)
        found.append(StandingWindows(scope, size, norms[scope], np.array(step), observed, p_eff[0]))
    return found


def _by_scope(rows: Sequence[tuple[Any, ...]]) -> dict[str, NDArray[np.float64]]:
    groups = groupby(rows, key=lambda row: row[0])
    return {scope: np.array([norm for _, norm in group], dtype=np.float64) for scope, group in groups}


def bands_of_windows(
    norms: NDArray[np.float64], size: int, edge_ratio: NDArray[np.float64], p_eff: float, cache: NullCache
) -> NullBands:
    """Nulls of all windows of ``size`` updates, from the norms of all updates."""
    inside = np.arange(len(edge_ratio))[:, None] + np.arange(size)
    return null_bands(norms[inside], edge_ratio, p_eff, cache=cache)


def null_rows(standing: Sequence[StandingWindows], executor: Executor) -> dict[str, Columns]:
    """Columns of ``windows`` and of ``window_sigmas`` that hold the nulls, with those that say whose they are."""
    parts = list(executor.map(partial(_null_rows, NullCache()), standing))
    return {table: concatenated([part[table] for part in parts]) for table in ("windows", "window_sigmas")}


def _null_rows(cache: NullCache, standing: StandingWindows) -> dict[str, Columns]:
    size = standing.size
    bands = bands_of_windows(standing.norms, size, standing.edge_ratio, standing.p_eff, cache)
    windows = {"step": standing.step, **null_columns(bands)}
    order = {"step": np.repeat(standing.step, size), "k": np.tile(np.arange(1, size + 1), len(standing.step))}
    sigmas = {**order, **ratio_null_columns(bands, size)}
    return {"windows": _named(windows, standing), "window_sigmas": _named(sigmas, standing)}


def _named(columns: Columns, standing: StandingWindows) -> Columns:
    n_rows = len(columns["step"])
    return {"scope": np.full(n_rows, standing.scope), "window_size": np.full(n_rows, standing.size)} | columns
