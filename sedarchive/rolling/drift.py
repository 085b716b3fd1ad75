"""Slow drift: displacement from the first checkpoint and its principal components, from products of the updates.

The displacements x(t) = theta(t) - theta(0) are sums of updates, so their Gram matrix is a double cumulative sum of
that of the updates; no weight is read. Three matrices of displacements are decomposed: as they are (``raw``), each
over its length (``row_normalised``, the backbone of arXiv 2602.23696), and about their mean (``centred``, the PCA of
arXiv 2602.16746, which no choice of the reference changes). The first right singular vector is the backbone.

A random walk has one too: as the number of equal updates grows, its first component holds 8 / pi² = 0.81 of the
squared displacement, 4 / j² = 0.69 of the row-normalised one (j the first zero of the Bessel function J_0), and
6 / pi² = 0.61 about the mean, so that a large share by itself says nothing of training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = Literal["raw", "row_normalised", "centred"]

KINDS: tuple[Kind, ...] = ("raw", "row_normalised", "centred")
BACKBONE_KINDS: tuple[Kind, ...] = ("raw", "row_normalised")
"""Kinds whose first direction starts at the reference: displacements lie along it or beside it."""
N_COMPONENTS = 5
_EPSILON = float(np.finfo(np.float64).eps)
_UNRESOLVED_RESIDUAL = 1e-7
_BLOCK = 12
_MOST_ROUNDS = 40
_RESIDUAL = 1e-13
_SMALL = 64
"""Up to this many checkpoints a full decomposition costs less than iterations."""


@dataclass(frozen=True)
class Displacements:
    """Displacement of every checkpoint from the first one."""

    gram: Floats
    """``<x(s), x(t)>`` (T, T); row and column 0 are 0. NaN from the first non-finite update on."""
    length: Floats
    """||x(t)|| (T,), 0 where the sum of the updates is all rounding."""
    path: Floats
    """Sum of the norms of all updates up to each checkpoint (T,): rounding grows with it, not with the displacement."""

    @property
    def whole(self) -> bool:
        """Whether every displacement is known."""
        return bool(np.isfinite(self.gram).all())

    def weights(self, kind: Kind) -> Floats:
        """What each row of the matrix of ``kind`` is multiplied by (T,)."""
        if kind != "row_normalised":
            return np.ones(len(self.length))
        moved = self.length > 0
        return np.divide(1.0, self.length, out=np.zeros(len(self.length)), where=moved)

    def of_kind(self, kind: Kind) -> Floats:
        """Gram matrix (T, T) of the displacements, scaled or centred."""
        if kind == "centred":
            mean = self.gram.mean(axis=0)
            centred: Floats = self.gram - mean - mean[:, None] + mean.mean()
            return centred
        weights = self.weights(kind)
        scaled: Floats = self.gram * weights[:, None] * weights
        return scaled


@dataclass(frozen=True)
class Backbone:
    """Displacements along and beside the first right singular vector, at every checkpoint (T,)."""

    coordinate: Floats
    """<x(t), v>; v is signed so that the last is positive."""
    residual: Floats
    """||x(t) - coordinate v||; NaN where it is rounding: 1e-7 of the displacement, or that of so long a path."""
    share: Floats
    """coordinate² / ||x(t)||²; NaN where the displacement is 0."""


def displacements(updates: Floats) -> Displacements:
    """Return the displacements of T checkpoints from the Gram matrix (T - 1, T - 1) of their updates."""
    n_updates = len(updates)
    gram = np.zeros((n_updates + 1, n_updates + 1))
    with np.errstate(over="ignore", invalid="ignore"):
        gram[1:, 1:] = np.cumsum(np.cumsum(updates, axis=0), axis=1)
        gram = (gram + gram.T) / 2  # the two sums are rounded in different order
        path = np.concatenate([[0.0], np.cumsum(np.sqrt(np.diagonal(updates)))])
        rounding = len(gram) * _EPSILON * path**2
    gram[~np.isfinite(gram)] = np.nan
    energy = np.diagonal(gram)
    return Displacements(gram, np.sqrt(np.where(energy <= rounding, 0.0, energy)), path)


@dataclass(frozen=True)
class Components:
    """First principal components of one matrix of displacements."""

    shares: Floats
    """Share of the squared length (count,), descending; NaN if nothing moved or a displacement is not known."""
    first: Floats
    """Unit vector (T,): what each row holds of the first component; NaN likewise."""


def components(moved: Displacements, kind: Kind, count: int = N_COMPONENTS) -> Components:
    """Return the first ``min(count, T - 1)`` components of the displacements of T checkpoints; all of them sum to 1."""
    size = len(moved.gram)
    count = min(count, size - 1)
    if not moved.whole or not moved.length.any():
        return Components(np.full(count, np.nan), np.full(size, np.nan))
    gram = moved.of_kind(kind)
    energy, vectors = leading(lambda rows: gram @ rows, size, count)
    return Components(np.maximum(energy, 0.0) / np.trace(gram), vectors[:, 0])


def backbone(moved: Displacements, kind: Kind, first: Floats) -> Backbone:
    """Return the displacements along and beside the first direction of one of the ``BACKBONE_KINDS``; NaN if unknown.

    The right singular vector is v = X^T u / |X^T u|, u the ``first`` of its :class:`Components`, so that <x(t), v> is a
    row of the Gram matrix times u, up to scale.
    """
    length, moves = moved.length, moved.length > 0
    rows = moved.weights(kind) * first
    along = moved.gram @ rows
    coordinate = along / np.sqrt(rows @ along)
    coordinate = np.where(moves, coordinate if coordinate[-1] >= 0 else -coordinate, coordinate * 0.0)
    share = np.minimum(np.divide(coordinate**2, length**2, out=np.full(len(length), np.nan), where=moves), 1.0)
    residual = np.where(moves, length * np.sqrt(1.0 - share), coordinate * 0.0)
    rounding = 2 * len(length) * _EPSILON * moved.path * length * (np.abs(rows) @ moved.path) / np.sqrt(rows @ along)
    unresolved = (residual < _UNRESOLVED_RESIDUAL * length) | (moves & (residual**2 <= rounding))
    return Backbone(coordinate, np.where(unresolved, np.nan, residual), share)


def leading(product: Callable[[Floats], Floats], size: int, count: int) -> tuple[Floats, Floats]:
    """Return the largest eigenvalues (count,), descending, and their vectors (n, count) of a Gram matrix (n, n).

    Subspace iteration from fixed half waves, which the components of a walk resemble; a full decomposition where the
    matrix is small, where many are wanted, or where the iteration does not end.

    Parameters
    ----------
    product
        Gives the matrix times some columns (n, m).
    size, count
        n, and the number of eigenvalues.
    """
    if size > _SMALL and count <= N_COMPONENTS:
        basis = _half_waves(size)
        for _ in range(_MOST_ROUNDS):
            image = product(basis)
            energy, turn = np.linalg.eigh(basis.T @ image)
            energy, turn = energy[::-1], turn[:, ::-1]
            vectors = basis @ turn[:, :count]
            if np.abs(image @ turn[:, :count] - vectors * energy[:count]).max() <= _RESIDUAL * energy[0]:
                return energy[:count], vectors
            basis, _ = np.linalg.qr(product(image / energy[0]))
    energy, vectors = np.linalg.eigh(product(np.eye(size)))
    return energy[::-1][:count], vectors[:, ::-1][:, :count]


@lru_cache(maxsize=4)
def _half_waves(size: int) -> Floats:
    """Orthonormal start (size, 12): a quarter, three quarters ... of a wave over the history."""
    place = (np.arange(size) + 0.5) / size
    basis, _ = np.linalg.qr(np.sin(np.pi * (np.arange(_BLOCK) + 0.5) * place[:, None]))
    return basis
