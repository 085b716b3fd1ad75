"""Rank correlation of a spectral metric with the importance of layers, with a p-value that holds for few layers."""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from sedarchive.lifecycle.ranks import mean_ranks

Floats = NDArray[np.float64]

EXACT_UP_TO = 9
"""Most layers of which every order is counted."""
DRAWS = 9999
_LEAST = 4
_FEW = 10
_ROUNDING = 1e-12


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation; NaN where there is none."""

    rho: float
    low: float
    """Ends of the 95 % interval (Fisher's z with the variance of Bonett and Wright 2000)."""
    high: float
    p: float
    """Two-sided: exact up to nine points, else of seeded permutations."""
    null_low: float
    """2.5 % and 97.5 % quantiles over those orders."""
    null_high: float
    n: int
    status: str
    """``ok``, ``few`` (under ten points), ``constant``, ``too_few`` (under four)."""


def rank_correlation(x: Floats, y: Floats, seed: int = 0) -> RankCorrelation:
    """Correlate the ranks of two series (n,) of finite numbers; equal ones share their mean rank."""
    n = len(x)
    nothing = (math.nan,) * 6
    if n < _LEAST:
        return RankCorrelation(*nothing, n, "too_few")
    ranks_x, ranks_y = _standardised(x), _standardised(y)
    if not ranks_x.any() or not ranks_y.any():
        return RankCorrelation(*nothing, n, "constant")
    rho = float(ranks_x @ ranks_y)
    null = ranks_y[_orders(n, seed)] @ ranks_x
    extreme = int(np.count_nonzero(np.abs(null) >= abs(rho) - _ROUNDING))
    p = extreme / len(null) if n <= EXACT_UP_TO else (1 + extreme) / (1 + len(null))
    null_low, null_high = np.quantile(null, [0.025, 0.975])
    low, high = _interval(rho, n)
    return RankCorrelation(rho, low, high, p, float(null_low), float(null_high), n, "few" if n < _FEW else "ok")


def _standardised(values: Floats) -> Floats:
    """Ranks (n,) with mean 0 and squares that sum to 1; zeros if all are equal."""
    ranks = mean_ranks(values) - (len(values) + 1) / 2
    length = float(np.linalg.norm(ranks))
    return np.asarray(ranks / length if length else ranks)


@lru_cache(maxsize=4)
def _orders(n: int, seed: int) -> NDArray[np.int64]:
    """Every order of n points, or many random ones (orders, n)."""
    if n <= EXACT_UP_TO:
        return np.array(list(permutations(range(n))), dtype=np.int64)
    order = np.tile(np.arange(n, dtype=np.int64), (DRAWS, 1))
    return np.random.default_rng(seed).permuted(order, axis=1)


def _interval(rho: float, n: int) -> tuple[float, float]:
    if abs(rho) > 1 - _ROUNDING:
        return math.nan, math.nan
    reach = 1.959963984540054 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach)
