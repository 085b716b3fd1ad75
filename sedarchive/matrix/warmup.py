"""Random matrices with given singular values: W0 = U diag(s sigma) V^T with Haar U and V.

The spectral warm-up of "The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778).
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SCALES = ("frobenius", "spectral", "none")
DEFAULT_SPREAD = 0.02
"""Standard deviation of the entries of a default initialisation."""
_LEAST = 1e-7
"""Share of the largest below which a singular value is not resolved."""


def haar_columns(rng: np.random.Generator, n: int, r: int) -> Floats:
    """First ``r`` columns (n, r) of a random orthogonal matrix, r <= n.

    The signs of the diagonal of R are fixed: without that, QR of a Gaussian matrix does not give the Haar measure.
    """
    q, upper = np.linalg.qr(rng.standard_normal((n, r)))
    return np.asarray(q * np.where(np.diagonal(upper) < 0, -1.0, 1.0))


def resampled(sigma: Floats, r: int) -> Floats:
    """Singular values (r,) of a matrix of another size: log sigma interpolated over the relative rank.

    Parameters
    ----------
    sigma : ndarray of float64, shape (n,)
        Descending. As many are wanted: they are returned as they are.
    r
        How many are wanted.
    """
    if r == len(sigma) or not sigma.any():
        return np.resize(sigma, r)
    rank, wanted = ((np.arange(n) + 0.5) / n for n in (len(sigma), r))
    return np.asarray(np.exp(np.interp(wanted, rank, np.log(np.maximum(sigma, _LEAST * sigma[0])))))


def norm_of_default(scale: str, shape: tuple[int, int]) -> float:
    """Frobenius or spectral norm that a matrix (m, n) of independent N(0, 0.02^2) has, but for its randomness."""
    m, n = shape
    return DEFAULT_SPREAD * (math.sqrt(m * n) if scale == "frobenius" else math.sqrt(m) + math.sqrt(n))


def norm_of(scale: str, matrix: Floats) -> float:
    """Frobenius or spectral norm of a matrix (m, n)."""
    return float(np.linalg.norm(matrix, "fro" if scale == "frobenius" else 2))


def scaled(sigma: Floats, scale: str, norm: float) -> Floats:
    """Singular values (r,) times the one number that gives their matrix a norm; as they are for the scale ``none``."""
    own = 1.0 if scale == "none" else float(np.linalg.norm(sigma) if scale == "frobenius" else sigma.max(initial=0.0))
    return sigma if scale == "none" or own == 0 else sigma * (norm / own)


def matrix_with(sigma: Floats, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Random matrix (m, n) with singular values (r,), r = min(m, n)."""
    m, n = shape
    left, right = haar_columns(rng, m, len(sigma)), haar_columns(rng, n, len(sigma))
    return np.asarray((left * sigma) @ right.T)
