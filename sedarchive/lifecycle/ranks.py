"""Slopes through few points by ranks: Theil-Sen with its exact Kendall interval, and the Mann-Kendall test."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]

EXACT_UP_TO = 40
"""Longest sample whose Kendall distribution is counted; beyond, its normal limit."""


@dataclass(frozen=True)
class RankSlope:
    """Median slope of all pairs of points; NaN where there is none."""

    slope: float
    low: float
    """Ends of the interval that inverts Kendall's test; -inf and inf where n is too small for the level."""
    high: float


@dataclass(frozen=True)
class Trend:
    """Mann-Kendall test of a series."""

    tau: float
    """S / (n (n - 1) / 2): 1 if every later value is larger."""
    p: float
    """Two-sided."""
    n: int


def theil_sen(x: Floats, y: Floats, level: float = 0.95, critical: float | None = None) -> RankSlope:
    """Median slope of y on x (n,), pairs of equal x left out.

    Source: Sen 1968; the interval needs no law of the errors, and holds for few points.

    Parameters
    ----------
    x, y
        The points, finite.
    level
        Of the interval, where errors are independent.
    critical
        Kendall's score from which on a slope is excluded, where they are not; None: as ``level`` says.
    """
    first, second = np.triu_indices(len(x), 1)
    apart = x[first] != x[second]
    slopes = np.sort((y[second] - y[first])[apart] / (x[second] - x[first])[apart])
    if not len(slopes):
        return RankSlope(math.nan, math.nan, math.nan)
    reach = _critical(len(x), level) if critical is None else critical
    outer = int((len(slopes) - reach) // 2) if reach <= len(slopes) else -1
    low, high = (slopes[outer], slopes[len(slopes) - 1 - outer]) if outer >= 0 else (-math.inf, math.inf)
    return RankSlope(float(np.median(slopes)), float(low), float(high))


def mann_kendall(series: Floats) -> Trend:
    """Test a series (n,) of independent values for a trend; exact up to 40 values without ties.

    Source: Mann 1945, Kendall 1975.
    """
    n = len(series)
    if n < 3:
        return Trend(math.nan, math.nan, n)
    score = kendall_score(series)
    tau = score / (n * (n - 1) / 2)
    if n <= EXACT_UP_TO:
        share = _scores(n)
        reach = np.abs(2 * np.arange(len(share)) - (len(share) - 1)) >= abs(score)
        return Trend(tau, float(share[reach].sum()), n)
    return Trend(tau, float(2 * ndtr(-max(abs(score) - 1, 0) / score_spread(n))), n)


def mean_ranks(values: Floats) -> Floats:
    """Ranks (n,) from 1; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def kendall_score(series: Floats) -> int:
    """Pairs of a series (n,) whose later value is larger, less those whose later value is smaller."""
    first, second = np.triu_indices(len(series), 1)
    return int(np.sign(series[second] - series[first]).sum())


def score_spread(n: int) -> float:
    """Standard deviation of Kendall's score of n independent values."""
    return math.sqrt(n * (n - 1) * (2 * n + 5) / 18)


@lru_cache(maxsize=64)
def _scores(n: int) -> Floats:
    """Probability of each number of discordant pairs (0 to n (n - 1) / 2) of n points in random order."""
    share = np.ones(1)
    for length in range(2, n + 1):
        share = np.convolve(share, np.full(length, 1 / length))
    return share


def _critical(n: int, level: float) -> float:
    """Smallest score whose two-sided probability P(|S| >= score) is at most 1 - level; inf if there is none."""
    if n > EXACT_UP_TO:
        return float(math.ceil(ndtri((1 + level) / 2) * score_spread(n)))
    share = _scores(n)
    scores = np.abs(2 * np.arange(len(share)) - (len(share) - 1))
    for score in np.unique(scores):
        if share[scores >= score].sum() <= 1 - level:
            return float(score)
    return math.inf
