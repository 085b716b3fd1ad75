"""A typical value over layers, some of which only tell that theirs is above or below a bound.

Leaving such layers out would bias what is left: of time constants about half the length of a run, the larger half has
none. So a bound counts as one (a censored sample of a normal distribution, in logarithms).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, log_ndtr, stdtrit

from sedarchive.lifecycle.correlated import Interval, likely

Floats = NDArray[np.float64]

FEWEST = 3
"""Known values below which there is no mean."""
_NAN = math.nan
_GRID = 161
_ROUNDS = 3
_SPREADS = np.geomspace(0.25, 16.0, 121)
"""Standard deviations that are tried, in that of the known values."""
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Sample:
    """Positive values of layers."""

    known: Floats
    """Those that have one (n,)."""
    above: Floats
    """Bounds that others lie above (a,)."""
    below: Floats
    """Bounds that yet others lie below (b,)."""

    @classmethod
    def of(cls, ranges: Floats) -> "Sample":
        """What is known of values from ranges (n, 2): equal ends are a value, 0 and infinity are no ends."""
        low, high = ranges.T
        return cls(low[low == high], low[(low > 0) & np.isposinf(high)], high[(low == 0) & np.isfinite(high)])


def typical(sample: Sample, level: float = 0.95) -> Interval:
    """Geometric mean with its interval.

    Without bounds: Student's t interval in logarithms. With bounds: the most likely mean and the profile of the
    likelihood, measured so that it gives the same where there are none. Fewer than 3 known values: no mean, and only
    the ends that the order of values and bounds gives, for six layers at least; NaN for all else.
    """
    if len(sample.known) < FEWEST:
        return _by_order(sample, level)
    logs = np.log(sample.known)
    found = _censored(sample, logs) if len(sample.above) + len(sample.below) else _plain(logs, level)
    return Interval(*(math.exp(end) for end in (found.best, found.low, found.high)))


def _by_order(sample: Sample, level: float) -> Interval:
    """Interval of the median by the sign test: so many layers of all lie on one side of each end."""
    least = np.sort(np.concatenate([sample.known, sample.above, np.zeros(len(sample.below))]))
    most = np.sort(np.concatenate([sample.known, np.full(len(sample.above), np.inf), sample.below]))
    outside = int((bdtr(np.arange(len(least)), len(least), 0.5) <= (1 - level) / 2).sum())
    low, high = (float(least[outside - 1]), float(most[-outside])) if outside else (0.0, np.inf)
    return Interval(_NAN, low if low > 0 else _NAN, high if math.isfinite(high) else _NAN)


def _plain(logs: Floats, level: float) -> Interval:
    n = len(logs)
    reach = float(stdtrit(n - 1, (1 + level) / 2) * logs.std(ddof=1) / math.sqrt(n))
    mean = float(logs.mean())
    return Interval(mean, mean - reach, mean + reach)


def _censored(sample: Sample, logs: Floats) -> Interval:
    """Interval of the mean from a grid about the known values, made finer about what it has found."""
    above, below = np.log(sample.above), np.log(sample.below)
    spread = max(float(logs.std(ddof=1)), _LEAST_SPREAD)
    ends = np.concatenate([logs, above, below])
    far = 4 * spread + float(np.ptp(ends))
    grid = np.linspace(ends.min() - far, ends.max() + far, _GRID)
    n = len(ends)
    for _ in range(_ROUNDS):
        surprise = _surprise(grid[:, None], spread * _SPREADS, (logs, above, below)).min(axis=1)
        found = likely(grid, (n - 1) / n * surprise, n - 1)
        grid = _finer(grid, found)
    return found


def _surprise(mean: Floats, spread: Floats, logs: tuple[Floats, Floats, Floats]) -> Floats:
    """-2 log likelihood (m, s) of means (m, 1) and standard deviations (s,), up to a constant."""
    known, above, below = logs
    squares = ((known - known.mean()) ** 2).sum() + len(known) * (known.mean() - mean) ** 2
    found = 2 * len(known) * np.log(spread) + squares / spread**2
    for bounds, sign in ((above, -1), (below, 1)):
        for bound in bounds:
            found = found - 2 * log_ndtr(sign * (bound - mean) / spread)
    return np.asarray(found)


def _finer(grid: Floats, found: Interval) -> Floats:
    """A grid over the interval that was found and a little more; an end that it lacks stays as far out as it was."""
    low = found.low if math.isfinite(found.low) else float(grid[0])
    high = found.high if math.isfinite(found.high) else float(grid[-1])
    margin = 0.1 * (high - low)
    return np.linspace(low - margin, high + margin, _GRID)
