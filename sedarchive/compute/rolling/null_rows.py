"""The sampled null beside windows.

A null follows from the norms of the updates, the effective dimension and the observed edge ratio, all of which are
columns: neither weights nor Gram matrices are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.rolling.standing import StandingWindows
from sedarchive.compute.rolling.window_rows import Columns
from sedarchive.nulls.bands import NullBands, NullCache, null_bands
from sedarchive.nulls.noise import NoiseOverlaps, noise_overlaps

NULL_INPUTS = ("step", "edge_ratio", "p_eff")
"""Columns of windows that the null follows from."""


def null_rows(windows: Sequence[StandingWindows]) -> list[dict[str, Columns]]:
    """Columns of ``windows`` and ``window_sigmas`` that hold the nulls, of some scopes, which share their draws."""
    cache = NullCache()
    return [_null_rows(one, cache) for one in windows]


def _null_rows(windows: StandingWindows, cache: NullCache) -> dict[str, Columns]:
    size, step, p_eff = windows.size, windows.windows["step"], windows.p_eff
    inside = np.arange(len(step))[:, None] + np.arange(size)
    bands = null_bands(windows.norms[inside], windows.windows["edge_ratio"], p_eff, cache=cache)
    unit = _unit_null(size, p_eff, cache)
    order = {"step": np.repeat(step, size), "k": np.tile(np.arange(1, size + 1), len(step))}
    found = {
        "windows": {"step": step, **_null_columns(bands, unit)},
        "window_sigmas": {**order, **_ratio_null_columns(bands, unit)},
    }
    return {table: _named(columns, windows) for table, columns in found.items()}


@dataclass(frozen=True)
class _UnitNull:
    """Null of updates of equal norms."""

    edge_ratio: float
    """Median of the largest ratio."""
    edge_ratio_high: float
    """Its 95 % quantile."""
    overlaps: NoiseOverlaps


def _unit_null(size: int, p_eff: float, cache: NullCache) -> _UnitNull:
    """Null of ``size`` updates of equal norms."""
    bands = null_bands(np.ones((1, size)), np.full(1, np.nan), p_eff, cache=cache)
    edge_ratio, high = float(bands.edge_ratio_null[0]), float(bands.edge_ratio_null_high[0])
    return _UnitNull(edge_ratio, high, noise_overlaps(size, p_eff))


def _null_columns(bands: NullBands, unit: _UnitNull) -> Columns:
    """Columns of ``windows`` that hold the null."""
    own = {name: getattr(bands, name) for name in ("edge_ratio_null", "edge_ratio_null_high", "edge_ratio_p")}
    n_windows = len(bands.edge_ratio_null)
    equal = {"edge_ratio_unit_null": unit.edge_ratio, "edge_ratio_unit_null_high": unit.edge_ratio_high}
    return own | {name: np.full(n_windows, value) for name, value in equal.items()}


def _ratio_null_columns(bands: NullBands, unit: _UnitNull) -> Columns:
    """Columns of ``window_sigmas`` that hold the null, a value for each window and k."""
    n_windows, size = bands.sigma_null.shape
    overlaps = {"overlap_null": unit.overlaps.median, "overlap_null_high": unit.overlaps.high}
    ratios = {name: _padded(getattr(bands, name), size).ravel() for name in ("ratio_null_low", "ratio_null_high")}
    repeated = {name: np.tile(values, n_windows) for name, values in overlaps.items()}
    return {"sigma_null": bands.sigma_null.ravel(), **ratios, **repeated}


def _padded(ratios: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Ratios (n, W - 1) with a last column of NaN, since sigma_W has no successor."""
    return np.concatenate([ratios, np.full((len(ratios), size - ratios.shape[1]), np.nan)], axis=1)


def _named(columns: Columns, windows: StandingWindows) -> Columns:
    n_rows = len(columns["step"])
    return {"scope": np.full(n_rows, windows.scope), "window_size": np.full(n_rows, windows.size)} | columns
