"""Tail exponents of the density of eigenvalues, ``p(x) ~ x^-alpha`` for x = sigma² from some x_min on.

These are the exponents of WeightWatcher (Martin and Mahoney, arXiv 1810.01075), mostly 2 to 6 for trained matrices: no
decay exponents of sigma_k on k.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.matrix.stack import SpectraStack

Floats = NDArray[np.float64]

FEWEST = 10
"""Fewest resolved singular values to which a density is fitted."""
_PROBES = 48


@dataclass(frozen=True)
class DensityTail:
    """Power-law tail of one sample."""

    alpha: float
    """Exponent of the density; NaN where there are fewer than ten values."""
    se: float
    """(alpha - 1) / sqrt(n_tail), as if the values were independent and x_min were known."""
    x_min: float
    n_tail: int
    """Number of values from x_min on."""
    ks: float
    """Kolmogorov-Smirnov distance between tail and fit."""


@dataclass(frozen=True)
class HillTails:
    """Hill's estimates of N spectra, an array (N,) each."""

    alpha: Floats
    se: Floats
    """(alpha - 1) / sqrt(n_tail)."""
    n_tail: NDArray[np.int64]


def hill_of(stack: SpectraStack) -> HillTails:
    """Hill's estimate over the larger half of the resolved eigenvalues, 1 + k / sum ln(x_i / x_{k+1}).

    Source: Hill 1975; k = n / 2 as in WeightWatcher.
    """
    k = stack.n_resolved // 2
    logs = 2 * np.log(stack.sigma, where=stack.resolved, out=np.zeros_like(stack.sigma))
    head = np.cumsum(logs, axis=1)[np.arange(len(k)), np.maximum(k - 1, 0)]
    excess = head - k * logs[np.arange(len(k)), k]
    known = (stack.n_resolved >= FEWEST) & (excess > 0)
    alpha = 1 + np.divide(k, excess, where=known, out=np.full(len(k), np.nan))
    return HillTails(alpha, (alpha - 1) / np.sqrt(np.maximum(k, 1)), k)


def fit_tail(values: Floats) -> DensityTail:
    """Fit a power law to the upper tail of a sample by maximum likelihood.

    Parameters
    ----------
    values
        (n,), positive, in any order.

    Returns
    -------
    DensityTail
        alpha = 1 + n_tail / sum ln(x / x_min), for the x_min (every value but the largest is tried) at which the
        distance D = max |F_fit(x_j) - j / n_tail| is smallest. Source: Clauset, Shalizi and Newman, SIAM Review 51
        (2009), sections 3.1 and 3.3; D and its ties as the `powerlaw` package and WeightWatcher take them.

    Notes
    -----
    Every distance is bounded from below by that at 48 places of its tail; the candidates are taken in the order of
    their bounds, and those whose bound exceeds the smallest distance found are left out. The minimum is exact.
    """
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    if len(ascending) < FEWEST or ascending[0] == ascending[-1]:
        return DensityTail(np.nan, np.nan, np.nan, 0, np.nan)
    candidates = _Candidates.of(ascending)
    at, distance = candidates.smallest()
    n_tail = int(candidates.n[at])
    rate = float(candidates.rate[at])
    start = float(ascending[candidates.first[at]])
    return DensityTail(1 + rate, rate / float(np.sqrt(n_tail)), start, n_tail, distance)


@dataclass(frozen=True)
class _Candidates:
    """Every x_min that is tried, ascending."""

    steps: Floats
    """Logarithms of the ratios of neighbours in the sample, ascending (n - 1,)."""
    first: NDArray[np.int64]
    """Where each tail begins (c,)."""
    n: NDArray[np.int64]
    """Length of each tail (c,)."""
    rate: Floats
    """alpha - 1 of each (c,)."""

    @classmethod
    def of(cls, ascending: Floats) -> "_Candidates":
        # sums of steps, none of them negative: differences of logarithms would cancel in a tail of nearly equal values
        steps = np.log1p(np.diff(ascending) / ascending[:-1])
        first = np.flatnonzero(np.diff(ascending, prepend=-1.0) > 0)[:-1]
        above = np.arange(len(steps), 0, -1)
        sums = np.cumsum((steps * above)[::-1])[::-1]
        n = len(ascending) - first
        return cls(steps, first, n, n / sums[first])

    def smallest(self) -> tuple[int, float]:
        """Candidate of the smallest distance, the first of equals, and that distance."""
        bound = self._bounds()
        best, best_distance = 0, np.inf
        order = np.argsort(bound, kind="stable")
        for at in order.tolist():
            if bound[at] > best_distance:
                break
            best_distance, best = min((best_distance, best), (self._distance(at), at))
        return best, best_distance

    def _bounds(self) -> Floats:
        """Largest deviation of every candidate at some places of its tail (c,)."""
        place = (np.linspace(0, 1, _PROBES) * (self.n[:, None] - 1)).astype(np.int64)
        logs = np.concatenate([[0.0], np.cumsum(self.steps)])
        excess = logs[self.first[:, None] + place] - logs[self.first][:, None]
        deviation = 1 - np.exp(-self.rate[:, None] * excess) - place / self.n[:, None]
        # the logarithms cancel here, and exp may round differently in arrays of another shape
        rounding = 1e-12 + np.finfo(np.float64).eps * len(logs) * logs[-1] * self.rate
        bounds: Floats = np.abs(deviation).max(axis=1) - rounding
        return bounds

    def _distance(self, at: int) -> float:
        excess = np.concatenate([[0.0], np.cumsum(self.steps[self.first[at] :])])
        fitted = 1 - np.exp(-self.rate[at] * excess)
        return float(np.abs(fitted - np.arange(self.n[at]) / self.n[at]).max())
