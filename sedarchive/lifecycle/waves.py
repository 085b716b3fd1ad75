"""Waves of compression: when each layer is compressed, and how fast that travels through depth.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) names compression waves and their velocity; it does
not publish how arrival and velocity are found. Regressing layer on noisy arrival attenuates the velocity (true 0.020,
found 0.010), so slowness, d arrival / d layer, is fitted, and the velocity is its inverse.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.leads import Line, fit_line
from sedarchive.lifecycle.ranks import RankSlope, theil_sen

Floats = NDArray[np.float64]

THRESHOLD = 0.5
"""Share of a layer's largest compression at which it has arrived."""


def compression(stable_rank: Floats) -> Floats:
    """1 - stable rank / stable rank at the first step (L, T)."""
    return np.asarray(1 - stable_rank / stable_rank[:, :1])


def arrivals(steps: Floats, compressed: Floats, least: Floats, threshold: float = THRESHOLD) -> Floats:
    """Step at which each layer first reaches a share of its largest compression, interpolated linearly.

    Parameters
    ----------
    steps
        Ascending (T,), from that from which compression is counted.
    compressed
        Compression of each layer (L, T), 0 at the first step.
    least
        A layer whose largest compression is not above this has no arrival (L,): the reach of its null.

    Returns
    -------
    ndarray
        (L,); NaN where there is no arrival.
    """
    found = np.full(len(compressed), np.nan)
    for layer, series in enumerate(compressed):
        largest = np.nanmax(series) if np.isfinite(series).any() else np.nan
        if not largest > least[layer]:
            continue
        at = int(np.flatnonzero(series >= threshold * largest)[0])
        before = series[at - 1]
        share = (threshold * largest - before) / (series[at] - before)
        found[layer] = steps[at - 1] + share * (steps[at] - steps[at - 1])
    return found


@dataclass(frozen=True)
class Wave:
    """How arrival depends on layer."""

    line: Line
    """Least squares of arrival (steps) on layer; Student's t interval."""
    ranks: RankSlope
    """The same by the median of all pairs."""
    velocity: float
    """1 / slope of the line [layers/step]; NaN where the interval of the slope contains 0."""
    velocity_low: float
    velocity_high: float
    status: str
    """ok; few (n < 10); three_points; too_few; simultaneous (the interval of the slope contains 0: no velocity)."""


def fit_wave(layers: Floats, arrival: Floats) -> Wave:
    """Fit the slowness of a wave through layers (L,) that arrived at ``arrival`` (L,), NaN where they did not."""
    known = np.isfinite(arrival)
    x, y = layers[known], arrival[known]
    line, ranks = fit_line(x, y), theil_sen(x, y)
    if line.status in ("too_few", "constant"):
        status = "simultaneous" if line.status == "constant" else "too_few"
        return Wave(line, ranks, math.nan, math.nan, math.nan, status)
    if line.slope_low <= 0 <= line.slope_high:
        return Wave(line, ranks, math.nan, math.nan, math.nan, "simultaneous")
    return Wave(line, ranks, 1 / line.slope, 1 / line.slope_high, 1 / line.slope_low, line.status)
