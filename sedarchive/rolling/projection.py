"""Random projections of updates (Johnson-Lindenstrauss), and what they do to a window's singular values.

The projection Phi (d, p) has independent entries N(0, 1) / sqrt(d). Its entries are keyed by (seed, tensor, element):
they depend neither on how a tensor is cut into blocks nor on who works on it, and the first rows of a wide projection
are a narrower one. Source: "Spectral Edge Dynamics" (arXiv 2603.15678), the section on random projections.
"""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from sedarchive.rolling.edge import argmax_rank, mp_edge, sigma_ratios

Floats = NDArray[np.float64]

GROUP = 4096
"""Consecutive elements of a tensor whose entries of one row come from one stream of random numbers."""
QUANTITIES = ("ratio_1", "ratio_2", "ratio_signal", "gap_1", "gap_2", "gap_signal")
"""sigma_1 / sigma_2, sigma_2 / sigma_3 and the ratio at the signal rank; the differences in the same places."""
_SEED = 14
_DRAW_BYTES = 2**26


@dataclass(frozen=True)
class Projection:
    """The part of one projection that meets one tensor."""

    seed: int
    tensor: str

    def columns(self, dimensions: range, start: int, stop: int) -> Floats:
        """Entries N(0, 1), not yet divided by sqrt(d).

        Parameters
        ----------
        dimensions
            Rows of the projection wanted.
        start, stop
            Elements of the tensor, in C order.

        Returns
        -------
        ndarray
            float64 (len(dimensions), stop - start).
        """
        key = np.frombuffer(sha256(f"{self.seed}/{self.tensor}".encode()).digest()[:16], dtype="<u8")
        entries = np.empty((len(dimensions), stop - start))
        for row, dimension in enumerate(dimensions):
            for group in range(start // GROUP, -(-stop // GROUP)):
                # the low words of the counter run through the stream of a group, which never reaches the others
                stream = np.random.Philox(key=key, counter=np.array([0, 0, dimension, group], dtype=np.uint64))
                numbers = np.random.Generator(stream).standard_normal(GROUP)
                first, last = max(group * GROUP, start), min((group + 1) * GROUP, stop)
                entries[row, first - start : last - start] = numbers[first - group * GROUP : last - group * GROUP]
        return entries


def projected_updates(theta: NDArray[np.floating], columns: Floats) -> Floats:
    """Updates after projection, up to the factor 1 / sqrt(d).

    Parameters
    ----------
    theta
        Some elements of a tensor at all checkpoints (T, n).
    columns
        Entries of the projection for the same elements (d, n).

    Returns
    -------
    ndarray
        float64 (T - 1, d); sums over all elements of a scope are its projected updates.
    """
    total = np.zeros((len(theta) - 1, len(columns)))
    for start in range(0, theta.shape[1], GROUP):
        part = slice(start, start + GROUP)
        total += np.diff(theta[:, part].astype(np.float64), axis=0) @ columns[:, part].T
    return total


@dataclass(frozen=True)
class ProjectionErrors:
    """Mean over windows of the relative error of each quantity in :data:`QUANTITIES` (..., 6)."""

    mean: Floats
    largest: Floats
    n_windows: NDArray[np.int64]
    """Windows in which the quantity exists (6,)."""


class Reference:
    """The windows of one size of a run without projection, to which projections are compared."""

    def __init__(self, gram: Floats, window_size: int, n_elements: int) -> None:
        """Take the windows from the Gram matrix of the updates.

        Parameters
        ----------
        gram
            <delta_i, delta_j> (N, N), finite.
        window_size
            W >= 3.
        n_elements
            p; the signal rank of each window is restricted to the Marchenko-Pastur edge (:mod:`.edge`).
        """
        self.window_size = window_size
        self._gram = gram
        sigma = _sigmas(gram, window_size)
        ratio = sigma_ratios(sigma)
        following = np.concatenate([sigma[:, 1:], np.full_like(sigma[:, :1], np.nan)], axis=1)
        self._rank = argmax_rank(ratio, following >= mp_edge(sigma, n_elements)[:, None])
        self._exact = self._quantities(sigma)

    def errors(self, updates: Floats) -> ProjectionErrors:
        """Compare projections.

        Parameters
        ----------
        updates
            Projected updates, scaled by 1 / sqrt(d) (..., N, d).
        """
        found = self._quantities(_sigmas(updates @ np.swapaxes(updates, -1, -2), self.window_size))
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.abs(found - self._exact) / self._exact
        usable = np.isfinite(self._exact) & (self._exact > 0)
        n_windows = usable.sum(axis=0)
        error = np.where(usable, error, 0.0)
        mean = error.sum(axis=-2) / np.maximum(n_windows, 1)
        mean, largest = (np.where(n_windows > 0, values, np.nan) for values in (mean, error.max(axis=-2)))
        return ProjectionErrors(mean, largest, n_windows)

    def simulated(self, dimension: int, draws: int, seed: int = _SEED) -> Floats:
        """Mean errors of ``draws`` projections to ``dimension``, drawn from their exact distribution (draws, 6).

        With the Gram matrix L Lᵀ, the projected updates are L Z / sqrt(d) with Z of independent normal entries.
        """
        energy, vectors = np.linalg.eigh(self._gram)
        root = vectors * np.sqrt(np.maximum(energy, 0.0))
        at_once = max(1, _DRAW_BYTES // (8 * len(root) * (len(root) + dimension)))
        found = []
        for start in range(0, draws, at_once):
            normal = np.random.default_rng([seed, start])
            noise = normal.standard_normal((min(at_once, draws - start), len(root), dimension))
            found.append(self.errors(root @ noise / dimension**0.5).mean)
        return np.concatenate(found)

    def _quantities(self, sigma: Floats) -> Floats:
        """The six quantities of windows (..., n, W) -> (..., n, 6)."""
        first, second = sigma[..., :2], sigma[..., 1:3]
        at = np.maximum(self._rank - 1, 0)[:, None]
        here = _taken(sigma, at)
        after = np.where(self._rank > 0, _taken(sigma, at + 1), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.concatenate([first / second, (here / after)[..., None]], axis=-1)
        gaps = np.concatenate([first - second, (here - after)[..., None]], axis=-1)
        return np.concatenate([ratios, gaps], axis=-1)


def _taken(sigma: Floats, at: NDArray[np.int64]) -> Floats:
    """One sigma of each window: (..., n, W) and (n, 1) -> (..., n)."""
    taken: Floats = np.take_along_axis(sigma, np.broadcast_to(at, (*sigma.shape[:-1], 1)), axis=-1)[..., 0]
    return taken


def _sigmas(gram: Floats, size: int) -> Floats:
    """Singular values of all windows of a Gram matrix of updates (..., N, N) -> (..., N - W + 1, W), descending."""
    windows = np.stack([gram[..., at : at + size, at : at + size] for at in range(gram.shape[-1] - size + 1)], axis=-3)
    energy = np.linalg.eigvalsh(windows)[..., ::-1]
    sigma: Floats = np.sqrt(np.maximum(energy, 0.0))
    return sigma
