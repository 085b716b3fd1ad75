"""The spectral edge of one window: every scalar that follows from its singular values alone.

All functions take ``sigma`` (..., W) in descending order, NaN where a value is not resolved, and are vectorised over
the leading axes. Unresolved values count as 0 in sums. Positions k are 1-based; 0 means that there is none.

Sources: "Spectral Edge Dynamics" (arXiv 2603.15678), Definitions 1 to 5, figure 1A and the authors' scripts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_MAIN_SHARE = 0.95
_ROUNDING = 1e-12


@dataclass(frozen=True)
class EdgeScalars:
    """Scalars of windows; every array has the shape of the leading axes of ``sigma``. NaN: not defined."""

    edge_ratio: Floats
    """max_k sigma_k / sigma_{k+1}, unrestricted (Definition 3)."""
    edge_k: Counts
    """Where the largest ratio is; 0 if no ratio is resolved."""
    signal_rank: Counts
    """argmax of the ratio over k with sigma_{k+1} >= mp_edge; 0 if there is none (figure 1 caption)."""
    signal_rank_mp: Counts
    """argmax of the ratio over k with sigma_k >= mp_edge; 0 if there is none."""
    signal_rank_argmax: Counts
    """argmax of the ratio, unrestricted (theory script)."""
    signal_rank_weighted: Counts
    """argmax of (sigma_k / sum sigma) (sigma_k / sigma_{k+1})."""
    gap: Floats
    """sigma_k - sigma_{k+1} at ``signal_rank`` (Definition 5)."""
    noise: Floats
    """nu: root mean square of an entry of the noise; nu² p is the mean sigma² of the window's bottom half."""
    mp_edge: Floats
    """Marchenko-Pastur upper edge sqrt(nu² p) (1 + sqrt(W / p)), in units of sigma."""
    bbp_ratio: Floats
    """sigma_W over the detection threshold nu (p (W - 1))^(1/4)."""
    pc1_share: Floats
    """sigma_1² / sum sigma², 0 to 1."""
    k95: Counts
    """Smallest k whose leading sigma² hold 95 % of the sum; 0 if the sum is 0 or unknown."""


def edge_scalars(sigma: Floats, n_elements: int) -> EdgeScalars:
    """Return the scalars of windows from their singular values.

    Parameters
    ----------
    sigma
        Singular values (..., W), W >= 2, descending, NaN where unresolved; all NaN for a window without values.
    n_elements
        p, the number of parameters of the scope.

    Raises
    ------
    ValueError
        If a window has fewer than two updates, or there is no element.
    """
    if sigma.shape[-1] < 2 or n_elements < 1:
        raise ValueError(f"windows of {sigma.shape[-1]} updates of {n_elements} elements have no edge; take at least 2")
    ratio = sigma_ratios(sigma)
    edge = mp_edge(sigma, n_elements)
    following = np.concatenate([sigma[..., 1:], np.full_like(sigma[..., :1], np.nan)], axis=-1)
    rank = argmax_rank(ratio, following >= edge[..., None])
    edge_k = argmax_rank(ratio)
    return EdgeScalars(
        edge_ratio=_at_rank(ratio, edge_k),
        edge_k=edge_k,
        signal_rank=rank,
        signal_rank_mp=argmax_rank(ratio, sigma >= edge[..., None]),
        signal_rank_argmax=edge_k,
        signal_rank_weighted=argmax_rank(ratio * sigma),
        gap=_at_rank(sigma - following, rank),
        noise=noise_level(sigma, n_elements),
        mp_edge=edge,
        bbp_ratio=_quotient(sigma[..., -1], detection_threshold(sigma, n_elements)),
        pc1_share=_quotient(_energy(sigma)[..., 0], _energy(sigma).sum(axis=-1)),
        k95=main_rank(sigma),
    )


def sigma_ratios(sigma: Floats) -> Floats:
    """Return sigma_k / sigma_{k+1} (..., W); NaN in the last place and where either is unresolved or both are 0."""
    ratio = np.full_like(sigma, np.nan)
    ratio[..., :-1] = _quotient(sigma[..., :-1], sigma[..., 1:])
    return ratio


def argmax_rank(score: Floats, allowed: NDArray[np.bool_] | None = None) -> Counts:
    """Return the 1-based position of the largest score (...); NaN never wins, 0 if none is allowed, ties: the first."""
    usable = np.isfinite(score) if allowed is None else np.isfinite(score) & allowed
    best = np.argmax(np.where(usable, score, -np.inf), axis=-1) + 1
    return np.where(usable.any(axis=-1), best, 0).astype(np.int64)


def noise_level(sigma: Floats, n_elements: int) -> Floats:
    """Return nu (...): nu² p is the mean of sigma² over the bottom half (0-based positions W // 2 and after)."""
    bottom = _energy(sigma)[..., sigma.shape[-1] // 2 :]
    level: Floats = np.sqrt(bottom.mean(axis=-1) / n_elements)
    return level


def mp_edge(sigma: Floats, n_elements: int) -> Floats:
    """Return the Marchenko-Pastur edge (...) in units of sigma; with W << p, the RMS of the bottom half."""
    n_updates = sigma.shape[-1]
    edge: Floats = noise_level(sigma, n_elements) * (n_elements**0.5 + n_updates**0.5)
    return edge


def detection_threshold(sigma: Floats, n_elements: int) -> Floats:
    """Return d_crit = nu (p (W - 1))^(1/4) (...), the threshold of Baik, Ben Arous and Péché."""
    threshold: Floats = noise_level(sigma, n_elements) * (n_elements * (sigma.shape[-1] - 1)) ** 0.25
    return threshold


def main_rank(sigma: Floats) -> Counts:
    """Return the smallest k (...) whose leading sigma² reach 95 % of the sum; 0 if the sum is 0 or unknown."""
    energy = _energy(sigma)
    reached = np.cumsum(energy, axis=-1)
    total = reached[..., -1:]
    first = np.argmax(reached >= total * (_MAIN_SHARE - _ROUNDING), axis=-1) + 1
    return np.where(total[..., 0] > 0, first, 0).astype(np.int64)


def _energy(sigma: Floats) -> Floats:
    """Return sigma² with unresolved values as 0; all NaN where no value is known."""
    energy = np.where(np.isnan(sigma), 0.0, sigma) ** 2
    return np.where(np.isnan(sigma).all(axis=-1, keepdims=True), np.nan, energy)


def _at_rank(values: Floats, rank: Counts) -> Floats:
    """Return values[rank - 1] along the last axis; NaN where the rank is 0."""
    found = np.take_along_axis(values, np.maximum(rank - 1, 0)[..., None], axis=-1)[..., 0]
    return np.where(rank > 0, found, np.nan)


def _quotient(numerator: Floats, denominator: Floats | NDArray[Any]) -> Floats:
    """Return numerator / denominator, NaN where the denominator is 0 or unknown."""
    quotient: Floats = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
