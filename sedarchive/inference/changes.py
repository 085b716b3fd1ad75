"""Change point of a quantity of rolling windows: whether it has shifted, when, and how sure that is.

Neighbouring windows of W updates share W - 1 of them: noise comes as slow waves, and a jump in the updates arrives as
a ramp of W windows. Both are taken into account.

* Evidence: the self-normalised CUSUM statistic (Shao and Zhang 2010, J. Am. Stat. Assoc. 105, 1228), the largest over
  all candidates. Its denominator is made of the partial sums of the series on both sides, in which autocorrelation
  cancels without a bandwidth that would have to be chosen. Its null is sampled: noise averaged over W updates, at the
  length of the series. Neither norms nor the scale of the series enter, so that one sample serves all scopes.
* Location: least squares of a ramp of W windows, bent as much as fits best, since a ratio does not answer in proportion
  to the share of new updates. The delay of the window is part of the ramp, so that what is found is the first update
  of the new regime.
* Interval: all jumps whose residual is not larger, compared with the best, than that of the true jump is in 95 % of
  series with a jump as low as it may be, and noise averaged over W, that would have been dated too. A thousandth of the
  variance counts as noise in any case: it is what the shape of the ramp may err by.
* A change that is itself spread over many updates fits no jump; it gets the status ``smooth``, and its interval runs
  from its beginning to its end.
* Where the updates themselves are strongly autocorrelated the noise is slower than any that the null knows. It shows in
  what the best change leaves: steps from window to window, unrelated otherwise, go on in one direction. Such a series
  has no p-value but the status ``persistent``.

One change is looked for. A rise with a later fall is two: cut the series at its peak.

Measured (tests/test_changes.py and test_calibration.py, campaigns): at a nominal 5 % noise windows are called shifts
in 3 to 7 % of cases, fewer where there are fewer than 10 W of them, and averages of AR(1) updates in
0 to 7 %: with 0.9, 80 to 100 % of them are persistent (9 to 17 % would be shifts otherwise). Intervals hold jumps of
at least two standard deviations of the noise in 94 to 99 % of cases.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from sedarchive.inference.cusum import cusum_statistic, noise_statistics
from sedarchive.inference.ramps import SHAPE_ERROR, Ramps, kinds_of_ramps, prepared_for
from sedarchive.inference.replicas import Planted, Replicas, best_jumps, draw_replicas

Floats = NDArray[np.float64]

MIN_EFFECTIVE = 4
"""Windows over W: with fewer independent windows nothing can be said."""
_FLAT = 1e-12
_PILOTS = 49
_PERSISTENT = 0.5
"""Correlation of consecutive steps above which updates are taken for autocorrelated; 0.9 gives 0.65 to 0.85."""


@dataclass(frozen=True)
class ShiftOptions:
    """How a shift is looked for."""

    alpha: float = 0.05
    """A shift with a larger p-value is not dated; 1 - alpha is the level of the interval too."""
    draws: int = 4999
    """Series of noise that the p-value compares with."""
    replicas: int = 299
    """Series that the interval comes from."""
    seed: int = 0


@dataclass(frozen=True)
class Shift:
    """A shift of a series of windows; updates count from 0, and window i holds the updates i to i + W - 1."""

    status: str
    """ok; smooth (spread over more updates than a jump would be); no_shift (p > alpha); or, without p, constant,
    few_effective, persistent (updates autocorrelated beyond the overlap of windows)."""
    n: int
    """Windows used: the longest stretch of known values."""
    p: float = float("nan")
    """(1 + number of noise series with a statistic at least as large) / (1 + draws)."""
    update: float | None = None
    """First update of the new regime; the middle of a smooth change."""
    low: float | None = None
    high: float | None = None
    size: float = float("nan")
    """Level after the shift less that before, in units of the series."""


_DEFAULTS = ShiftOptions()


def find_shift(series: Floats, window_size: int, options: ShiftOptions = _DEFAULTS) -> Shift:
    """Find the shift of a quantity of consecutive windows.

    Parameters
    ----------
    series
        The quantity (n,), best on a scale on which noise is even (the logarithm of a ratio); NaN where unknown.
    window_size
        W, in updates.
    options
        Level, numbers of draws, seed.

    Returns
    -------
    Shift
        Dated only where p <= alpha. Jumps within W windows of either end are not looked for.
    """
    first, values = _longest_stretch(series)
    n = len(values)
    if n < max(MIN_EFFECTIVE * window_size, 8):
        return Shift("few_effective", n)
    if np.ptp(values) <= _FLAT * np.abs(values).max():
        return Shift("constant", n)
    fit = _Fit.of(values, window_size)
    if fit.persistence > _PERSISTENT:
        return Shift("persistent", n)
    null = noise_statistics(n, window_size, options.draws, options.seed)
    reached = int(np.count_nonzero(null >= cusum_statistic(values[None], window_size)[0]))
    p = (1 + reached) / (1 + len(null))
    if p > options.alpha:
        return Shift("no_shift", n, p)
    significant = float(np.quantile(null, 1 - options.alpha))
    return _dated(fit, first, _Evidence(p, significant), options)


@dataclass(frozen=True)
class _Evidence:
    """p of a series, and the statistic from which on p would be at most alpha."""

    p: float
    significant: float


def _longest_stretch(series: Floats) -> tuple[int, Floats]:
    """Return where the longest run of finite values begins, and the run."""
    finite = np.concatenate([[False], np.isfinite(series), [False]])
    edges = np.flatnonzero(finite[1:] != finite[:-1])
    if not len(edges):
        return 0, series[:0]
    longest = int(np.argmax(edges[1::2] - edges[::2]))
    return int(edges[2 * longest]), series[edges[2 * longest] : edges[2 * longest + 1]]


@dataclass(frozen=True)
class _Fit:
    """Least squares of one series by ramps of every kind: jumps first."""

    values: Floats
    kinds: tuple[Ramps, ...]
    residuals: list[Floats]
    """Of each kind, at each first update."""

    @classmethod
    def of(cls, values: Floats, window_size: int) -> "_Fit":
        """Fit a series (n,)."""
        kinds = kinds_of_ramps(len(values), window_size)
        prepared = prepared_for(kinds, values)
        return cls(values, kinds, [kind.residuals(prepared) for kind in kinds])

    @property
    def at(self) -> int:
        """Which of the jumps fits best."""
        return int(np.argmin(self.residuals[0]))

    @property
    def best_kind(self) -> int:
        return int(np.argmin([found.min() for found in self.residuals]))

    @property
    def jump(self) -> float:
        """Residual of the best jump."""
        return float(self.residuals[0].min())

    @property
    def change(self) -> tuple[Ramps, int]:
        """Kind and first update of the change that fits best."""
        kind = self.kinds[self.best_kind]
        return kind, int(kind.first_updates[np.argmin(self.residuals[self.best_kind])])

    @property
    def persistence(self) -> float:
        """Correlation of consecutive steps of what the best change leaves; 0 if that is no more than its shape errs by.

        A step is one update in and one out, so that steps of windows of independent updates are unrelated.
        """
        kind, first = self.change
        left = self.values - kind.fitted(self.values, first)[0]
        if np.var(left) <= SHAPE_ERROR * np.var(self.values):
            return 0.0
        step = np.diff(left) - (left[-1] - left[0]) / (len(left) - 1)
        return float(step[1:] @ step[:-1] / (step @ step))


def _dated(fit: _Fit, offset: int, evidence: _Evidence, options: ShiftOptions) -> Shift:
    p, values = evidence.p, fit.values
    jumps = fit.kinds[0].first_updates
    model, size = fit.kinds[0].fitted(values, int(jumps[fit.at]))
    replicas = _replicas(fit, model, size, options).chosen(evidence.significant)
    level = 1 - options.alpha
    best = fit.residuals[fit.best_kind]
    if fit.jump > np.quantile(replicas.true / replicas.any_kind, level) * best.min():
        return _smooth(fit, offset, p)
    inside = jumps[fit.residuals[0] <= np.quantile(replicas.true / replicas.jump, level) * fit.jump]
    low, high = float(offset + inside[0]), float(offset + inside[-1])
    return Shift("ok", len(values), p, float(offset + jumps[fit.at]), low, high, size)


def _smooth(fit: _Fit, offset: int, p: float) -> Shift:
    kind, first = fit.change
    low, high = float(offset + first), float(offset + first + kind.spread)
    return Shift("smooth", len(fit.values), p, (low + high) / 2, low, high, kind.fitted(fit.values, first)[1])


def _replicas(fit: _Fit, model: Floats, size: float, options: ShiftOptions) -> Replicas:
    """Return replicas of the best jump, as low as it may be, with noise averaged over W.

    The residuals of a fit are smaller than the noise; by how much is seen in a first set of replicas. A jump that was
    found is higher than it is, the more so the less it stands out: a lower one is less well dated.
    """
    variance = fit.jump / len(model)
    first = best_jumps(Planted(fit.kinds, fit.at, model, variance), _PILOTS, options.seed)
    variance /= min(float(np.mean(first)) / fit.jump, 1.0)
    lowered = model.mean() + (model - model.mean()) * _least_share(fit, size, variance)
    return draw_replicas(Planted(fit.kinds, fit.at, lowered, variance), options.replicas, options.seed)


def _least_share(fit: _Fit, size: float, variance: float) -> float:
    """Share of its height that a jump has at least, by Student's t: of n / W values five are fitted."""
    n, window_size = len(fit.values), fit.kinds[0].window_size
    errors = float(stdtrit(max(n / window_size - 5, 2), 0.975))
    before = min(max(int(fit.kinds[0].first_updates[fit.at]), 1), n - 1)
    error = np.sqrt(variance * window_size * (1 / before + 1 / (n - before)))
    return max(1.0 - errors * float(error) / max(abs(size), np.finfo(np.float64).tiny), 0.0)
