"""Intervals of a return to a level: of its rate, and of the level, from one series.

A series that is nearly free to wander (a return that takes about as long as the series) looks as if it returned: its
least-squares slope is too negative on average and its t value far from Student's. So the ends are found by inverting a
test: of every slope on a grid, series are simulated from what it leaves of this one, and the t value that was observed
must lie among theirs (the grid bootstrap, Hansen 1999, Rev. Econ. Stat. 81, 594). The level has an interval only where
the slope's is negative throughout, after Fieller, with the critical value that the same simulations give.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REPLICAS = 199
"""Simulated series at each slope of the grid."""
MIN_POINTS = 15
"""Fewer have no interval of the level."""
_GRID = np.linspace(-5.0, 7.0, 14)
"""Slopes that are tried, in standard errors from the fitted one."""
_TAILS = (0.01, 0.025, 0.975)
"""Of simulated t values: the level has an interval where a return is sure at the first, the slope's has the others."""
_LEVEL = 0.95


@dataclass(frozen=True)
class FittedLine:
    """The line change = slope x level + drive of consecutive points of a series, in units of one point."""

    level: Floats
    """(n,)."""
    change: Floats
    """To the next point (n,)."""
    slope: float
    drive: float
    errors: Floats
    """Covariance of slope and drive (2, 2)."""


@dataclass(frozen=True)
class ReturnIntervals:
    """95 % intervals; NaN where one has no end."""

    slope_low: float
    slope_high: float
    root_low: float
    """Of the level at which the line is 0."""
    root_high: float


def return_intervals(line: FittedLine) -> ReturnIntervals:
    """Find the intervals of a line's slope, and of its root.

    Parameters
    ----------
    line
        The fit; its errors may be larger than least squares says, which widens the intervals in proportion.
    """
    error = float(np.sqrt(line.errors[0, 0]))
    if not error > 0:
        return ReturnIntervals(*[np.nan] * 4)
    slopes = line.slope + error * _GRID
    observed = (line.slope - slopes) / error
    simulated = np.quantile(_simulated(line, slopes).t, _TAILS, axis=1)
    slowest, high, low = (_crossing(slopes, observed - quantile) for quantile in simulated)
    if not slowest < 0 or len(line.level) < MIN_POINTS:
        return ReturnIntervals(low, high, np.nan, np.nan)
    # the slowest return that the series allows knows its level least: its critical value is the largest
    critical = float(np.quantile(np.abs(_simulated(line, np.array([slowest])).root_t), _LEVEL))
    return ReturnIntervals(low, high, *_fieller(line, critical))


def _crossing(at: Floats, values: Floats) -> float:
    """Where values that fall from positive to negative are 0; NaN if they do not."""
    below = np.flatnonzero(values < 0)
    if not len(below) or below[0] == 0:
        return np.nan
    last = int(below[0])
    share = values[last - 1] / (values[last - 1] - values[last])
    return float(at[last - 1] + share * (at[last] - at[last - 1]))


@dataclass(frozen=True)
class _Simulated:
    """What fits to simulated series of known slopes miss these by, in their own standard errors."""

    t: Floats
    """Of the slope (m, REPLICAS)."""
    root_t: Floats
    """Of the line at its true root (m, REPLICAS); NaN where that is infinite."""


def _simulated(line: FittedLine, slopes: Floats) -> _Simulated:
    """Simulate series with some slopes (m,), from the first point of a series and the errors that the slopes leave."""
    level = line.level - line.level[0]
    left = line.change - slopes[:, None] * level
    spread = left.std(axis=1, ddof=1)
    drive = np.divide(left.mean(axis=1), spread, out=np.zeros(len(slopes)), where=spread > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = -drive / slopes
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # a slope far above 0 may lead to infinity
        return _t_values(_noise(len(level)), (1.0 + slopes)[:, None], drive[:, None], root[:, None])


def _t_values(noise: Floats, factor: Floats, drive: Floats, root: Floats) -> _Simulated:
    """Follow series level -> factor level + drive + noise from 0, and fit each by least squares from running sums.

    What the fit misses the slope by is the slope of the noise (n, replicas) on the level.
    """
    n = len(noise)
    level = np.zeros((len(factor), noise.shape[1]))
    total, squares, products = (np.zeros_like(level) for _ in range(3))
    for pushed in noise:
        total += level
        squares += level * level
        products += level * pushed
        level *= factor
        level += drive
        level += pushed
    mean, mean_noise = total / n, noise.mean(axis=0)
    sxx, sxe = squares - n * mean**2, products - n * mean * mean_noise
    variance = np.maximum((noise**2).sum(axis=0) - n * mean_noise**2 - sxe**2 / sxx, 0.0) / (n - 2)
    missed = sxe / sxx
    t = missed / np.sqrt(variance / sxx)
    root_t = (mean_noise + missed * (root - mean)) / np.sqrt(variance * (1 / n + (root - mean) ** 2 / sxx))
    return _Simulated(np.nan_to_num(t), root_t)


@lru_cache(maxsize=8)
def _noise(n: int) -> Floats:
    return np.random.default_rng(n).standard_normal((n, REPLICAS))


def _fieller(line: FittedLine, critical: float) -> tuple[float, float]:
    """Ends of the levels at which the line does not differ from 0."""
    square = critical**2
    a = line.slope**2 - square * line.errors[0, 0]
    b = line.slope * line.drive - square * line.errors[0, 1]
    c = line.drive**2 - square * line.errors[1, 1]
    inside = b * b - a * c
    if a <= 0 or inside < 0:
        return np.nan, np.nan
    return float((-b - np.sqrt(inside)) / a), float((-b + np.sqrt(inside)) / a)
