"""Eigenpairs of stacks of Gram matrices: the singular values and vectors of many windows at once.

A window's Gram matrix ``X X^T = U diag(lambda) U^T`` gives the singular values sqrt(lambda_k) and the right singular
vectors ``v_k = X^T u_k / sigma_k``, whose inner products need no p-dimensional work.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Status = NDArray[np.str_]

RESOLUTION = 1e-7
"""Singular values below this part of the largest are rounding of the float64 Gram matrix."""
STATUS = "<U10"


@dataclass(frozen=True)
class Modes:
    """Eigenpairs of a stack of n Gram matrices of W updates, descending."""

    energy: Floats
    """lambda_k >= 0 (n, W), 0 where unresolved; NaN in non-finite windows."""
    sigma: Floats
    """sqrt(lambda_k) (n, W); NaN where unresolved or non-finite."""
    vectors: Floats
    """u_k as columns (n, W, W)."""
    status: Status
    """(n, W): ok, unresolved, nonfinite, or zero (in a window of zero updates only)."""
    resolution: Floats
    """Smallest singular value that counts as resolved (n,)."""

    def part(self, windows: slice) -> "Modes":
        """Return those of some of the windows."""
        return Modes(**{f.name: getattr(self, f.name)[windows] for f in fields(self)})

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Whether each mode is resolved (n, W)."""
        return np.asarray(self.status == "ok")


def modes_of(stack: Floats) -> Modes:
    """Return the eigenpairs of Gram matrices (n, W, W)."""
    n_windows, size = stack.shape[:2]
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(stack).all(axis=(1, 2)))
    energy, vectors = np.linalg.eigh(stack if finite.all() else np.where(finite[:, None, None], stack, np.eye(size)))
    # copied, since BLAS takes no array that runs backwards
    energy, vectors = np.maximum(energy[:, ::-1], 0.0), np.ascontiguousarray(vectors[:, :, ::-1])
    largest = np.where(np.diagonal(stack, axis1=1, axis2=2).max(axis=1, initial=0.0) == 0, 0.0, energy[:, 0])
    zero = (largest == 0) & finite
    resolved = (energy > RESOLUTION**2 * largest[:, None]) & (finite & ~zero)[:, None]
    status = np.full((n_windows, size), "unresolved", dtype=STATUS)
    status[resolved], status[zero], status[~finite] = "ok", "zero", "nonfinite"
    energy = np.where(resolved, energy, np.where(finite[:, None], 0.0, np.nan))
    sigma = np.where(resolved | zero[:, None], np.sqrt(energy), np.nan)
    return Modes(energy, sigma, vectors, status, np.where(finite, RESOLUTION * np.sqrt(largest), np.nan))


def cosines_between(first: Modes, second: Modes, across: Floats) -> Floats:
    """Return ``<v_j, w_k>`` (n, W, W) of two stacks, NaN where either is unresolved.

    Parameters
    ----------
    first, second
        Two stacks of n windows of W updates.
    across
        Products of the updates of the first (rows) with those of the second (n, W, W).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines: Floats = np.swapaxes(first.vectors, 1, 2) @ across @ second.vectors
        cosines /= first.sigma[:, :, None] * second.sigma[:, None, :]
    np.clip(cosines, -1.0, 1.0, out=cosines)
    cosines[~(first.ok[:, :, None] & second.ok[:, None, :])] = np.nan
    return cosines


def eigenvalue_gaps(energy: Floats, with_zero: bool = True) -> Floats:
    """Return the distance (n, W) of each lambda_k to the nearest other one; lambda_{W+1} = 0 counts by default."""
    last = np.zeros_like(energy[:, :1]) if with_zero else np.full_like(energy[:, :1], -np.inf)
    below: Floats = energy - np.concatenate([energy[:, 1:], last], axis=1)
    above = np.concatenate([np.full_like(energy[:, :1], np.inf), below[:, :-1]], axis=1)
    nearest: Floats = np.minimum(below, above)
    return nearest
