"""How far the peaks of searches stand out of their null, and p-values by counting."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    def of_peaks(cls, r: Floats, rule: str) -> "Standing":
        """Standing of peaks (m, 1 + draws) by a rule: ``abs`` or ``negative``."""
        return cls.of(_merit(r, rule))

    def own_p(self, observed: Floats | None = None) -> Floats:
        """Return p of each search by itself (m,), or of other values in the same units (m, any number)."""
        if observed is None:
            return p_value(self.observed, self.null)
        return p_values(observed, np.sort(self.null, axis=1))

    def in_units(self, r: Floats) -> Floats:
        """|r| (m, any number) in the units of the peaks."""
        return np.asarray((_merit(r, "abs") - self.centre) / self.spread)


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


def p_value(observed: Floats, null: Floats) -> Floats:
    """As :func:`p_values` for one value a row (m,), whose null (m, draws) may have any order."""
    draws = null.shape[1]
    below = (null < observed[:, None]).sum(axis=1)
    return np.where(np.isnan(observed), np.nan, (1 + draws - below) / (1 + draws))


def _merit(r: Floats, rule: str) -> Floats:
    z: Floats = np.arctanh(np.clip(np.abs(r) if rule == "abs" else -r, -_NEARLY_ONE, _NEARLY_ONE))
    return z
