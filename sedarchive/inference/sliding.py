"""Sliding correlations of a feature with a metric, beside the band that a run's largest and smallest keep to."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTHS = (7, 11)
"""Points of a sliding correlation: the authors' two."""
_FLAT = 1e-20
_CHUNK_NUMBERS = 2**22


@dataclass(frozen=True)
class SlidingBand:
    """Extremes of a feature's sliding correlations over a run, with their null."""

    r: Floats
    """At each centre (n - width + 1,); NaN where one of the two is constant or missing."""
    lowest: float
    highest: float
    """Extremes of r; NaN if there are none."""
    null_low: float
    """2.5 % quantile of the lowest in the surrogates: 95 % of runs of noise stay above it, and below the other."""
    null_high: float
    """97.5 % quantile of the highest in the surrogates."""
    p_low: float
    """Share of surrogates whose lowest is as low."""
    p_high: float
    """Share of surrogates whose highest is as high."""


def sliding_bands(features: Floats, metric: Floats, width: int) -> list[SlidingBand]:
    """Slide windows of ``width`` points over features and a metric.

    Parameters
    ----------
    features
        One series a row (m, n); NaN where it has no value.
    metric
        Versions of the metric at the same points (v, n): itself, then its surrogates.
    width
        Points of a window, at least 3.
    """
    n_centres = max(features.shape[1] - width + 1, 0)
    extremes = np.full((2, len(features), len(metric)), np.nan)
    r = np.full((len(features), n_centres), np.nan)
    if n_centres:
        x = _standardised(features, width)
        at_once = max(_CHUNK_NUMBERS // (n_centres * width), 1)
        for first in range(0, len(metric), at_once):
            y = _standardised(metric[first : first + at_once], width)
            for row, windows in enumerate(x):
                found = np.einsum("vnw,nw->vn", y, windows)
                extremes[:, row, first : first + at_once] = _extremes(found)
                r[row] = found[0] if first == 0 else r[row]
    return [_band(r[row], extremes[0, row], extremes[1, row]) for row in range(len(features))]


def _standardised(rows: Floats, width: int) -> Floats:
    """Windows (m, n, width) of mean 0 and sum of squares 1; NaN where constant or missing."""
    scale = np.nanmax(np.abs(rows), axis=1, initial=0.0, keepdims=True, where=np.isfinite(rows))
    windows = sliding_window_view(rows / np.where(scale > 0, scale, 1.0), width, axis=1)
    centred = windows - windows.mean(axis=2, keepdims=True)
    energy = (centred**2).sum(axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(energy > _FLAT, centred / np.sqrt(energy), np.nan)


def _extremes(r: Floats) -> Floats:
    """Smallest and largest of each row (2, v); NaN for a row without values."""
    known = np.isfinite(r)
    low, high = np.where(known, r, np.inf).min(axis=1), np.where(known, r, -np.inf).max(axis=1)
    return np.where(np.isfinite([low, high]), [low, high], np.nan)


def _band(r: Floats, low: Floats, high: Floats) -> SlidingBand:
    if np.isnan(low[0]) or len(low) < 2:
        return SlidingBand(r, float(low[0]), float(high[0]), *([float("nan")] * 4))
    null_low, null_high = np.nanquantile(low[1:], 0.025), np.nanquantile(high[1:], 0.975)
    p_low = (1 + np.count_nonzero(low[1:] <= low[0])) / len(low)
    p_high = (1 + np.count_nonzero(high[1:] >= high[0])) / len(high)
    return SlidingBand(r, float(low[0]), float(high[0]), float(null_low), float(null_high), p_low, p_high)
