"""p-values by the maximum statistic: the largest of everything searched against the largest in every surrogate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.lags import LagScan, Peaks
from sedarchive.inference.standing import Standing, p_value

Floats = NDArray[np.float64]


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
    largest = np.full_like(searches[0].null, -np.inf)
    for search in searches:
        np.fmax(largest, search.null, out=largest)
    for family in np.unique(families):
        rows = families == family
        largest[rows] = np.sort(largest[rows].max(axis=0))
    return np.asarray(largest)


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
        return self.p_of(self.null)

    def p_of(self, largest: Floats) -> Floats:
        """Return p (m,) by the null of the largest of everything searched (m, draws)."""
        return p_value(self.observed, largest)


def lag_flip(first: LagScan, second: LagScan, rule: str) -> Flip:
    """Compare the signs of the peak lags of the same features at two window sizes.

    A flip is as strong as the weaker of its two peaks. The p-value counts the surrogates, the same for both sizes, that
    flip at least as strongly: noise flips often, with weak peaks. A small p says that both peaks are more than chance
    and lie on opposite sides of 0; not that the two lags differ by more than their own uncertainty.
    """
    one, other = first.peaks[rule], second.peaks[rule]
    opposite = (one.lag * other.lag < 0) & _inside(first, one) & _inside(second, other)
    return Flip.of(opposite, [one.standing, other.standing])


def _inside(scan: LagScan, peaks: Peaks) -> NDArray[np.bool_]:
    """Whether each peak (m, versions) is one: inside the search, and of the sign that the rule wants."""
    first, last = scan.first_last()
    inside = (peaks.lag > first[:, None]) & (peaks.lag < last[:, None])
    return np.asarray(inside & ((peaks.r < 0) if peaks.rule == "negative" else np.isfinite(peaks.r)))
