"""Spectra of random matrices: Gaussian entries as the null of every metric, and the edges of their bulk."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal

from sedarchive.matrix.stack import SpectraStack

Floats = NDArray[np.float64]

TRACY_WIDOM_95 = 0.9793
"""95 % quantile of the Tracy-Widom law for real matrices (beta = 1)."""
_MARGIN = 1.1
"""Times the edge: what is left out of the scale, so that the largest values of pure noise are not."""


def gaussian_sigmas(n_rows: int, n_cols: int, draws: int, seed: int = 0) -> Floats:
    """Singular values (draws, min(n_rows, n_cols)), descending, of matrices with independent standard normal entries.

    They are those of a bidiagonal matrix of chi variables, exactly in law: no matrix is made. Source: Dumitriu and
    Edelman 2002 (beta-Laguerre ensemble, beta = 1). The draws depend on shape and seed alone.
    """
    longer, shorter = max(n_rows, n_cols), min(n_rows, n_cols)
    rng = np.random.default_rng([seed, longer, shorter])
    return np.stack([_one_draw(rng, longer, shorter) for _ in range(draws)])


def _one_draw(rng: np.random.Generator, longer: int, shorter: int) -> Floats:
    diagonal = rng.chisquare(np.arange(longer, longer - shorter, -1))
    beside = rng.chisquare(np.arange(shorter - 1, 0, -1))
    energy = diagonal.copy()
    energy[1:] += beside
    eigenvalues = eigvalsh_tridiagonal(energy, np.sqrt(diagonal[:-1] * beside)) if shorter > 1 else energy
    sigma: Floats = np.sqrt(np.maximum(eigenvalues[::-1], 0.0))
    return sigma


@dataclass(frozen=True)
class Bulk:
    """Bulk of N spectra as that of a random matrix, an array (N,) each."""

    scale: Floats
    """Standard deviation of the entries, without the outliers."""
    edge: Floats
    """Marchenko-Pastur edge of sigma, scale (sqrt m + sqrt n)."""
    edge_tw: Floats
    """95 % quantile of the largest sigma of such a random matrix (Tracy-Widom)."""
    n_outliers: Floats
    """Number of singular values above ``edge_tw``."""
    outlier_share: Floats
    """Their share of sum sigma²."""


def bulk_of(stack: SpectraStack, n_rows: int, n_cols: int) -> Bulk:
    """Compare spectra with the bulk of a random matrix of their shape.

    The scale that the median has decides what is an outlier; the sum over the others, which varies less, then gives
    the scale. A spectrum that is no random bulk at all has a scale nevertheless. Sources: Marchenko and Pastur 1967;
    Gavish and Donoho, arXiv 1305.5870 (scale by the median); Johnstone 2001 (Tracy-Widom law of the largest).
    """
    longer, shorter = max(n_rows, n_cols), min(n_rows, n_cols)
    energy = stack.sigma**2
    first = np.sqrt(np.median(energy, axis=1) / (longer * marchenko_pastur_median(shorter / longer)))
    edge = _tracy_widom_edge(longer, shorter)
    inside = stack.sigma <= _MARGIN * edge * first[:, None]
    n_outside = shorter - inside.sum(axis=1)
    rest = np.where(inside, energy, 0.0).sum(axis=1)
    scale = np.sqrt(rest / ((longer - n_outside) * np.maximum(shorter - n_outside, 1)))
    outside = stack.sigma > edge * scale[:, None]
    return Bulk(
        scale=scale,
        edge=scale * (np.sqrt(longer) + np.sqrt(shorter)),
        edge_tw=scale * edge,
        n_outliers=outside.sum(axis=1).astype(np.float64),
        outlier_share=np.where(outside, energy, 0.0).sum(axis=1) / energy.sum(axis=1),
    )


def _tracy_widom_edge(longer: int, shorter: int) -> float:
    """95 % quantile of the largest singular value of standard normal entries."""
    root = np.sqrt(longer - 1) + np.sqrt(shorter)
    width = root * (1 / np.sqrt(max(longer - 1, 1)) + 1 / np.sqrt(shorter)) ** (1 / 3)
    return float(np.sqrt(root**2 + TRACY_WIDOM_95 * width))


@lru_cache(maxsize=256)
def marchenko_pastur_median(ratio: float) -> float:
    """Median of the Marchenko-Pastur law of unit variance, ``ratio`` = shorter / longer side in (0, 1]."""
    from scipy.integrate import quad  # a quarter of a second, which whoever makes no spectra need not wait
    from scipy.optimize import brentq

    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    middle, half = (low + high) / 2, (high - low) / 2

    def density(angle: float) -> float:
        """Of x = middle - half cos(angle), whose square roots at both edges this takes out."""
        return float(half**2 * np.sin(angle) ** 2 / (2 * np.pi * ratio * (middle - half * np.cos(angle))))

    angle = float(brentq(lambda end: quad(density, 0, end)[0] - 0.5, 0, np.pi))
    return float(middle - half * np.cos(angle))
