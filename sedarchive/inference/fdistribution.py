"""Tails of the F and t distributions, by the continued fraction of the incomplete beta function."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_TINY = 1e-300
_MOST_TERMS = 400
_CLOSE = 1e-14
_log_gamma = np.vectorize(math.lgamma, otypes=[np.float64])


def f_tail(f: ArrayLike, df1: ArrayLike, df2: ArrayLike) -> Floats:
    """P(F >= f) for F of df1 and df2 degrees of freedom, which need not be whole; NaN where f is."""
    f, df1, df2 = (np.asarray(value, dtype=np.float64) for value in (f, df1, df2))
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.where(np.isposinf(f), 0.0, df2 / (df2 + df1 * np.maximum(f, 0.0)))
    return _beta_share(df2 / 2, df1 / 2, x)


def t_tails(t: ArrayLike, df: ArrayLike) -> Floats:
    """P(|T| >= |t|) for Student's T of df degrees of freedom."""
    return f_tail(np.square(np.asarray(t, dtype=np.float64)), 1.0, df)


def _beta_share(a: Floats, b: Floats, x: Floats) -> Floats:
    """Regularised incomplete beta function I_x(a, b), 0 <= x <= 1."""
    inside = (x > 0) & (x < 1)
    x_inside = np.where(inside, x, 0.5)
    swapped = x_inside > (a + 1) / (a + b + 2)  # the fraction converges fast on the other side only
    p, q = np.where(swapped, b, a), np.where(swapped, a, b)
    z = np.where(swapped, 1 - x_inside, x_inside)
    log_beta = _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)
    log_front = p * np.log(z) + q * np.log1p(-z) - log_beta
    share = np.exp(log_front) * _fraction(p, q, z) / p
    share = np.where(swapped, 1 - share, share)
    return np.where(inside, share, np.where(np.isnan(x), np.nan, np.where(x >= 1, 1.0, 0.0)))


def _fraction(a: Floats, b: Floats, x: Floats) -> Floats:
    """Continued fraction of I_x(a, b), by Lentz's method."""
    c = np.ones_like(x)
    d = 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d.copy()
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = np.ones_like(x)
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            change = c * d
            value = value * change
        if np.all(np.abs(change - 1) < _CLOSE):
            break
    return value


def _away_from_zero(values: Floats) -> Floats:
    return np.where(np.abs(values) < _TINY, _TINY, values)
