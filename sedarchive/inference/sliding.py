"""Sliding correlations of a feature with a metric, beside the band that a run's largest and smallest keep to."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTHS = (7, 11)
"""Points of a sliding correlation: the authors' two."""
_FLAT = 1e-20


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
    x = np.moveaxis(_standardised(features, width), 1, 0) if n_centres else np.empty((0, 0, 0))
    shape = (len(features), len(metric))
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    r = np.full((len(features), n_centres), np.nan)
    for at, part in enumerate(x):
        found = part @ _standardised(metric[:, at : at + width], width)[:, 0].T
        r[:, at] = found[:, 0]
        np.fmin(low, found, out=low)
        np.fmax(high, found, out=high)
    low, high = (np.where(np.isfinite(one), one, np.nan) for one in (low, high))
    return [_band(*extremes) for extremes in zip(r, low, high, strict=True)]


def _standardised(rows: Floats, width: int) -> Floats:
    """Windows (m, n, width) of mean 0 and sum of squares 1; NaN where constant or missing."""
    windows = sliding_window_view(rows, width, axis=1)
    centred = windows - windows.mean(axis=2, keepdims=True)
    energy = (centred**2).sum(axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(energy > _FLAT * (windows**2).sum(axis=2, keepdims=True), centred / np.sqrt(energy), np.nan)


def _band(r: Floats, low: Floats, high: Floats) -> SlidingBand:
    if np.isnan(low[0]) or len(low) < 2:
        return SlidingBand(r, float(low[0]), float(high[0]), *([float("nan")] * 4))
    null_low, null_high = np.nanquantile(low[1:], 0.025), np.nanquantile(high[1:], 0.975)
    p_low = (1 + np.count_nonzero(low[1:] <= low[0])) / len(low)
    p_high = (1 + np.count_nonzero(high[1:] >= high[0])) / len(high)
    return SlidingBand(r, float(low[0]), float(high[0]), float(null_low), float(null_high), p_low, p_high)
