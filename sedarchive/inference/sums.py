"""Sums over any stretch of series from running sums: what means, energies and autocorrelations at many lags need."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Stretches = tuple[Counts, Counts]
"""First points of several stretches (n_stretches,), and the points after their last ones."""


def stretches(slices: Sequence[slice]) -> Stretches:
    """Several stretches at once."""
    return np.array([one.start for one in slices]), np.array([one.stop for one in slices])


@dataclass(frozen=True)
class RunningSums:
    """Running sums (m, 6, n + 1) of m series that should have mean 0 and mean square 1, or their rounding counts.

    They are of presence, value, square; and, where a value and its successor are both there, of presence, sum and
    product of the two.
    """

    running: Floats
    stretches: Stretches
    """What is summed."""

    @classmethod
    def of(cls, rows: Floats) -> "RunningSums":
        """Sums of series (m, n), NaN where a value is missing."""
        there = np.isfinite(rows)
        x = np.where(there, rows, 0.0)
        terms = np.zeros((len(rows), 6, rows.shape[1] + 1))
        terms[:, 0, 1:], terms[:, 1, 1:], terms[:, 2, 1:] = there, x, x * x
        both = there[:, 1:] & there[:, :-1]
        # that of a pair stands with its second value
        terms[:, 3, 2:], terms[:, 4, 2:] = both, np.where(both, x[:, 1:] + x[:, :-1], 0.0)
        terms[:, 5, 2:] = x[:, 1:] * x[:, :-1]
        return cls(np.cumsum(terms, axis=2, out=terms), stretches([slice(0, rows.shape[1])]))

    def over(self, points: Stretches) -> "RunningSums":
        """Sums over other stretches of the points."""
        return RunningSums(self.running, points)

    @cached_property
    def _values(self) -> Floats:
        first, last = self.stretches
        return np.asarray(self.running[:, :3, last] - self.running[:, :3, first])

    @cached_property
    def n(self) -> Counts:
        """Values that are there (m, n_stretches)."""
        return np.rint(self._values[:, 0]).astype(np.int64)

    @cached_property
    def mean(self) -> Floats:
        """Mean of the values that are there (m, n_stretches); 0 if there are none."""
        return np.asarray(self._values[:, 1] / np.maximum(self._values[:, 0], 1.0))

    @cached_property
    def energy(self) -> Floats:
        """Sum of squares about the mean (m, n_stretches)."""
        return np.asarray(self._values[:, 2] - self._values[:, 1] * self.mean)

    def lag_one(self) -> Floats:
        """Autocorrelation at lag 1, as :func:`sedarchive.inference.correlation.lag_one`; NaN if constant.

        Of every series and stretch (m, n_stretches).
        """
        first, last = self.stretches
        between = self.running[:, 3:, last] - self.running[:, 3:, np.minimum(first + 1, last)]
        n, total, products = np.moveaxis(between, 1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((products - self.mean * total + self.mean**2 * n) / self.energy)
