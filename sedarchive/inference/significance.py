"""p-values by the maximum statistic: the largest of everything searched against the largest in every surrogate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.lags import LagScan, Peaks

Floats = NDArray[np.float64]

_NEARLY_ONE = 1 - 1e-15


@dataclass(frozen=True)
class Standing:
    """How far the peaks of m searches stand out, in standard deviations of each one's own null.

    The measure is Fisher's z of |r| (of -r under the rule ``negative``), less its mean over the surrogates, over its
    standard deviation there: searches among smooth series, where large peaks are common, and among rough ones become
    comparable, and the smoothest does not rule the maximum.
    """

    centre: Floats
    """(m, 1)."""
    spread: Floats
    """(m, 1)."""
    observed: Floats
    """(m,); NaN where there is no peak."""
    null: Floats
    """(m, draws)."""

    @classmethod
    def of(cls, merit: Floats) -> "Standing":
        """Standing of rows (m, 1 + draws), each the observed value and those of the surrogates."""
        null = merit[:, 1:]
        centre, spread = null.mean(axis=1, keepdims=True), null.std(axis=1, keepdims=True)
        spread = np.where(spread > 0, spread, 1.0)
        return cls(centre, spread, ((merit[:, :1] - centre) / spread)[:, 0], (null - centre) / spread)

    @classmethod
    def of_peaks(cls, peaks: Peaks) -> "Standing":
        """Standing of peaks."""
        return cls.of(_merit(peaks.r, peaks.rule))

    def own_p(self, observed: Floats | None = None) -> Floats:
        """Return p of each search by itself (m,), or of other values in the same units (m, any number)."""
        null = np.sort(self.null, axis=1)
        return p_values(self.observed[:, None], null)[:, 0] if observed is None else p_values(observed, null)

    def in_units(self, r: Floats) -> Floats:
        """|r| (m, any number) in the units of the peaks."""
        return np.asarray((_merit(r, "abs") - self.centre) / self.spread)


class Searched(Protocol):
    """What has a null in units that compare (m, draws): the peaks of a search, or its flips."""

    @property
    def null(self) -> Floats:
        """Of each row in each surrogate (m, draws); NaN or -inf where there is nothing."""


def largest_null(searches: Sequence[Searched], families: NDArray[np.intp]) -> Floats:
    """Null of the largest of everything searched, for each row of a search.

    Parameters
    ----------
    searches
        Searches of the same m rows, say at several window sizes, against the same surrogates.
    families
        Family of each row (m,): rows of one family, in all searches, are searched together.

    Returns
    -------
    array
        Largest standing of a row's family in each surrogate (m, draws), ascending.
    """
    largest = np.max([np.nan_to_num(search.null, nan=-np.inf) for search in searches], axis=0)
    for family in np.unique(families):
        rows = families == family
        largest[rows] = np.sort(largest[rows].max(axis=0))
    return np.asarray(largest)


def p_values(observed: Floats, null: Floats) -> Floats:
    """(1 + number of null values at or above each observed one) / (1 + number of null values).

    Parameters
    ----------
    observed
        Values (m, any number), NaN where there is none.
    null
        Their null (m, draws), each row ascending.
    """
    draws = null.shape[1]
    below = np.stack([np.searchsorted(row, values) for row, values in zip(null, observed, strict=True)])
    return np.where(np.isnan(observed), np.nan, (1 + draws - below) / (1 + draws))


def _merit(r: Floats, rule: str) -> Floats:
    z: Floats = np.arctanh(np.clip(np.abs(r) if rule == "abs" else -r, -_NEARLY_ONE, _NEARLY_ONE))
    return z


@dataclass(frozen=True)
class Flip:
    """Peak lags of opposite sign at two window sizes, for m features."""

    observed: Floats
    """Strength, that of the weaker of the two peaks (m,); NaN where there is no flip."""
    null: Floats
    """The same of each surrogate (m, draws); -inf where it does not flip."""

    @classmethod
    def of(cls, opposite: NDArray[np.bool_], stands: Sequence[Standing]) -> "Flip":
        """Flip where the peaks of two searches are some, of ``opposite`` sign (m, 1 + draws)."""
        observed = np.minimum(stands[0].observed, stands[1].observed)
        null = np.minimum(stands[0].null, stands[1].null)
        return cls(np.where(opposite[:, 0], observed, np.nan), np.where(opposite[:, 1:], null, -np.inf))

    @property
    def flips(self) -> NDArray[np.bool_]:
        """(m,)."""
        return np.asarray(np.isfinite(self.observed))

    @property
    def p(self) -> Floats:
        """Share of surrogates that flip as strongly, these two window sizes alone; NaN where there is no flip (m,)."""
        return self.p_of(np.sort(self.null, axis=1))

    def p_of(self, largest: Floats) -> Floats:
        """Return p (m,) by the null of the largest of everything searched (m, draws), ascending."""
        return p_values(self.observed[:, None], largest)[:, 0]


def lag_flip(first: LagScan, second: LagScan, rule: str) -> Flip:
    """Compare the signs of the peak lags of the same features at two window sizes.

    A flip is as strong as the weaker of its two peaks. The p-value counts the surrogates, the same for both sizes, that
    flip at least as strongly: noise flips often, with weak peaks. A small p says that both peaks are more than chance
    and lie on opposite sides of 0; not that the two lags differ by more than their own uncertainty.
    """
    one, other = first.peaks[rule], second.peaks[rule]
    opposite = (one.lag * other.lag < 0) & _inside(first, one) & _inside(second, other)
    return Flip.of(opposite, [Standing.of_peaks(peaks) for peaks in (one, other)])


def _inside(scan: LagScan, peaks: Peaks) -> NDArray[np.bool_]:
    """Whether each peak (m, versions) is one: inside the search, and of the sign that the rule wants."""
    first, last = scan.first_last()
    inside = (peaks.lag > first[:, None]) & (peaks.lag < last[:, None])
    return np.asarray(inside & ((peaks.r < 0) if peaks.rule == "negative" else np.isfinite(peaks.r)))
