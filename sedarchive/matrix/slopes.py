"""Decay exponents alpha of a spectrum, ``sigma_k ~ k^-alpha``, by least squares in log-log.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) does not publish its fit. Its readings stand side by
side under their own names; absolute values are not calibrated against the paper's, and all of them depend on the shape
of the matrix already for Gaussian entries.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.matrix.stack import SpectraStack

Floats = NDArray[np.float64]

SMALLEST = 1e-6
"""Relative to sigma_1: smaller singular values are not fitted."""
FEWEST = 3
_TOP = 50


@dataclass(frozen=True)
class Slopes:
    """Exponents of N spectra by one rule, an array (N,) each."""

    alpha: Floats
    """Minus the slope of log sigma_k on log k; NaN where there are fewer than three values to fit."""
    se: Floats
    """Standard error from the residuals (heteroscedastic): it tells a bent spectrum from a straight one, no more."""
    n: NDArray[np.int64]
    """Number of singular values fitted."""


def slopes_of(stack: SpectraStack) -> dict[str, Slopes]:
    """Fit alpha by every rule: weights over the resolved singular values above 1e-6 sigma_1.

    Returns
    -------
    dict
        alpha: weights sigma_k²; alpha_sigma_weighted: sigma_k; alpha_inverse_k: 1/k; alpha_ols: equal; alpha_top_half:
        equal, over the larger half of all singular values; alpha_top_50: equal, over the 50 largest.
    """
    relative = stack.relative
    fitted = stack.resolved & (relative > SMALLEST)
    n_values = relative.shape[1]
    k = np.arange(1, n_values + 1)
    weights = {
        "alpha": relative**2,
        "alpha_sigma_weighted": relative,
        "alpha_inverse_k": np.broadcast_to(1 / k, relative.shape),
        "alpha_ols": np.ones_like(relative),
        "alpha_top_half": np.broadcast_to((k <= n_values // 2).astype(np.float64), relative.shape),
        "alpha_top_50": np.broadcast_to((k <= _TOP).astype(np.float64), relative.shape),
    }
    y = np.log(relative, where=fitted, out=np.zeros_like(relative))
    return {name: _slopes(np.log(k), y, np.where(fitted, weight, 0.0)) for name, weight in weights.items()}


def _slopes(x: Floats, y: Floats, weight: Floats) -> Slopes:
    """Weighted least squares of rows of y (N, K) on x (K,); values of weight zero take no part."""
    n = np.count_nonzero(weight, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weight / weight.sum(axis=1, keepdims=True)
        centred = x - (share * x).sum(axis=1, keepdims=True)  # row by row: the same bits however many rows there are
        lever = share * centred
        spread = np.einsum("nk,nk->n", lever, centred)
        slope = np.einsum("nk,nk->n", lever, y) / spread
        residual = y - np.einsum("nk,nk->n", share, y)[:, None] - slope[:, None] * centred
        scatter = np.einsum("nk,nk->n", lever**2, residual**2) * n / (n - 2)
        se = np.sqrt(scatter) / spread
    enough = n >= FEWEST
    return Slopes(np.where(enough, -slope, np.nan), np.where(enough, se, np.nan), n)
