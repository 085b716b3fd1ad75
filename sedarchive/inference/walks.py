"""Series of rolling windows of a random walk: what methods that look at a whole series find in noise.

The updates of the walk have given norms and independent random directions in p_eff dimensions. Unlike the null of one
window (:mod:`sedarchive.nulls.bands`), consecutive windows share all updates but one, so that the series is as smooth
as that of a run.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from numpy.typing import NDArray

from sedarchive.rolling.modes import RESOLUTION

Floats = NDArray[np.float64]

_EXPLICIT_DIMENSIONS = 128
_EXPLICIT_PER_UPDATE = 32


def walk_sigmas(norms: Floats, p_eff: float, window_size: int, draws: int, seed: int = 0) -> Iterator[Floats]:
    """Yield the singular values of all windows of each of some random walks.

    Parameters
    ----------
    norms
        Norms of a run's updates (n_updates,), in order.
    p_eff
        Effective dimension. Up to 32 W (128 at least) the directions are drawn, p_eff rounded to a whole number; above,
        only their cosines are, independent with variance 1 / p_eff, which moves sigma² by a part of W / p_eff, 3 %.
    window_size
        W, in updates.
    draws, seed
        Number of walks and seed.

    Yields
    ------
    numpy.ndarray
        (n_updates - W + 1, W), descending; NaN where a norm is not finite, and below 1e-7 of the largest.
    """
    generator = np.random.default_rng(seed)
    scale = _Scale.of(norms, window_size)
    for _ in range(draws):
        yield _window_sigmas(scale, _cosines(len(norms), window_size, p_eff, generator))


def ratio_series(sigma: Floats, k: int) -> Floats:
    """Return r_k (n,) of windows with singular values `sigma` (n, W); k counts from 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = sigma[:, k - 1] / sigma[:, k]
    return ratio


def _cosines(n_updates: int, width: int, p_eff: float, generator: np.random.Generator) -> Floats:
    """Return the cosines (width, n_updates) of updates i and i + d; the last d of row d mean nothing."""
    if p_eff > max(_EXPLICIT_DIMENSIONS, _EXPLICIT_PER_UPDATE * width):
        drawn: Floats = generator.standard_normal((width, n_updates)) / np.sqrt(p_eff)
        drawn[0] = 1.0
        return drawn
    directions = generator.standard_normal((n_updates, max(round(p_eff), 1)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = np.zeros((width, n_updates))
    for distance in range(min(width, n_updates)):
        there = n_updates - distance
        cosines[distance, :there] = np.einsum("ij,ij->i", directions[:there], directions[distance:])
    return cosines


@dataclass(frozen=True)
class _Scale:
    """What the norms of a run make of cosines."""

    products: Floats
    """Product of the norms of the updates i and i + d at [i, d] (n_updates, W); 0 beyond the last."""
    finite: NDArray[np.bool_]
    """Whether all norms of each window are (n,)."""

    @classmethod
    def of(cls, norms: Floats, size: int) -> "_Scale":
        known = np.isfinite(norms)
        padded = np.concatenate([np.where(known, norms, 1.0), np.zeros(size - 1)])
        finite = sliding_window_view(known, size).all(axis=1) if len(norms) >= size else known[:0]
        return cls(padded[: len(norms), None] * sliding_window_view(padded, size), np.asarray(finite))


def _window_sigmas(scale: _Scale, cosines: Floats) -> Floats:
    """Return the singular values (n, W) of all windows, from cosines (W, n_updates)."""
    if not len(scale.finite):
        return np.empty((0, len(cosines)))
    band = np.ascontiguousarray(cosines.T)
    band *= scale.products
    energy = np.linalg.eigvalsh(windows_of_band(band), UPLO="L")[:, ::-1]
    sigma: Floats = np.sqrt(np.maximum(energy, 0.0))
    sigma[~(scale.finite[:, None] & (sigma > RESOLUTION * sigma[:, :1]))] = np.nan
    return sigma


def windows_of_band(band: Floats) -> Floats:
    """Return the Gram matrices of all windows as a view of a band of products.

    Parameters
    ----------
    band
        Product of the updates i and i + d at [i, d] (n_updates, W), in C order; beyond the last update anything.

    Returns
    -------
    array
        (n_updates - W + 1, W, W), of which only the lower triangles mean anything: in them the product of the updates
        i + a and i + b, a <= b, lies a (W - 1) + b elements behind that of update i with itself.
    """
    n_updates, size = band.shape
    unit = band.itemsize
    strides = (size * unit, unit, (size - 1) * unit)
    return as_strided(band, (n_updates - size + 1, size, size), strides, writeable=False)
