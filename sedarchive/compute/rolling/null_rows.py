"""The sampled null beside windows that stand in the tables already.

A null follows from the norms of the updates, the effective dimension and the observed edge ratio, all of which are
columns: neither weights nor Gram matrices are read.
"""

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.rolling.standing import StandingWindows
from sedarchive.compute.rolling.window_rows import Columns, UnitNull, null_columns, ratio_null_columns
from sedarchive.nulls.bands import NullBands, NullCache, null_bands
from sedarchive.nulls.noise import noise_overlaps

NULL_INPUTS = ("step", "edge_ratio", "p_eff")
"""Columns of windows that the null follows from."""
_CACHE = NullCache()
"""Draws of this process: what it holds never changes a result."""


def bands_of_windows(norms: NDArray[np.float64], size: int, edge_ratio: NDArray[np.float64], p_eff: float) -> NullBands:
    """Nulls of all windows of ``size`` updates, from the norms of all updates."""
    inside = np.arange(len(edge_ratio))[:, None] + np.arange(size)
    return null_bands(norms[inside], edge_ratio, p_eff, cache=_CACHE)


def unit_null(size: int, p_eff: float) -> UnitNull:
    """Null of ``size`` updates of equal norms."""
    bands = null_bands(np.ones((1, size)), np.full(1, np.nan), p_eff, cache=_CACHE)
    edge_ratio, high = float(bands.edge_ratio_null[0]), float(bands.edge_ratio_null_high[0])
    return UnitNull(edge_ratio, high, noise_overlaps(size, p_eff))


def null_rows(standing: StandingWindows) -> dict[str, Columns]:
    """Columns of ``windows`` and of ``window_sigmas`` that hold the nulls, with those that say whose they are."""
    size, step = standing.size, standing.windows["step"]
    bands = bands_of_windows(standing.norms, size, standing.windows["edge_ratio"], standing.p_eff)
    unit = unit_null(size, standing.p_eff)
    windows = {"step": step, **null_columns(bands, unit)}
    order = {"step": np.repeat(step, size), "k": np.tile(np.arange(1, size + 1), len(step))}
    found = {"windows": windows, "window_sigmas": {**order, **ratio_null_columns(bands, unit)}}
    return {table: _named(columns, standing) for table, columns in found.items()}


def _named(columns: Columns, standing: StandingWindows) -> Columns:
    n_rows = len(columns["step"])
    return {"scope": np.full(n_rows, standing.scope), "window_size": np.full(n_rows, standing.size)} | columns
