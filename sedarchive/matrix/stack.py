"""Spectra of matrices with equally many singular values, side by side."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SpectraStack:
    """N spectra of K singular values each."""

    sigma: Floats
    """Descending along the last axis (N, K); the largest of each is above zero, and finite."""
    n_resolved: NDArray[np.int64]
    """Number of singular values of each that are more than rounding (N,)."""

    @property
    def relative(self) -> Floats:
        """sigma_k / sigma_1 (N, K)."""
        return self.sigma / self.sigma[:, :1]

    @property
    def resolved(self) -> NDArray[np.bool_]:
        """Which values are more than rounding (N, K)."""
        mask: NDArray[np.bool_] = np.arange(self.sigma.shape[1]) < self.n_resolved[:, None]
        return mask
