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

from sedarchive.compute.flow_rows import GapWindows, as_columns, flow_rows, has_flow_null
from sedarchive.compute.window_rows import Columns, UnitNull, concatenated, null_columns, ratio_null_columns
from sedarchive.executor import Executor
from sedarchive.inference.gapflow import RandomHistory
from sedarchive.nulls.bands import NullBands, NullCache, null_bands
from sedarchive.nulls.noise import noise_overlaps
from sedarchive.tables import Database

ScopeSize = tuple[str, int]
_OF = "WHERE run = ? AND scope = ? AND window_size = ? ORDER BY step"
_WINDOWS = f"SELECT step, edge_ratio, p_eff, signal_rank FROM windows {_OF}"
_SIGMAS = f"SELECT sigma FROM window_sigmas {_OF}, k"


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
    gaps: GapWindows


def read_standing(database: Database, run: str, pairs: Sequence[ScopeSize]) -> list[StandingWindows]:
    """Windows of some scopes and sizes, with what their nulls follow from."""
    if not pairs:
        return []
    norms = _by_scope(database.rows("SELECT scope, norm FROM updates WHERE run = ? ORDER BY scope, step", [run]).rows)
    found = []
    for scope, size in pairs:
        step, edge_ratio, p_eff, rank = zip(*database.rows(_WINDOWS, [run, scope, size]).rows, strict=True)
        sigma = np.array(database.rows(_SIGMAS, [run, scope, size]).rows, dtype=np.float64).reshape(-1, size)
        gaps = GapWindows(np.array(step), sigma, np.array(rank, dtype=np.float64))
        observed = np.array(edge_ratio, dtype=np.float64)
        found.append(StandingWindows(scope, size, norms[scope], gaps.step, observed, p_eff[0], gaps))
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


def unit_null(size: int, p_eff: float, cache: NullCache) -> UnitNull:
    """Null of ``size`` updates of equal norms."""
    bands = null_bands(np.ones((1, size)), np.full(1, np.nan), p_eff, cache=cache)
    edge_ratio, high = float(bands.edge_ratio_null[0]), float(bands.edge_ratio_null_high[0])
    return UnitNull(edge_ratio, high, noise_overlaps(size, p_eff))


def null_rows(standing: Sequence[StandingWindows], executor: Executor) -> dict[str, Columns]:
    """Columns of ``windows`` and of ``window_sigmas`` that hold the nulls, with those that say whose they are.

    And the rows of ``fits`` that stand beside such a null.
    """
    parts = list(executor.map(partial(_null_rows, NullCache()), standing))
    return {table: concatenated([part[table] for part in parts]) for table in ("windows", "window_sigmas", "fits")}


def _null_rows(cache: NullCache, standing: StandingWindows) -> dict[str, Columns]:
    size = standing.size
    bands = bands_of_windows(standing.norms, size, standing.edge_ratio, standing.p_eff, cache)
    unit = unit_null(size, standing.p_eff, cache)
    windows = {"step": standing.step, **null_columns(bands, unit)}
    order = {"step": np.repeat(standing.step, size), "k": np.tile(np.arange(1, size + 1), len(standing.step))}
    sigmas = {**order, **ratio_null_columns(bands, unit)}
    history = RandomHistory(standing.norms, standing.p_eff)
    fits = as_columns(flow_rows(standing.gaps, history, has_flow_null(standing.scope)))
    found = {"windows": windows, "window_sigmas": sigmas, "fits": fits}
    return {table: _named(columns, standing) for table, columns in found.items()}


def _named(columns: Columns, standing: StandingWindows) -> Columns:
    n_rows = len(next(iter(columns.values())))
    return {"scope": np.full(n_rows, standing.scope), "window_size": np.full(n_rows, standing.size)} | columns
