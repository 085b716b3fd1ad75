"""Closed-form summaries of spectra: norms, ranks, entropies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.matrix.stack import SpectraStack

Floats = NDArray[np.float64]

RANK_TOLERANCE = float(np.finfo(np.float32).eps)
"""Of the numerical rank, times the longer side, relative to sigma_1: that of float32 weights."""


@dataclass(frozen=True)
class Metrics:
    """Summaries of N spectra, an array (N,) each; NaN where not defined."""

    frobenius_norm: Floats
    spectral_norm: Floats
    """sigma_1."""
    nuclear_norm: Floats
    """Sum of sigma."""
    stable_rank: Floats
    """sum sigma² / sigma_1²."""
    entropy: Floats
    """-sum p ln p with p = sigma² / sum sigma², in nats."""
    effective_rank: Floats
    """exp(entropy)."""
    entropy_sigma: Floats
    """The same with p = sigma / sum sigma."""
    effective_rank_sigma: Floats
    participation: Floats
    """(sum sigma²)² / sum sigma^4."""
    numerical_rank: Floats
    """Number of sigma above longer side x 1.2e-7 sigma_1."""
    sigma_ratio: Floats
    """sigma_1 / sigma_2; NaN if there is no resolved sigma_2."""
    condition_number: Floats
    """sigma_1 over the smallest singular value, NaN where that is not resolved."""


def metrics_of(stack: SpectraStack, longer_side: int) -> Metrics:
    """Summarise spectra of matrices whose longer side is ``longer_side``.

    Values that are not resolved take part in sums as they are: they do not count there.

    Sources: stable rank, Rudelson and Vershynin 2007; effective rank, Roy and Vetterli 2007 (with p by sigma, as Yunis
    et al., arXiv 2408.11804); "The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778), Algorithm 2.
    """
    relative, first = stack.relative, stack.sigma[:, 0]
    energy = relative**2
    total, nuclear = energy.sum(axis=1), relative.sum(axis=1)
    entropy, entropy_sigma = _entropy(energy / total[:, None]), _entropy(relative / nuclear[:, None])
    n_values = stack.sigma.shape[1]
    return Metrics(
        frobenius_norm=first * np.sqrt(total),
        spectral_norm=first,
        nuclear_norm=first * nuclear,
        stable_rank=total,
        entropy=entropy,
        effective_rank=np.exp(entropy),
        entropy_sigma=entropy_sigma,
        effective_rank_sigma=np.exp(entropy_sigma),
        participation=total**2 / (energy**2).sum(axis=1),
        numerical_rank=(relative > longer_side * RANK_TOLERANCE).sum(axis=1).astype(np.float64),
        sigma_ratio=_inverse_of(relative, 1, stack.n_resolved),
        condition_number=_inverse_of(relative, n_values - 1, stack.n_resolved),
    )


def _entropy(share: Floats) -> Floats:
    logs = np.log(share, where=share > 0, out=np.zeros_like(share))
    entropy: Floats = -np.einsum("nk,nk->n", share, logs)
    return entropy


def _inverse_of(relative: Floats, at: int, n_resolved: NDArray[np.int64]) -> Floats:
    """1 / relative[:, at] where that value exists and is resolved."""
    inverse = np.full(len(relative), np.nan)
    if at < relative.shape[1]:
        known = n_resolved > at
        inverse[known] = 1 / relative[known, at]
    return inverse
