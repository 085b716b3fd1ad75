"""Least squares with errors that are correlated between neighbouring points (a first-order process)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]

CORRELATIONS = np.concatenate([np.arange(0.0, 0.9, 0.1), [0.9, 0.94, 0.97]])
"""Of neighbouring errors that are tried."""

_EXACT = 1e-7
"""Share of the variance that no fit goes below: what is smaller says nothing of shapes."""


@dataclass(frozen=True)
class Interval:
    """Most likely value on a grid, and the ends of its 95 % interval; NaN where the grid does not hold an end."""

    best: float
    low: float
    high: float


@dataclass(frozen=True)
class CorrelatedErrors:
    """What makes the errors of a series independent, for each correlation that is tried."""

    share: Floats
    """Part of the previous error that is left at each point (r, n - 1)."""
    log_determinant: Floats
    """Of the covariance of the errors (r,), but for their variance."""

    @classmethod
    def of(cls, times: Floats) -> "CorrelatedErrors":
        """Errors at some times (n,), ascending; the correlation is that over the median distance."""
        distance = np.diff(times)
        share = CORRELATIONS[:, None] ** (distance / np.median(distance))
        return cls(share, np.log1p(-(share**2)).sum(axis=1))

    def white(self, at: int, series: Floats) -> Floats:
        """Series (..., n) as they would be with independent errors, under one of the correlations."""
        share = self.share[at]
        later = (series[..., 1:] - share * series[..., :-1]) / np.sqrt(1 - share**2)
        return np.concatenate([series[..., :1], later], axis=-1)

    def left(self, values: Floats, columns: Floats, shapes: Floats) -> Floats:
        """Residual sums of squares of a series on columns and one of several shapes.

        Parameters
        ----------
        values
            The series (n,).
        columns
            In every fit (q, n).
        shapes
            Of which each fit has one (m, n); m = 0: none.

        Returns
        -------
        ndarray
            (r, m), or (r, 1) without shapes.
        """
        return np.stack([self._left(at, values, columns, shapes) for at in range(len(self.share))])

    def _left(self, at: int, values: Floats, columns: Floats, shapes: Floats) -> Floats:
        basis = np.linalg.qr(self.white(at, columns).T)[0]
        y = self.white(at, values)
        y = y - basis @ (basis.T @ y)
        energy = float(y @ y)
        least = _EXACT * float(((values - values.mean()) ** 2).sum())
        if not len(shapes):
            return np.array([max(energy, least)])
        x = self.white(at, shapes)
        x = x - (x @ basis) @ basis.T
        size = np.maximum((x**2).sum(axis=1), 1e-300)
        return np.asarray(np.maximum(energy - (x @ y) ** 2 / size, least))

    def information(self, columns: Floats) -> Floats:
        """Logarithm of the determinant of what is known of the coefficients of columns (q, n): (r,)."""
        scale = np.linalg.norm(columns, axis=1, keepdims=True)
        white = [self.white(at, columns / np.maximum(scale, 1e-300)) for at in range(len(self.share))]
        return np.array([np.linalg.slogdet(one @ one.T)[1] for one in white])


def aicc(errors: CorrelatedErrors, left: Floats, n_coefficients: int) -> float:
    """AICc of the best of several fits (r, m); variance and correlation of the errors count as parameters."""
    n = errors.share.shape[1] + 1
    deviance = n * np.log(np.maximum(left, 1e-300) / n) + errors.log_determinant[:, None]
    return with_penalty(float(deviance.min()), n, n_coefficients + 2)


def with_penalty(deviance: float, n: int, n_parameters: int) -> float:
    """AICc of a fit to n points: its deviance, and what its parameters cost."""
    k = n_parameters
    return deviance + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf)


def likely(grid: Floats, deviance: Floats, freedom: float) -> Interval:
    """Best value and 95 % interval from a profile.

    Parameters
    ----------
    grid
        Values that were tried (m,), ascending.
    deviance
        n log residuals at each, up to a constant (m,).
    freedom
        Degrees of freedom of the residuals.
    """
    best = int(deviance.argmin())
    reach = freedom * math.log1p(float(stdtrit(freedom, 0.975)) ** 2 / freedom)
    above = deviance - deviance[best] - reach
    before, after = np.flatnonzero(above[:best] > 0), np.flatnonzero(above[best:] > 0)
    low = _crossing(grid, above, int(before[-1])) if len(before) else math.nan
    high = _crossing(grid, above, best + int(after[0]) - 1) if len(after) else math.nan
    return Interval(float(grid[best]), low, high)


def _crossing(grid: Floats, above: Floats, at: int) -> float:
    """Where a profile crosses 0 between two points."""
    share = above[at] / (above[at] - above[at + 1])
    return float(grid[at] + share * (grid[at + 1] - grid[at]))
