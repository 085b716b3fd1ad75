"""A second null for the edge ratio: random updates that keep the norms and the lag-1 correlation of the real ones.

Momentum, and checkpoints closer than its memory, make consecutive updates alike; that alone gives a window a first
direction and an edge. Here each update is c times the one before plus a random one, c its measured cosine with it, so
that updates further apart correlate by the product of the cosines between them. The random parts are drawn in p_eff
dimensions by Bartlett's decomposition.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 99
SEED = 0
_LARGEST_COSINE = 0.999


@dataclass(frozen=True)
class MomentumBands:
    """Null of n windows' edge ratio; NaN where it cannot be drawn."""

    median: Floats
    """(n,)."""
    high: Floats
    """95 % quantile (n,)."""
    p: Floats
    """(1 + draws whose edge ratio is as large) / (1 + draws) (n,); NaN also where the edge ratio is."""


def momentum_bands(
    norms: Floats, cosines: Floats, edge_ratio: Floats, p_eff: float, draws: int = DRAWS, seed: int = SEED
) -> MomentumBands:
    """Null of the largest ratio of consecutive singular values of windows.

    Parameters
    ----------
    norms
        Norms of the updates of each window (n, W).
    cosines
        Cosine of each update with the one before (n, W), whose first column, of an update outside, is not used.
    edge_ratio
        What was observed (n,).
    p_eff
        Effective dimension of the updates; at W or less no null is drawn.
    draws, seed
        Random windows, the same for all n; seed of numpy's generator.
    """
    n_windows, size = norms.shape
    known = np.isfinite(norms).all(axis=1) & (norms > 0).all(axis=1) & np.isfinite(cosines[:, 1:]).all(axis=1)
    largest = np.full((n_windows, draws), np.nan)
    if p_eff > size:
        noise = _bartlett(size, p_eff, draws, seed)
        for at in np.flatnonzero(known):
            largest[at] = _edge_ratios(noise, norms[at], cosines[at])
    reached = (largest >= edge_ratio[:, None]).sum(axis=1)
    drawn = np.isfinite(largest).all(axis=1)
    median, high = np.full(n_windows, np.nan), np.full(n_windows, np.nan)
    median[drawn], high[drawn] = np.quantile(largest[drawn], [0.5, 0.95], axis=1)
    return MomentumBands(median, high, np.where(drawn & np.isfinite(edge_ratio), (1 + reached) / (1 + draws), np.nan))


def _bartlett(size: int, p_eff: float, draws: int, seed: int) -> Floats:
    """Triangular factors (draws, W, W) of Gram matrices of W random vectors in p_eff dimensions, of length about 1."""
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.standard_normal((draws, size, size)), -1)
    inside = np.arange(size)
    factor[:, inside, inside] = np.sqrt(rng.chisquare(p_eff - inside, (draws, size)))
    return np.asarray(factor / np.sqrt(p_eff))


def _edge_ratios(noise: Floats, norms: Floats, cosines: Floats) -> Floats:
    """Largest ratios (draws,) of one window's random updates."""
    rows = _remembering(cosines) @ noise
    rows *= norms[:, None] / np.linalg.norm(rows, axis=2, keepdims=True)
    energy = np.linalg.eigvalsh(rows @ rows.swapaxes(1, 2))[:, ::-1]
    sigma = np.sqrt(np.maximum(energy, 1e-14 * energy[:, :1]))
    largest: Floats = (sigma[:, :-1] / sigma[:, 1:]).max(axis=1)
    return largest


def _remembering(cosines: Floats) -> Floats:
    """Matrix (W, W) that makes u_i = c_i u_(i-1) + sqrt(1 - c_i²) w_i of random w."""
    size = len(cosines)
    c = np.clip(cosines, -_LARGEST_COSINE, _LARGEST_COSINE)
    matrix = np.zeros((size, size))
    matrix[0, 0] = 1.0
    for at in range(1, size):
        matrix[at] = c[at] * matrix[at - 1]
        matrix[at, at] = np.sqrt(1 - c[at] ** 2)
    return matrix
