"""A learning rate as it was logged, at checkpoints and summed over the intervals between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """Logged rates; between two logged steps the rate lies on the line, and nothing is known far beyond the log."""

    steps: Steps
    """Logged steps (m,), ascending, each once."""
    values: Floats
    """Rate at each (m,), finite."""

    def at(self, steps: Steps, reach: Floats) -> Floats:
        """Return the rate at some steps (n,).

        Parameters
        ----------
        steps
            Where it is wanted.
        reach
            How many steps before the first or after the last logged one the rate there still holds, for each (n,);
            NaN further out.
        """
        if len(self.steps) == 0:
            return np.full(len(steps), np.nan)
        known = (steps >= self.steps[0] - reach) & (steps <= self.steps[-1] + reach)
        return np.where(known, np.interp(steps, self.steps, self.values), np.nan)

    def sums(self, checkpoints: Steps) -> Floats:
        """Return the sum of the rate over the steps of each interval between checkpoints (T - 1,).

        Mean rate x number of steps, the mean that of the lines between logged steps; NaN where the log ends more than
        the interval's own length away from it.
        """
        if len(checkpoints) < 2:
            return np.zeros(0)
        spacing = np.diff(checkpoints).astype(np.float64)
        if len(self.steps) == 0:
            return np.full(len(spacing), np.nan)
        first, last = self.at(checkpoints[:-1], spacing), self.at(checkpoints[1:], spacing)
        points = np.union1d(self.steps, checkpoints)
        rate = np.interp(points, self.steps, self.values)
        area = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(points))])
        summed = np.diff(area[np.searchsorted(points, checkpoints)])
        return np.where(np.isfinite(first) & np.isfinite(last), summed, np.nan)

    def at_checkpoints(self, checkpoints: Steps) -> Floats:
        """Return the rate at every checkpoint (T,); beyond the log it reaches as far as one interval."""
        if len(checkpoints) < 2:
            return self.at(checkpoints, np.zeros(len(checkpoints)))
        spacing = np.diff(checkpoints).astype(np.float64)
        return self.at(checkpoints, np.concatenate([spacing[:1], spacing]))
