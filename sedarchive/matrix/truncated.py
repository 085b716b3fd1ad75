"""Power law with an exponential end, ``p(x) ~ x^-alpha exp(-rate x)`` from a given x_min on, beside the pure one.

With y = x / x_min, t = ln y and z = rate x_min the law is an exponential family in (ln y, y): its likelihood is
concave in (alpha, z), so that there is one best fit, inside or at a border, and no start to choose.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Status = Literal["ok", "pure", "exponential", "too_short"]

FEWEST = 10
"""Fewest values of a tail to which the law is fitted."""
_PANELS, _END = 16, 50.0
"""Integrals go on until the density has fallen by exp(-50), in so many panels."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_GAP_NODES, _GAP_WEIGHTS = np.polynomial.legendre.leggauss(8)
_XTOL = 1e-12
"""Of alpha and of ln z."""
_STRIDE, _MOST_STRIDES = 2.5, 24
"""In ln z: an end that sets in e^60 beyond the largest values is none."""


@dataclass(frozen=True)
class TruncatedTail:
    """Truncated power law of one tail; NaN where nothing was fitted."""

    alpha: float
    """Exponent, not below 0."""
    se: float
    """Of alpha, from the observed information, as if the values were independent and x_min were known."""
    rate: float
    """1 / x at which the exponential end sets in; 0 where the power law alone fits best."""
    ks: float
    """Kolmogorov-Smirnov distance between tail and fit."""
    p: float
    """Of the likelihood ratio against the pure power law: chi² of one degree, halved, as a rate cannot be negative."""
    status: Status


def fit_truncated(values: Floats, x_min: float) -> TruncatedTail:
    """Fit a truncated power law to the values from ``x_min`` on by maximum likelihood.

    Parameters
    ----------
    values
        (n,), positive, in any order.
    x_min
        Where the tail begins, mostly that of :func:`sedarchive.matrix.density.fit_tail`.

    Returns
    -------
    TruncatedTail
        status: ok; pure: the best rate is 0, and alpha that of the power law; exponential: the best alpha is 0;
        too_short: fewer than ten values, or all of them equal.
    """
    tail = np.sort(values[values >= x_min]) / x_min
    if not len(tail) >= FEWEST or tail[0] == tail[-1]:
        return TruncatedTail(math.nan, math.nan, math.nan, math.nan, math.nan, "too_short")
    mean = float(np.log(tail).mean()), float(tail.mean())
    alpha, z = _best(*mean)
    moments = _Moments.of(alpha, z)
    gain = 2 * len(tail) * (moments.likelihood(*mean) - _pure_likelihood(mean[0]))
    return TruncatedTail(
        alpha=alpha,
        se=_error_of(alpha, z, moments, len(tail)),
        rate=z / x_min,
        ks=_distance(tail, alpha, z),
        p=math.erfc(math.sqrt(gain / 2)) / 2 if z > 0 and gain > 0 else 1.0,
        status="pure" if z == 0 else "exponential" if alpha == 0 else "ok",
    )


def _best(mean_log: float, mean: float) -> tuple[float, float]:
    """(alpha, z) of the largest likelihood."""
    alpha = 1 + 1 / mean_log
    if alpha > 2 and mean >= (alpha - 1) / (alpha - 2):
        return alpha, 0.0  # more would be above the largest value already: no end is to be seen
    z = 1 / (mean - 1)
    if _Moments.of(0.0, z).mean_log <= mean_log:
        return 0.0, z
    return _inside(mean_log, mean)


def _inside(mean_log: float, mean: float) -> tuple[float, float]:
    """Root of both slopes: of that in alpha for every z, and of that in z along those.

    Both fall all the way. At the largest z here, that of the exponential law, the slope in z is below 0.
    """
    steepest = 1 + 1 / mean_log

    def alpha_at(z: float) -> float:
        return _root(lambda alpha: _Moments.of(alpha, z).mean_log - mean_log, 0.0, steepest)

    def slope(log_z: float) -> float:
        z = math.exp(log_z)
        return _Moments.of(alpha_at(z), z).mean - mean

    largest = -math.log(mean - 1)
    for low in largest - _STRIDE * np.arange(1, _MOST_STRIDES + 1):
        if slope(low) >= 0:
            z = math.exp(_root(slope, float(low), float(low) + _STRIDE))
            return alpha_at(z), z
    return steepest, 0.0


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function is 0; the end next to it, where rounding puts that outside."""
    from scipy.optimize import brentq  # slow to import, and many need no fit

    if falling(low) <= 0:
        return low
    return high if falling(high) >= 0 else float(brentq(falling, low, high, xtol=_XTOL))


@dataclass(frozen=True)
class _Moments:
    """Integral of y^-alpha exp(-z y) from 1 on, and moments of ln y and y under that law."""

    alpha: float
    z: float
    log_integral: float
    mean_log: float
    mean: float
    var_log: float
    cov: float
    var: float

    @classmethod
    def of(cls, alpha: float, z: float) -> "_Moments":
        end = _end_of(alpha, z)
        panel = end / _PANELS
        t = ((np.arange(_PANELS)[:, None] + (_NODES + 1) / 2) * panel).ravel()
        exponent = _exponent(t, alpha, z)
        top = float(exponent.max())
        weight = np.tile(_WEIGHTS, _PANELS) * (panel / 2) * np.exp(exponent - top)
        total = float(weight.sum())
        share, y = weight / total, np.exp(t)
        mean_log, mean = float((share * t).sum()), float((share * y).sum())
        from_log, from_mean = t - mean_log, y - mean
        return cls(
            *(alpha, z, math.log(total) + top - z, mean_log, mean),
            var_log=float((share * from_log**2).sum()),
            cov=float((share * from_log * from_mean).sum()),
            var=float((share * from_mean**2).sum()),
        )

    def likelihood(self, mean_log: float, mean: float) -> float:
        """Mean logarithm of the density of y over a sample with these means."""
        return -self.alpha * mean_log - self.z * mean - self.log_integral


def _exponent(t: Floats, alpha: float, z: float) -> Floats:
    """Logarithm of the density of t = ln y, but for a constant; -inf is far out."""
    with np.errstate(over="ignore"):
        exponent: Floats = (1 - alpha) * t - z * np.expm1(t)
    return exponent


def _end_of(alpha: float, z: float) -> float:
    """Return the t by which the density has fallen by exp(-50)."""
    by_power = _END / (alpha - 1) if alpha > 1 else math.inf
    if z == 0:
        return by_power
    by_rate = math.log1p(_END / z)
    if alpha < 1:  # it rises first
        by_rate = math.log1p((_END + 2 * (1 - alpha) * by_rate) / z)
    return min(by_power, by_rate)


def _pure_likelihood(mean_log: float) -> float:
    """Of the power law alone, at its best exponent."""
    alpha = 1 + 1 / mean_log
    return math.log(alpha - 1) - alpha * mean_log


def _error_of(alpha: float, z: float, moments: _Moments, n: int) -> float:
    if z == 0:
        return (alpha - 1) / math.sqrt(n)
    determinant = moments.var_log * moments.var - moments.cov**2
    if alpha == 0 or determinant <= 0:
        return math.nan
    return math.sqrt(moments.var / determinant / n)


def _distance(tail: Floats, alpha: float, z: float) -> float:
    """Largest |F_fit(y_j) - j / n| over the ascending tail, the integrals between neighbours by quadrature."""
    if z == 0:
        above = np.exp(-(alpha - 1) * np.log(tail))
    else:
        t = np.append(np.log(tail), max(_end_of(alpha, z), math.log(tail[-1])) + 1.0)
        half = np.diff(t) / 2
        inner = (t[:-1] + half)[:, None] + half[:, None] * _GAP_NODES
        top = float(_exponent(t, alpha, z).max())
        between = half * (np.exp(_exponent(inner, alpha, z) - top) * _GAP_WEIGHTS).sum(axis=1)
        last = np.linspace(t[-2], t[-1], 4 * _PANELS + 1)
        width = np.diff(last) / 2
        nodes = (last[:-1] + width)[:, None] + width[:, None] * _GAP_NODES
        between[-1] = (width * (np.exp(_exponent(nodes, alpha, z) - top) * _GAP_WEIGHTS).sum(axis=1)).sum()
        above = np.cumsum(between[::-1])[::-1]
        above = above / above[0]
    return float(np.abs(1 - above - np.arange(len(tail)) / len(tail)).max())
