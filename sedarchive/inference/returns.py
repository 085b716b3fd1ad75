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
    simulated = np.array([np.quantile(_simulated(line, slope).t, _TAILS) for slope in slopes])
    slowest, high, low = (_crossing(slopes, observed - quantile) for quantile in simulated.T)
    if not slowest < 0 or len(line.level) < MIN_POINTS:
        return ReturnIntervals(low, high, np.nan, np.nan)
    # the slowest return that the series allows knows its level least: its critical value is the largest
    critical = float(np.quantile(np.abs(_simulated(line, slowest).root_t), _LEVEL))
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
    """What fits to simulated series of a known slope miss it by, in their own standard errors."""

    t: Floats
    """Of the slope (REPLICAS,)."""
    root_t: Floats
    """Of the line at its true root (REPLICAS,); NaN where that is infinite."""


def _simulated(line: FittedLine, slope: float) -> _Simulated:
    """Simulate series with a slope, from the first point of a series and the errors that the slope leaves."""
    n = len(line.level)
    left = line.change - slope * (line.level - line.level[0])
    spread = float(left.std(ddof=1))
    drive = float(left.mean()) / spread if spread > 0 else 0.0
    powers = (1.0 + slope) ** np.arange(n)
    age = np.arange(n)[:, None] - np.arange(n)
    response = np.where(age > 0, powers[np.maximum(age - 1, 0)], 0.0)
    noise = _noise(n)
    level = response @ (noise + drive)
    change = slope * level + drive + noise
    root = -drive / slope if slope else np.nan
    return _t_values(level, change, slope, root)


def _t_values(level: Floats, change: Floats, slope: float, root: float) -> _Simulated:
    """Fit every column (n, replicas) by least squares."""
    n = len(level)
    mean = level.mean(axis=0)
    dx, dy = level - mean, change - change.mean(axis=0)
    sxx, sxy, syy = ((a * b).sum(axis=0) for a, b in ((dx, dx), (dx, dy), (dy, dy)))
    fitted = sxy / sxx
    variance = np.maximum(syy - fitted * sxy, 0.0) / (n - 2)
    at_root = change.mean(axis=0) + fitted * (root - mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (fitted - slope) / np.sqrt(variance / sxx)
        root_t = at_root / np.sqrt(variance * (1 / n + (root - mean) ** 2 / sxx))
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
