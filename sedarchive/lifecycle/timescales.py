"""Two timescales: how fast a layer's stable rank, and its alpha, come to rest.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) holds that both relax exponentially, the stable rank
fast and towards one value for all layers, alpha slowly and towards one of each layer's own. How it fits them is not
published. Here the curve is y(t) = rest + (start - rest) exp(-t / tau): linear but for tau, which is looked for on a
grid, so that no start value is needed. The errors of neighbouring checkpoints are correlated (first-order process).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.lifecycle.correlated import CORRELATIONS, CorrelatedErrors, Interval, aicc, likely, with_penalty

Floats = NDArray[np.float64]

FEWEST = 8
"""Checkpoints below which no curve is fitted."""
_DECISIVE = 2.0
"""Difference of AICc above which another shape is preferred."""
_SYSTEMATIC = 6.0
"""The same before an exponential is denied: two rivals with errors of unknown correlation win by 2 in every sixth."""
_TAUS = 60
_ROUNDS = 3
_LONGEST = 200.0
"""Longest tau that is looked for, in lengths of the series."""
_RESTS = 201
_ERRORS = 8.0
"""Reach of the first grid of rests, in standard errors; up to four times wider in each further try."""
_WIDENINGS = 4
_ROUNDING = 1e-12
_NAN = math.nan


@dataclass(frozen=True)
class Decay:
    """An exponential through one series; NaN: see ``status``."""

    n: int
    """Checkpoints fitted."""
    status: str
    """ok, too_few, no_decay, too_short, too_fast or not_exponential."""
    tau: float = _NAN
    """In the unit of the times."""
    tau_low: float = _NAN
    """Ends of the 95 % interval (profile of the likelihood); NaN where it has none."""
    tau_high: float = _NAN
    rest: float = _NAN
    """Value that the series comes to rest at."""
    rest_low: float = _NAN
    rest_high: float = _NAN
    correlation: float = _NAN
    """Of the errors of neighbouring checkpoints."""
    bound: float = _NAN
    """What tau is above (too_short) or below (too_fast)."""


@dataclass(frozen=True)
class SharedRest:
    """Whether several series come to rest at one value."""

    n: int
    """Series."""
    rest: float
    """The one value."""
    aicc_gain: float
    """AICc of a rest of each series less that of one for all: above 2, one will do."""


def fit_decay(times: Floats, values: Floats) -> Decay:
    """Fit an exponential to one series.

    Parameters
    ----------
    times
        Ascending (n,), in any unit.
    values
        The series (n,), finite.

    Returns
    -------
    Decay
        Status ``no_decay`` where a constant does as well; ``not_exponential`` where a parabola, or a line beside the
        exponential, does better; ``too_short`` where tau is above half of the series, so that it cannot be told from a
        line: only the lower end of tau stands; ``too_fast`` where tau is below the distance of checkpoints, so that one
        or two of them carry it: only its upper end stands.
    """
    n = len(times)
    if n < FEWEST:
        return Decay(n, "too_few")
    if np.ptp(values) <= _ROUNDING * np.abs(values).max():
        return Decay(n, "no_decay")
    errors, clock = CorrelatedErrors.of(times), times - times[0]
    known = _knowledge(errors, clock, values)
    tau, correlation = _tau_interval(errors, clock, values, known)
    flat, bent, other = _rivals(errors, clock, values, tau.best)
    if flat - bent <= _DECISIVE:
        return Decay(n, "no_decay")
    if bent - other > _SYSTEMATIC:
        return Decay(n, "not_exponential")
    shortest, longest = float(np.median(np.diff(clock))), float(clock[-1]) / 2
    if tau.best < shortest:
        return Decay(n, "too_fast", tau_high=tau.high, bound=shortest)
    if tau.best > longest:
        return Decay(n, "too_short", tau_low=tau.low, bound=longest)
    rest = _rest_interval(_Rests.of(times, values, tau.best), _place(correlation))
    return Decay(n, "ok", tau.best, tau.low, tau.high, rest.best, rest.low, rest.high, correlation)


def shared_rest(series: list[tuple[Floats, Floats]], decays: list[Decay]) -> SharedRest:
    """Compare a rest of each series with one for all.

    Parameters
    ----------
    series
        Times and values of each, at least two.
    decays
        Their fits, all ok. Tau and the correlation of the errors are chosen anew for each rest.
    """
    rests = np.array([decay.rest for decay in decays])
    profiles = [_Rests.of(*one, decay.tau) for one, decay in zip(series, decays, strict=True)]
    grid = np.linspace(rests.min(), rests.max(), 4 * _RESTS)
    deviances = np.stack([profile.deviance(grid) for profile in profiles])
    together, free = deviances.sum(axis=0), float(deviances.min(axis=1).sum())
    n, m = sum(decay.n for decay in decays), len(decays)
    gain = with_penalty(free, n, 5 * m) - with_penalty(float(together.min()), n, 4 * m + 1)
    return SharedRest(m, float(grid[together.argmin()]), gain)


def ratio_of(first: Decay, second: Decay) -> Interval:
    """Ratio of the tau of two series of independent errors, with the interval that follows from theirs.

    Source: Zou and Donner 2008, in logarithms. An end that one of them lacks is NaN.
    """
    a, a_low, a_high = np.log([first.tau, first.tau_low, first.tau_high])
    b, b_low, b_high = np.log([second.tau, second.tau_low, second.tau_high])
    low = a - b - np.hypot(a - a_low, b_high - b)
    high = a - b + np.hypot(a_high - a, b - b_low)
    return Interval(*(float(np.exp(end)) for end in (a - b, low, high)))


def tau_ranges(decays: Sequence[Decay]) -> Floats:
    """What is known of each tau (n, 2): at least, at most; equal where it has a value, NaN where nothing is known."""
    return np.array([_tau_range(one) for one in decays]).reshape(-1, 2)


def _tau_range(decay: Decay) -> tuple[float, float]:
    match decay.status:
        case "too_short":
            return decay.bound, math.inf
        case "too_fast":
            return 0.0, decay.bound
    return decay.tau, decay.tau


def shape_over_depth(rests: Floats) -> Floats:
    """psi: where each layer (L,) comes to rest less the mean of all, over the largest less the smallest."""
    spread = float(np.ptp(rests))
    return np.asarray((rests - rests.mean()) / spread) if spread else np.full(len(rests), _NAN)


@dataclass(frozen=True)
class _RestProfile:
    """Residuals of one series for any value of its rest: parabolas in the rest, one for each tau."""

    centre: float
    squared: Floats
    crossed: Floats
    own: Floats
    n: int

    @classmethod
    def of(cls, errors: CorrelatedErrors, clock: Floats, values: Floats, tau: float, at: int) -> "_RestProfile":
        """Residuals under one of the correlations, for taus about the likely one."""
        taus = tau * np.geomspace(1 / 16, 16, _TAUS + 1)
        x = errors.white(at, np.exp(-clock / taus[:, None]))
        centre = float(values[-1])
        one, y = errors.white(at, np.ones(len(clock))), errors.white(at, values - centre)
        size, along_one, along_y = (x**2).sum(axis=1), x @ one, x @ y
        squared, own = float(y @ y) - along_y**2 / size, float(one @ one) - along_one**2 / size
        return cls(centre, squared, float(one @ y) - along_one * along_y / size, own, len(clock))

    def deviance(self, rests: Floats, weight: float) -> Floats:
        """``weight`` log of the least residuals of some rests (m,)."""
        shift = (rests - self.centre)[:, None]
        left = (self.squared - 2 * shift * self.crossed + shift**2 * self.own).min(axis=1)
        return np.asarray(weight * np.log(np.maximum(left, 1e-300)))

    def likely(self) -> tuple[float, float]:
        """Most likely rest, and its standard error at the tau there."""
        left = np.maximum(self.squared - self.crossed**2 / self.own, 1e-300)
        at = int(left.argmin())
        error = math.sqrt(float(left[at] / self.own[at]) / (self.n - 3))
        return self.centre + float(self.crossed[at] / self.own[at]), error


@dataclass(frozen=True)
class _Rests:
    """The profiles of one series under every correlation of its errors, and what each correlation costs."""

    profiles: list[_RestProfile]
    known: Floats

    @classmethod
    def of(cls, times: Floats, values: Floats, tau: float) -> "_Rests":
        errors, clock = CorrelatedErrors.of(times), times - times[0]
        profiles = [_RestProfile.of(errors, clock, values, tau, at) for at in range(len(CORRELATIONS))]
        return cls(profiles, _knowledge(errors, clock, values))

    @property
    def n(self) -> int:
        return self.profiles[0].n

    def deviance(self, rests: Floats) -> Floats:
        """Restricted likelihood of some rests (m,), in units of a deviance."""
        tried = [one.deviance(rests, self.n - 3) + cost for one, cost in zip(self.profiles, self.known, strict=True)]
        return np.asarray(np.min(tried, axis=0))


def _place(correlation: float) -> int:
    return int(np.abs(CORRELATIONS - correlation).argmin())


def _rest_interval(rests: _Rests, at: int) -> Interval:
    """Most likely rest and its interval, looked for ever further away from that under one correlation."""
    best, error = rests.profiles[at].likely()
    for widening in range(_WIDENINGS):
        grid = best + error * 4**widening * np.linspace(-_ERRORS, _ERRORS, _RESTS)
        found = likely(grid, rests.deviance(grid), _freedom(rests.n, float(CORRELATIONS[at])))
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return found


def _decaying(clock: Floats, taus: Floats) -> Floats:
    """1 - exp(-t / tau) (m, n): beside a constant the same as the exponential, and exact for long taus."""
    return np.asarray(-np.expm1(-clock / taus[:, None]))


def _taus(clock: Floats) -> Floats:
    """Taus that are looked at, from a quarter of a distance to many lengths."""
    return np.geomspace(float(np.diff(clock).min()) / 4, _LONGEST * float(clock[-1]), _TAUS)


def _rivals(errors: CorrelatedErrors, clock: Floats, values: Floats, tau: float) -> tuple[float, float, float]:
    """AICc of a constant, of the exponential, and of the better of a parabola and the exponential beside a line."""
    share = clock / clock[-1]
    powers = np.stack([np.ones(len(clock)), share, share**2])
    none, shapes = powers[:0], _decaying(clock, np.append(_taus(clock), tau))
    flat = aicc(errors, errors.left(values, powers[:1], none), 1)
    bent = aicc(errors, errors.left(values, powers[:1], shapes), 3)
    parabola = aicc(errors, errors.left(values, powers, none), 3)
    beside = aicc(errors, errors.left(values, powers[:2], shapes), 4)
    return flat, bent, min(parabola, beside)


def _tau_interval(errors: CorrelatedErrors, clock: Floats, values: Floats, known: Floats) -> tuple[Interval, float]:
    """Most likely tau with its interval, and the correlation of the errors there.

    The grid is made finer about what it has found; the correlation is chosen anew for each tau.
    """
    one = np.ones((1, len(clock)))
    grid = _taus(clock)
    for _ in range(_ROUNDS):
        left = errors.left(values, one, _decaying(clock, grid))
        likelihood = (len(clock) - 3) * np.log(left) + known[:, None]
        profile = likelihood.min(axis=0)
        best = int(profile.argmin())
        correlation = float(CORRELATIONS[likelihood[:, best].argmin()])
        found = likely(grid, profile, _freedom(len(clock), correlation))
        grid = _finer(grid, found)
    return found, correlation


def _knowledge(errors: CorrelatedErrors, clock: Floats, values: Floats) -> Floats:
    """What each correlation of the errors (r,) costs, the coefficients integrated out (restricted likelihood)."""
    taus = _taus(clock)
    left = errors.left(values, np.ones((1, len(clock))), _decaying(clock, taus))
    at = int((len(clock) * np.log(left) + errors.log_determinant[:, None]).min(axis=0).argmin())
    curve = np.exp(-clock / taus[at])
    columns = np.stack([np.ones(len(clock)), curve, clock / taus[at] * curve])
    return errors.log_determinant + errors.information(columns)


def _finer(grid: Floats, found: Interval) -> Floats:
    """A grid of the same length over the interval that was found, and the neighbours of its best value at least."""
    best = int(np.abs(grid - found.best).argmin())
    last = len(grid) - 1
    low = min(found.low, grid[max(best - 1, 0)]) if math.isfinite(found.low) else grid[0]
    high = max(found.high, grid[min(best + 1, last)]) if math.isfinite(found.high) else grid[last]
    margin = math.sqrt(float(high / low))
    return np.geomspace(max(low / margin, grid[0]), min(high * margin, grid[last]), _TAUS)


def _freedom(n: int, correlation: float) -> float:
    """Degrees of freedom of the residuals: of as many independent points as the correlated ones are worth."""
    return max(n * (1 - correlation) / (1 + correlation) - 3, 2.0)
