"""Series of rolling windows of a random walk: what methods that look at a whole series find in noise.

The updates of the walk have given norms and independent random directions in p_eff dimensions. Unlike the null of one
window (:mod:`sedarchive.nulls.bands`), consecutive windows share all updates but one, so that the series is as smooth
as that of a run.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sedarchive.rolling.modes import RESOLUTION

Floats = NDArray[np.float64]

_EXPLICIT_DIMENSIONS = 128
_EXPLICIT_PER_UPDATE = 32
_BATCH_ENTRIES = 2**18


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
    for _ in range(draws):
        yield _window_sigmas(norms, _cosines(len(norms), window_size, p_eff, generator))


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


def _window_sigmas(norms: Floats, cosines: Floats) -> Floats:
    size = len(cosines)
    inside = np.arange(size)
    distance, earlier = np.abs(inside[:, None] - inside), np.minimum(inside[:, None], inside)
    starts = np.arange(max(len(norms) - size + 1, 0))
    per_batch = max(_BATCH_ENTRIES // size**2, 1)
    parts = [np.empty((0, size))]
    for first in range(0, len(starts), per_batch):
        start = starts[first : first + per_batch]
        scale = norms[start[:, None] + inside]
        parts.append(_sigmas(cosines[distance, start[:, None, None] + earlier], scale))
    return np.concatenate(parts)


def _sigmas(cosines: Floats, norms: Floats) -> Floats:
    """Return the singular values (n, W) of windows with cosines (n, W, W) and norms (n, W)."""
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(norms).all(axis=1))
    scale = np.where(finite[:, None], norms, 1.0)
    energy = np.linalg.eigvalsh(cosines * scale[:, :, None] * scale[:, None, :])[:, ::-1]
    sigma = np.sqrt(np.maximum(energy, 0.0))
    resolved = finite[:, None] & (sigma > RESOLUTION * sigma[:, :1])
    return np.where(resolved, sigma, np.nan)
