"""Whether a series grows or falls over the checkpoints: the Mann-Kendall test of autocorrelated values.

Neighbouring checkpoints are alike, so that the test of independent values finds a trend in half of all slow noise. Here
the noise is a first-order process. Its correlation is that of what a cubic leaves of the series, so that a bent trend
is not taken for noise, corrected for what the cubic takes away with it, plus one standard error: the variance of the
score and the effective number of points follow from it (Hamed and Rao 1998, with the process in place of single
autocorrelations). Where fewer than ten effective points are left there is no p: the series might be slow noise.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import matmul_toeplitz
from scipy.special import stdtr, stdtrit

from sedarchive.inference.correlation import FEWEST_EFFECTIVE, lag_one
from sedarchive.inference.trends import residuals, trend_basis
from sedarchive.lifecycle.ranks import kendall_score, score_spread, theil_sen

Floats = NDArray[np.float64]

LONGEST = 800
"""Points of a series that are compared pair by pair; longer ones are thinned evenly."""
FEWEST = 10
"""Points below which nothing is said."""
_DEGREE = 3
_CORRELATIONS = np.concatenate([np.arange(-0.5, 0.85, 0.1), [0.9, 0.93, 0.96, 0.98, 0.99, 0.995]])


@dataclass(frozen=True)
class SlowTrend:
    """Trend of a series of correlated values; NaN where there is none."""

    n: int
    """Points compared."""
    status: str
    """ok; few_effective (fewer than 10 effective points: no p, no interval); constant; too_few (n < 10)."""
    tau: float = math.nan
    """Mann-Kendall: 1 if every later value is larger, -1 if every one is smaller."""
    p: float = math.nan
    """Two-sided."""
    rate: float = math.nan
    """Median slope of all pairs (Sen)."""
    rate_low: float = math.nan
    """Ends of the interval that inverts the test."""
    rate_high: float = math.nan
    lag_one: float = math.nan
    """Correlation of the noise of neighbouring points, on the safe side."""
    n_eff: float = math.nan
    """Effective points."""


def slow_trend(steps: Floats, series: Floats) -> SlowTrend:
    """Test a series (n,) at ascending steps for a trend.

    The correlation is that of one checkpoint to the next, however far apart; the rate is per step.
    """
    every = -(-len(series) // LONGEST)
    steps, series = steps[::every], series[::every]
    n = len(series)
    if n < FEWEST:
        return SlowTrend(n, "too_few")
    if np.ptp(series) <= 1e-12 * np.abs(series).max():
        return SlowTrend(n, "constant")
    first = noise_correlation(series)
    n_eff = n * (1 - first) / (1 + first)
    score = kendall_score(series)
    tau = score / (n * (n - 1) / 2)
    if n_eff < FEWEST_EFFECTIVE:
        rate = theil_sen(steps, series).slope
        return SlowTrend(n, "few_effective", tau=tau, rate=rate, lag_one=first, n_eff=n_eff)
    spread = score_spread(n) * math.sqrt(_inflation(n, first))
    p = 2 * stdtr(n_eff - 2, -max(abs(score) - 1, 0) / spread)
    rates = theil_sen(steps, series, critical=1 + float(stdtrit(n_eff - 2, 0.975)) * spread)
    return SlowTrend(n, "ok", tau, float(p), rates.slope, rates.low, rates.high, first, n_eff)


def noise_correlation(series: Floats) -> float:
    """Correlation of neighbouring points (n,) beyond a cubic, plus one standard error; at least 0.

    Of a series that is a cubic nothing is known: the largest that is tried.
    """
    n = len(series)
    left = residuals(series[None], trend_basis(np.arange(float(n)), _DEGREE))
    if not left.any():
        return float(_CORRELATIONS[-1])
    found = max(float(np.interp(lag_one(left)[0], _expected(n), _CORRELATIONS)), 0.0)
    return min(found + math.sqrt((1 - found**2) / n), float(_CORRELATIONS[-1]))


@lru_cache(maxsize=32)
def _expected(n: int) -> Floats:
    """Correlation of neighbours in what a cubic leaves of each process that is tried: ratio of the expected sums."""
    basis = trend_basis(np.arange(float(n)), _DEGREE)
    found = []
    for correlation in _CORRELATIONS:
        along = matmul_toeplitz(correlation ** np.arange(n), basis)  # covariance times basis
        inner = basis.T @ along
        taken = (along[:-1] * basis[1:]).sum() + (basis[:-1] * along[1:]).sum()
        given = ((basis[:-1] @ inner) * basis[1:]).sum()
        found.append(((n - 1) * correlation - taken + given) / (n - np.trace(inner)))
    return np.array(found)


def _inflation(n: int, first: float) -> float:
    """How much larger the variance of Kendall's score is for a first-order process than for independent values."""
    lag = np.arange(1, n)
    ranks = 6 / np.pi * np.arcsin(first**lag / 2)  # correlation of the ranks of normal values
    weight = (n - lag) * (n - lag - 1.0) * (n - lag - 2)
    return 1 + 2 / (n * (n - 1.0) * (n - 2)) * float(weight @ ranks)
