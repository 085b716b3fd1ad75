"""Sub-matrices of one aspect ratio, so that matrices of different shape can be compared.

The spectrum of a random matrix depends on the ratio of its sides, and so does every exponent: keys and values of
grouped heads, which are wide, show others than queries, which are square. Fixed-aspect-ratio subsampling ("FARMS", Hu
et al., arXiv 2506.06280) fits the average density of sub-matrices of one ratio instead, that is all their eigenvalues
together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.matrix.density import FEWEST, fit_tail, hill_of
from sedarchive.matrix.metrics import metrics_of
from sedarchive.matrix.slopes import slopes_of
from sedarchive.matrix.stack import SpectraStack

Floats = NDArray[np.float64]

MOST_PARTS = 8
"""Sub-matrices of one matrix, spread evenly: more hardly tell more, and each costs a decomposition."""
AVERAGED = ("stable_rank", "entropy")


@dataclass(frozen=True)
class Cut:
    """How a matrix is cut: equal blocks of whole rows, or of whole columns, that do not overlap."""

    n_rows: int
    """Rows of a sub-matrix."""
    n_cols: int
    along: int
    """Axis along which they lie, 0 or 1."""
    starts: tuple[int, ...]
    """First row or column of each."""

    @classmethod
    def of(cls, n_rows: int, n_cols: int, aspect: float) -> "Cut":
        """Largest sub-matrices whose longer side is ``aspect`` (at least 1) times the shorter one, up to rounding.

        Their longer side lies along the matrix's, and one of its sides they have whole. Sub-matrices of a random
        matrix are independent, as they do not overlap; those of the paper may.
        """
        longer, shorter = max(n_rows, n_cols), min(n_rows, n_cols)
        if longer >= aspect * shorter:
            sides, lengthwise = (int(aspect * shorter), shorter), True
        else:
            sides, lengthwise = (longer, max(1, int(longer / aspect))), False
        along = int((n_rows < n_cols) == lengthwise)
        length, size = (longer, sides[0]) if lengthwise else (shorter, sides[1])
        n_parts = min(length // size, MOST_PARTS)
        starts = np.linspace(0, length - size, n_parts) if n_parts > 1 else np.zeros(1)
        rows, cols = sides if n_rows >= n_cols else sides[::-1]
        return cls(rows, cols, along, tuple(int(start) for start in starts))

    def parts(self, matrix: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Sub-matrices of a matrix (m, n), as views."""
        for start in self.starts:
            stop = start + (self.n_cols if self.along else self.n_rows)
            yield matrix[:, start:stop] if self.along else matrix[start:stop]


@dataclass(frozen=True)
class PartsMetric:
    """One metric of the sub-matrices of a matrix; NaN where not defined."""

    value: float
    se: float
    n: int
    """Singular values in a tail, or sub-matrices averaged over."""
    x_min: float = np.nan
    ks: float = np.nan


def parts_metrics(stack: SpectraStack) -> dict[str, PartsMetric]:
    """Metrics of a matrix from the spectra of its sub-matrices (N, K).

    Returns
    -------
    dict
        alpha_hill and alpha_mle: of all eigenvalues together. The decay exponents of sigma_k on k, stable_rank and
        entropy, which are of one spectrum: their means, with the standard error of those.
    """
    metrics = metrics_of(stack, stack.sigma.shape[1])
    each = {name: slopes.alpha for name, slopes in slopes_of(stack).items()}
    each |= {name: getattr(metrics, name) for name in AVERAGED}
    return {name: _mean_of(values) for name, values in each.items()} | _of_all(stack)


def _mean_of(values: Floats) -> PartsMetric:
    known = values[np.isfinite(values)]
    n = len(known)
    spread = float(known.std(ddof=1)) / np.sqrt(n) if n > 1 else np.nan
    return PartsMetric(float(known.mean()) if n else np.nan, spread, n)


def _of_all(stack: SpectraStack) -> dict[str, PartsMetric]:
    """Exponents of the density of all resolved eigenvalues."""
    together = np.sort(stack.sigma[stack.resolved])[::-1]
    if len(together) < FEWEST:
        nothing = PartsMetric(np.nan, np.nan, 0)
        return {"alpha_hill": nothing, "alpha_mle": nothing}
    hill = hill_of(SpectraStack(together[None], np.array([len(together)])))
    tail = fit_tail((together / together[0]) ** 2)
    return {
        "alpha_hill": PartsMetric(float(hill.alpha[0]), float(hill.se[0]), int(hill.n_tail[0])),
        "alpha_mle": PartsMetric(tail.alpha, tail.se, tail.n_tail, tail.x_min * float(together[0]) ** 2, tail.ks),
    }
