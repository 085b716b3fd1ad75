"""Pearson correlations of autocorrelated series: effective sample size, interval, and the authors' p-value."""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr

from sedarchive.inference.trends import residuals

Floats = NDArray[np.float64]

FEWEST_EFFECTIVE = 10.0
"""Effective pairs below which neither a p-value nor an interval is given."""
_CONTENDING = 2.5
_LARGEST_LAG_ONE_XU = 0.99
_FEWEST_EFFECTIVE_XU = 4.0


def lag_one(rows: Floats) -> Floats:
    """Autocorrelation at lag 1 of each row (m, n); NaN for a constant row.

    A missing value (NaN) makes no pair; the sum of squares stands for all values that are there.
    """
    centred = rows - _means(rows)
    centred = np.where(np.isfinite(centred), centred, 0.0)
    energy = (centred**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((centred[:, 1:] * centred[:, :-1]).sum(axis=1) / energy)


def effective_size(n: ArrayLike, first: ArrayLike, second: ArrayLike) -> Floats:
    """Effective number of pairs of two series of autocorrelation ``first`` and ``second`` at lag 1, at most n.

    n (1 - a b) / (1 + a b): that of two unrelated first-order processes (Bartlett). Too small for strongly correlated
    series of unlike autocorrelation, so that their intervals are too wide (95 % ones hold r in up to 99.5 %).
    """
    product = np.asarray(first) * np.asarray(second)
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.asarray(n) * (1 - product) / (1 + product)
    return np.where(product < 0, n, size).astype(np.float64)


def fewest_effective(features: Floats, metric: Floats, basis: Floats) -> float:
    """Least effective number of pairs of some features (m, n) with a metric (1, n), less what a basis spans."""
    sizes = [lag_one(residuals(rows, basis)) for rows in (features, metric)]
    return float(np.min(effective_size(features.shape[1], *sizes)))


def effective_size_xu(n: ArrayLike, first: ArrayLike, second: ArrayLike) -> Floats:
    """Effective number of pairs as the authors take it: n (1 - a) / (1 + a) of the more autocorrelated series."""
    largest = np.clip(np.maximum(first, second), -_LARGEST_LAG_ONE_XU, _LARGEST_LAG_ONE_XU)
    return np.asarray(np.maximum(np.asarray(n) * (1 - largest) / (1 + largest), _FEWEST_EFFECTIVE_XU))


def fisher_interval(r: ArrayLike, size: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Interval of a correlation by Fisher's z, from its effective number of pairs; NaN for 3 or fewer."""
    quantile = NormalDist().inv_cdf((1 + level) / 2)
    r, size = np.asarray(r, dtype=np.float64), np.asarray(size, dtype=np.float64)
    half = quantile / np.sqrt(np.where(size > 3, size - 3, np.nan))
    with np.errstate(divide="ignore"):
        z = np.arctanh(r)
    return np.tanh(z - half), np.tanh(z + half)


def peak_interval(z: Floats, at: NDArray[np.intp], size: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Interval of the |r| of a peak that was chosen among several lags, wider than that of one lag.

    The largest of many correlations is too large. So the interval holds all those together that might have been the
    peak, as if they were independent (Sidak): those within 2.5 standard errors of it. A peak that stands alone has the
    interval of its own lag; one of noise that of the largest of all.

    Parameters
    ----------
    z
        Fisher's z of what the peak is the largest of (m, n_lags), NaN where there is none.
    at
        Which of them is the peak (m,).
    size
        Effective pairs at the peak (m,).

    Returns
    -------
    tuple of array
        Low and high end (m,) of tanh z at the peak; NaN for 3 or fewer effective pairs.
    """
    peak = np.take_along_axis(z, at[:, None], axis=1)[:, 0]
    error = 1 / np.sqrt(np.where(size > 3, size - 3, np.nan))
    contending = (z >= (peak - _CONTENDING * error)[:, None]).sum(axis=1)
    half = error * ndtri((1 + level ** (1 / np.maximum(contending, 1))) / 2)
    return np.tanh(peak - half), np.tanh(peak + half)


def correlation_p(r: ArrayLike, size: ArrayLike) -> Floats:
    """Two-sided p-value of one correlation by Student's t, from its effective number of pairs; NaN for 2 or fewer.

    It knows nothing of a search: for the largest of many correlations it is far too small.
    """
    r, size = np.asarray(r, dtype=np.float64), np.asarray(size, dtype=np.float64)
    df = np.where(size > 2, size - 2, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = r * np.sqrt(df / np.maximum(1 - r**2, 0.0))
    return np.asarray(2 * stdtr(df, -np.abs(t)), dtype=np.float64)


def _means(rows: Floats) -> Floats:
    count = np.isfinite(rows).sum(axis=1, keepdims=True)
    return np.asarray(np.where(np.isfinite(rows), rows, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1))
