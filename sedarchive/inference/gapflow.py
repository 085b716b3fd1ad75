"""Flow of a spectral gap: whether it returns to a value of its own, and when it opens and collapses.

The gap g = sigma_k - sigma_{k+1} of rolling windows at a fixed k is held to follow ``dg/dt = a g + b`` (the "Spectral
Edge Thesis", arXiv 2603.28964, theorem 14.2): damping at the rate -a towards the viable gap -b / a. Least squares of
the forward difference on the gap finds a "significant" a < 0 in nearly every series of pure noise, since any level that
stays within bounds returns to its mean. So a stands beside the same fit to random updates of the same norms, window by
window. The authors take the centred difference; it sees nothing of a return that is as probable backwards in time, only
a lasting approach, and errors of the gap bias it towards 0: it is here under its own name, without an interval.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sedarchive.inference.returns import FittedLine, ReturnIntervals, return_intervals
from sedarchive.inference.walks import windows_of_band

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

MIN_POINTS = 10
"""Gap rates below which no flow is fitted."""
DRAWS = 99
"""Random histories of a null: each costs an eigenproblem a window."""
_CHUNK_NUMBERS = 2**21


@dataclass(frozen=True)
class FlowFit:
    """Least squares of dg/dt = a g + b; for a stack of series each is an array of the leading axes."""

    slope: Floats
    """a [1/step]."""
    drive: Floats
    """b [weight/step]."""
    r2: Floats
    """Share of the variance of dg/dt that is explained."""

    @property
    def correlation(self) -> Floats:
        """Correlation of gap and rate."""
        return np.asarray(np.sign(self.slope) * np.sqrt(self.r2))


@dataclass(frozen=True)
class GapFlow:
    """Flow of one gap, beside its null."""

    k: int
    n: int
    """Points of the fit."""
    status: str
    """ok, too_few, no_damping (a >= 0) or no_null."""
    damping: float
    """-a [1/step]; positive if the gap returns."""
    damping_low: float
    """95 % interval of -a by inversion (:mod:`sedarchive.inference.returns`); NaN where it has no end."""
    damping_high: float
    null_low: float
    """2.5 and 97.5 % quantile of -a on random updates of the same norms."""
    null_high: float
    p: float
    """(1 + random histories whose gap and rate correlate at least as negatively) / (1 + draws)."""
    viable_gap: float
    """-b / a [weight]; NaN unless the gap returns."""
    viable_low: float
    """95 % interval of the viable gap (Fieller); NaN unless the interval of the damping is positive throughout."""
    viable_high: float
    r2: float
    r2_out_of_sample: float
    """Share explained of each half of the run by the fit to the other."""


@dataclass(frozen=True)
class GapTimes:
    """When the gap opened and collapsed, and when the flow fitted to the other part of the run says so [steps]."""

    opened: float
    """First step at which the gap reaches a share of its peak; NaN if it begins there."""
    peaked: float
    collapsed: float
    """First step after the peak below that share; NaN if there is none."""
    opened_predicted: float
    """From the first gap, by the flow after the peak; NaN if that never reaches the level."""
    collapsed_predicted: float
    """From the peak, by the flow up to the peak."""


def gap_series(sigma: Floats, k: int) -> Floats:
    """Return sigma_k - sigma_{k+1} (n,) of windows (n, W) at one k, from 1."""
    gap: Floats = sigma[..., k - 1] - sigma[..., k]
    return gap


def gap_rate(steps: Steps, gap: Floats, centred: bool = False) -> Floats:
    """Return the forward (or the centred) difference of the gap per step (..., n); NaN where a neighbour lacks."""
    rate = np.full(gap.shape, np.nan)
    if centred:
        rate[..., 1:-1] = (gap[..., 2:] - gap[..., :-2]) / (steps[2:] - steps[:-2])
    else:
        rate[..., :-1] = np.diff(gap) / np.diff(steps)
    return rate


def fit_flow(gap: Floats, rate: Floats) -> FlowFit:
    """Return the least-squares line of rate on gap (..., n); pairs that hold NaN are left out."""
    known = np.isfinite(gap) & np.isfinite(rate)
    n = np.maximum(known.sum(axis=-1), 1)
    x, y = np.where(known, gap, 0.0), np.where(known, rate, 0.0)
    mean_x, mean_y = x.sum(axis=-1) / n, y.sum(axis=-1) / n
    dx = np.where(known, x - mean_x[..., None], 0.0)
    dy = np.where(known, y - mean_y[..., None], 0.0)
    sxx, syy, sxy = (dx * dx).sum(axis=-1), (dy * dy).sum(axis=-1), (dx * dy).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = sxy / sxx
        r2 = sxy**2 / (sxx * syy)
    return FlowFit(np.asarray(slope), np.asarray(mean_y - slope * mean_x), np.asarray(r2))


def gap_flow(steps: Steps, sigma: Floats, k: int, null: Floats, centred: bool = False) -> GapFlow:
    """Fit the flow of one gap.

    Parameters
    ----------
    steps
        Step of each window's last update (n,).
    sigma
        Singular values (n, W); NaN where unresolved.
    k
        Which gap, 1 to W - 1.
    null
        Gaps of random histories (draws, n) from :func:`walk_gaps`; of shape (0, n) for none.
    centred
        Whether the difference is the authors' centred one, which has no interval.
    """
    gap = gap_series(sigma, k)
    rate = gap_rate(steps, gap, centred)
    known = np.isfinite(gap) & np.isfinite(rate)
    n = int(known.sum())
    if n < MIN_POINTS or np.ptp(gap[known]) == 0:
        return GapFlow(k, n, "too_few", *[np.nan] * 11)
    fit = fit_flow(gap, rate)
    slope, drive = float(fit.slope), float(fit.drive)
    null = np.where(np.isfinite(gap), null, np.nan)  # what is unknown in the run is so in the null
    low, high, p = _against(fit_flow(null, gap_rate(steps, null, centred)), fit)
    ends = _no_ends() if centred else _intervals(_Points.of(steps, gap, rate), fit, sigma.shape[1])
    viable = -drive / slope if slope < 0 else np.nan
    status = "no_damping" if slope >= 0 else "no_null" if np.isnan(p) else "ok"
    damping = (-slope, -ends.slope_high, -ends.slope_low, low, high, p)
    goodness = (float(fit.r2), _out_of_sample(gap, rate))
    return GapFlow(k, n, status, *damping, viable, ends.root_low, ends.root_high, *goodness)


@dataclass(frozen=True)
class _Points:
    """Known points of a fit, and the usual distance of one to the next [steps]."""

    gap: Floats
    rate: Floats
    spacing: float

    @classmethod
    def of(cls, steps: Steps, gap: Floats, rate: Floats) -> "_Points":
        known = np.isfinite(gap) & np.isfinite(rate)
        return cls(gap[known], rate[known], float(np.median(np.diff(steps))))


def _no_ends() -> ReturnIntervals:
    return ReturnIntervals(*[np.nan] * 4)


def _intervals(points: _Points, fit: FlowFit, size: int) -> ReturnIntervals:
    """Intervals of slope [1/step] and viable gap of a fit to windows of ``size`` updates."""
    h = points.spacing
    errors = _line_errors(points.gap, points.rate, size)
    line = FittedLine(points.gap, h * points.rate, h * float(fit.slope), h * float(fit.drive), h * h * errors)
    found = return_intervals(line)
    return replace(found, slope_low=found.slope_low / h, slope_high=found.slope_high / h)


def _against(random: FlowFit, fit: FlowFit) -> tuple[float, float, float]:
    """Quantiles of -a of random histories, and the share of them as closely bound to their gap; NaN without any.

    The share goes by the correlation, not by a: windows of noise forget their gap fast, but follow no line.
    """
    slope = random.slope[np.isfinite(random.slope)]
    if len(slope) == 0:
        return np.nan, np.nan, np.nan
    low, high = np.quantile(-slope, [0.025, 0.975])
    reached = int((random.correlation <= fit.correlation).sum())
    return float(low), float(high), (1 + reached) / (1 + len(slope))


def _line_errors(gap: Floats, rate: Floats, size: int) -> Floats:
    """Return the covariance (2, 2) of slope and drive: the larger of two.

    One is that of independent errors, the other allows for errors correlated over a window (Newey and West 1987), its
    residuals scaled by their leverage, without which few points make it too small.
    """
    design = np.column_stack([gap, np.ones(len(gap))])
    weights = np.linalg.pinv(design.T @ design)
    residual = rate - design @ (weights @ design.T @ rate)
    leverage = np.einsum("ij,jk,ik->i", design, weights, design)
    scores = design * (residual / np.maximum(1.0 - leverage, 1.0 / len(gap)))[:, None]
    middle = scores.T @ scores
    reach = min(size + 1, len(gap) - 1)
    for lag in range(1, reach + 1):
        product = scores[lag:].T @ scores[:-lag]
        middle = middle + (1 - lag / (reach + 1)) * (product + product.T)
    candidates: list[Floats] = [weights @ middle @ weights, weights * (residual @ residual) / (len(gap) - 2)]
    return max(candidates, key=lambda errors: float(errors[0, 0]))


def _out_of_sample(gap: Floats, rate: Floats) -> float:
    """Share of the variance of each half that the line of the other half explains; may be negative."""
    half = len(gap) // 2
    left = total = 0.0
    for fitted, predicted in ((slice(None, half), slice(half, None)), (slice(half, None), slice(None, half))):
        fit = fit_flow(gap[fitted], rate[fitted])
        known = np.isfinite(gap[predicted]) & np.isfinite(rate[predicted])
        wanted = rate[predicted][known]
        left += float(((wanted - fit.slope * gap[predicted][known] - fit.drive) ** 2).sum())
        total += float(((wanted - wanted.mean()) ** 2).sum()) if len(wanted) else 0.0
    return 1.0 - left / total if total > 0 else np.nan


def gap_times(steps: Steps, sigma: Floats, k: int, share: float = 0.5) -> GapTimes:
    """Return when the gap opened and collapsed, observed and predicted.

    Parameters
    ----------
    steps, sigma, k
        As in :func:`gap_flow`.
    share
        Part of the peak that the gap reaches when it opens and falls below when it collapses.
    """
    gap = gap_series(sigma, k)
    rate = gap_rate(steps, gap, centred=True)
    if not np.isfinite(gap).any():
        return GapTimes(*[np.nan] * 5)
    peak = int(np.nanargmax(gap))
    level = share * gap[peak]
    opened = int(np.flatnonzero(gap >= level)[0])
    fallen = np.flatnonzero((gap < level) & (np.arange(len(gap)) > peak))
    first = int(np.flatnonzero(np.isfinite(gap))[0])
    after, before = fit_flow(gap[peak:], rate[peak:]), fit_flow(gap[: peak + 1], rate[: peak + 1])
    return GapTimes(
        float(steps[opened]) if opened > first else np.nan,
        float(steps[peak]),
        float(steps[fallen[0]]) if len(fallen) else np.nan,
        float(steps[first]) + crossing_time(float(gap[first]), float(level), after) if opened > first else np.nan,
        float(steps[peak]) + crossing_time(float(gap[peak]), float(level), before),
    )


def crossing_time(start: float, level: float, fit: FlowFit) -> float:
    """Return the steps until a gap that flows by ``fit`` from ``start`` is at ``level``; NaN if it never is."""
    slope, drive = float(fit.slope), float(fit.drive)
    speed, then = slope * start + drive, slope * level + drive
    # monotone on the way: it arrives only if it moves towards the level and is not at rest before
    if not np.isfinite(speed * then) or speed * then <= 0 or speed * (level - start) <= 0:
        return np.nan
    return (level - start) / speed if slope == 0 else float(np.log(then / speed) / slope)


@dataclass(frozen=True)
class RandomHistory:
    """Random updates of given norms."""

    norms: Floats
    """Norms of all updates (n_updates,); a window that holds a NaN has no gap."""
    p_eff: float
    """Effective dimension, in which the directions are random."""


def walk_gaps(
    history: RandomHistory, size: int, k: int, starts: Steps | None = None, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """Return the gap of windows of random histories with the norms of a real one.

    Parameters
    ----------
    history
        What the histories are drawn from.
    size, k
        W, and which gap.
    starts
        First update of each window wanted (n,); None for every window.
    draws, seed
        Number of histories, and the seed.

    Returns
    -------
    ndarray
        (draws, n).

    Notes
    -----
    Products of updates less than W apart are all that windows need: the Cholesky factor of the cosines is drawn within
    that band (Bartlett's decomposition, cut), which gives each window's Gram matrix up to W / p_eff.
    """
    n_updates = len(history.norms)
    if starts is None:
        starts = np.arange(n_updates - size + 1)
    gaps = np.full((draws, len(starts)), np.nan)
    if not len(starts):
        return gaps
    rng = np.random.default_rng(seed)
    at_once = max(_CHUNK_NUMBERS // max(n_updates * size, 1), 1)
    known = sliding_window_view(np.isfinite(history.norms), size)
    finite: NDArray[np.bool_] = np.asarray(known[starts].all(axis=1))
    for first in range(0, draws, at_once):
        part = gaps[first : first + at_once]
        band = _products(_banded_factor(history, size, len(part), rng))
        for drawn, products in zip(part, band, strict=True):
            energy = np.linalg.eigvalsh(windows_of_band(products)[starts[finite]], UPLO="L")
            sigma = np.sqrt(np.maximum(energy, 0.0))
            drawn[finite] = sigma[:, -k] - sigma[:, -k - 1]
    return gaps


def _banded_factor(history: RandomHistory, size: int, draws: int, rng: np.random.Generator) -> Floats:
    """Rows (draws, n_updates, W) of a banded factor; the last entry is on the diagonal, the others lie left of it."""
    n_updates = len(history.norms)
    factor = rng.standard_normal((draws, n_updates, size))
    degrees = max(history.p_eff - size + 1, 1.0)
    factor[:, :, -1] = np.sqrt(rng.chisquare(degrees, (draws, n_updates)))
    factor *= history.norms[:, None] / np.sqrt((factor**2).sum(axis=2, keepdims=True))
    return factor


def _products(factor: Floats) -> Floats:
    """Products of rows i and i + d at [draw, i, d] (draws, n_updates, W); NaN becomes 0, beyond the last row 0 too."""
    size = factor.shape[2]
    rows = np.nan_to_num(factor)
    products = np.zeros(factor.shape)
    for distance in range(min(size, factor.shape[1])):  # the diagonal of a later row stands as far to the right
        earlier, later = rows[:, : factor.shape[1] - distance, distance:], rows[:, distance:, : size - distance]
        products[:, : earlier.shape[1], distance] = np.einsum("dij,dij->di", earlier, later)
    return products
