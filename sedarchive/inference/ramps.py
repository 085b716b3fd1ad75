"""Least squares of every ramp that a change of the updates may leave in a series of windows, at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHAPE_ERROR = 1e-3
"""Share of the variance that a ramp of the right place may leave, whatever the noise."""


@dataclass(frozen=True)
class Prepared:
    """Series with the sums that the least squares of all ramps go by."""

    centred: Floats
    """(..., n)."""
    energy: Floats
    """Sum of squares (..., 1)."""
    sums: Floats
    """Twice summed sums of the series from each window to its end; index 0 stands for the window -reach."""
    reach: int

    @classmethod
    def of(cls, series: Floats, reach: int) -> "Prepared":
        """Prepare series (..., n) for ramps of at most `reach` windows."""
        centred = series - series.mean(axis=-1, keepdims=True)
        tails = np.cumsum(centred[..., ::-1], axis=-1)[..., ::-1]
        padding = [(0, 0)] * (centred.ndim - 1) + [(reach, reach)]
        twice = np.cumsum(np.cumsum(np.pad(tails, padding), axis=-1), axis=-1)
        leading = np.zeros((*centred.shape[:-1], 2))
        return cls(
            centred,
            np.sum(centred**2, axis=-1, keepdims=True),
            np.concatenate([leading, twice], axis=-1),
            reach,
        )


def explained(scores: list[Floats]) -> Floats:
    """Return what each ramp explains of the energy of a series (..., m), from its scores."""
    squares = scores[0] * scores[0]
    for score in scores[1:]:
        squares += score * score
    return squares


def left_over(energy: Floats, gain: Floats) -> Floats:
    """Return the residual sums of squares of ramps that explain `gain`, with the allowance for the shape."""
    left: Floats = np.maximum(energy - gain, 0.0) + SHAPE_ERROR * energy
    return left


@dataclass(frozen=True)
class Ramps:
    """Least squares of every ramp of one kind: a change spread evenly over `spread` + 1 updates, seen by windows."""

    n: int
    window_size: int
    spread: int

    @cached_property
    def first_updates(self) -> NDArray[np.int64]:
        """First updates of the new regime that are looked at (m,).

        Half of the ramp is at least W windows from either end, and the change within the series.
        """
        half, last = self.window_size + self.spread, self.n + self.window_size - 2 - self.spread
        start = self.window_size + -(-half // 2) - self.spread
        return np.arange(max(start, 0), min(self.n - self.window_size + half // 2 - self.spread, last) + 1)

    def shape(self, first: int) -> Floats:
        """Return the ramp (n,) from 0 to 1 of a change that begins with the update `first`."""
        updates = np.arange(self.n + self.window_size - 1)
        new = np.clip((updates - first + 1) / (self.spread + 1), 0.0, 1.0)
        ramp: Floats = np.lib.stride_tricks.sliding_window_view(new, self.window_size).mean(axis=-1)
        return ramp

    def residuals(self, series: Prepared) -> Floats:
        """Return the residual sums of squares (..., m), with the allowance for the shape."""
        return left_over(series.energy, explained(self.scores(series)))

    def scores(self, series: Prepared) -> list[Floats]:
        """Return functions (..., m) that are linear in the series; their squares add up to what each ramp explains."""
        products, norms = self._products(series), self._energies
        scores: list[Floats] = [products / np.sqrt(norms)]
        if self.spread == 0:
            scores.append(self._bending(series.centred, products / norms))
        return scores

    def fitted(self, values: Floats, first: int) -> tuple[Floats, float]:
        """Return the ramp that fits a series (n,) best, and its height."""
        ramp = self.shape(first)
        bend = [ramp * (1 - ramp)] if self.spread == 0 else []
        design = np.column_stack([np.ones(self.n), ramp, *bend])
        solution = np.linalg.lstsq(design, values, rcond=None)[0]
        return design @ solution, float(solution[1])

    def _bending(self, centred: Floats, slope: Floats) -> Floats:
        """Return the score (..., m) of f (1 - f) beside the ramp f; `slope` is that of f alone."""
        share = np.arange(1, self.window_size) / self.window_size
        bump = share * (1 - share)
        first = self.first_updates
        # of the windows that the jump at u divides, window u - W + j has j = 1 .. W - 1 new updates
        product = np.zeros_like(slope)
        for j, height in enumerate(bump, start=1):
            product += height * centred[..., first[0] - self.window_size + j : first[-1] - self.window_size + j + 1]
        ramp_sum = self.n - first + share.sum()
        shared = share @ bump - ramp_sum * bump.sum() / self.n
        energy = bump @ bump - bump.sum() ** 2 / self.n - shared**2 / self._energies
        score: Floats = (product - slope * shared) / np.sqrt(energy)
        return score

    def _products(self, series: Prepared) -> Floats:
        """Return the inner products (..., m) of centred series with the ramps.

        A ramp is a step averaged over W windows and over the spread, so that its product is the sum of the series from
        the step on, averaged in the same way: the step of update u reaches from window u - W + 1 to u + spread.
        """
        width, spread = self.window_size, self.spread + 1
        at, m = int(self.first_updates[0]) + series.reach - width + 1, len(self.first_updates)
        far, near, middle, here = (
            series.sums[..., at + shift : at + shift + m] for shift in (width + spread, width, spread, 0)
        )
        products: Floats = (far - near - middle + here) / (width * spread)
        return products

    @cached_property
    def _energies(self) -> Floats:
        """Return the squared norms (m,) of the centred ramps."""
        rise = np.convolve(np.ones(self.window_size), np.ones(self.spread + 1))
        edge = np.cumsum(rise) / rise.sum()
        ramp = np.concatenate([np.zeros(self.n), edge, np.ones(self.n)])
        # window i sees the ramp of update u at the distance i - u, which is 0 at index n + W - 1
        start = self.n + self.window_size - 1 - self.first_updates
        sums, squares = (np.concatenate([[0.0], np.cumsum(ramp**power)]) for power in (1, 2))
        total = sums[start + self.n] - sums[start]
        energy: Floats = squares[start + self.n] - squares[start] - total**2 / self.n
        return energy


@lru_cache(maxsize=64)
def kinds_of_ramps(n: int, window_size: int) -> tuple[Ramps, ...]:
    """Jumps first, then smooth changes of W / 2, W, 2 W, ... updates, as long as they end within the series."""
    spreads, spread = [0], max(window_size // 2, 1)
    while spread + 3 * window_size <= n:
        spreads.append(spread)
        spread *= 2
    return tuple(Ramps(n, window_size, spread) for spread in spreads)


def prepared_for(kinds: Sequence[Ramps], series: Floats) -> Prepared:
    """Prepare series (..., n) for ramps of several kinds, the longest last."""
    return Prepared.of(series, kinds[-1].window_size + kinds[-1].spread + 1)
