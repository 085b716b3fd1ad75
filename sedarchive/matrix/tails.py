"""Decay exponents alpha of a spectrum, ``sigma_k ~ k^-alpha``.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) does not publish its fit. Two readings stand side
by side under their own names; absolute values are not calibrated against the paper's, and both depend on the shape of
the matrix already for Gaussian entries.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sedarchive.matrix.spectra import MatrixSpectrum

Floats = NDArray[np.float64]

_SMALLEST = 1e-6
_FEWEST = 3


@dataclass(frozen=True)
class TailFit:
    """A decay exponent."""

    alpha: float
    """Minus the slope of log sigma_k on log k; NaN unless the status is ok."""
    n: int
    """Number of singular values fitted."""
    status: Literal["ok", "too_short", "nonfinite", "zero", "empty", "failed"]
    """too_short: fewer than three singular values to fit."""


def alpha_weighted(spectrum: MatrixSpectrum) -> TailFit:
    """Fit alpha by least squares weighted with sigma_k², over the resolved sigma_k above 1e-6 sigma_1."""
    sigma = _resolved(spectrum)
    return _fit(spectrum, sigma, sigma / sigma[0] if sigma.size else sigma)


def alpha_top_half(spectrum: MatrixSpectrum) -> TailFit:
    """Fit alpha by ordinary least squares over the larger half of all singular values, as far as resolved."""
    sigma = _resolved(spectrum)[: len(spectrum.sigma) // 2]
    return _fit(spectrum, sigma, np.ones_like(sigma))


def _resolved(spectrum: MatrixSpectrum) -> Floats:
    sigma = spectrum.sigma[: spectrum.n_resolved]
    return sigma[sigma > _SMALLEST * sigma[0]] if sigma.size else sigma


def _fit(spectrum: MatrixSpectrum, sigma: Floats, root_weight: Floats) -> TailFit:
    """Fit the slope of log sigma on log k; weights are squares of `root_weight`."""
    if spectrum.status != "ok":
        return TailFit(float("nan"), 0, spectrum.status)
    if len(sigma) < _FEWEST:
        return TailFit(float("nan"), len(sigma), "too_short")
    weight = root_weight**2 / np.sum(root_weight**2)
    x, y = np.log(np.arange(1, len(sigma) + 1)), np.log(sigma)
    x = x - np.sum(weight * x)
    return TailFit(-float(np.sum(weight * x * y) / np.sum(weight * x**2)), len(sigma), "ok")
