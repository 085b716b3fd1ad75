"""Gradients over depth: how a spectral quantity changes from the first layer to the last.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) speaks of a compression gradient that turns from
negative to positive, and of an alpha profile with a peak inside; how it measures them is not published.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from sedarchive.lifecycle.correlated import with_penalty

Floats = NDArray[np.float64]
Texts = NDArray[np.str_]

_DECISIVE = 2.0
"""Difference of AICc above which a shape is preferred."""
_FLAT = 1e-12
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Gradients:
    """A quantity over depth at T steps, an array (T,) each."""

    slope: Floats
    """Least squares on relative depth, 0 for the first layer and 1 for the last; NaN with fewer than three layers."""
    slope_low: Floats
    """Ends of Student's t interval."""
    slope_high: Floats
    first_last: Floats
    """Value of the first layer less that of the last."""
    halves: Floats
    """Mean of the first half of the layers less that of the last half; the middle one of an odd number in neither."""
    spread: Floats
    """Largest less smallest layer."""
    status: Texts
    """ok; few (n < 10); three_points; constant (all layers are equal); too_few (n < 3)."""


@dataclass(frozen=True)
class Humps:
    """Whether a quantity has an extreme inside the depth at each of T steps, and where: an array (T,) each."""

    curvature: Floats
    """Of the parabola; negative for an inverted U."""
    peak: Floats
    """Relative depth of the vertex; NaN unless the shape is a U."""
    peak_low: Floats
    """Ends of Fieller's 95 % interval; NaN where it has none."""
    peak_high: Floats
    aicc_gain: Floats
    """AICc of the line less that of the parabola: above 2, the parabola is better."""
    shape: Texts
    """inverted_u, u, monotone, or too_few (n < 5)."""


@dataclass(frozen=True)
class Hump:
    """The same of one profile."""

    curvature: float
    peak: float
    peak_low: float
    peak_high: float
    aicc_gain: float
    shape: str


def relative_depth(n_layers: int) -> Floats:
    """Depth of each layer, from 0 to 1."""
    return np.linspace(0.0, 1.0, n_layers)


def gradients_of(values: Floats) -> Gradients:
    """Gradients of a quantity over layers at each step (L, T), L at least 2, finite."""
    n, half = len(values), len(values) // 2
    slope, reach = _line(values) if n > 2 else (np.full(values.shape[1], np.nan),) * 2
    return Gradients(
        slope=slope,
        slope_low=slope - reach,
        slope_high=slope + reach,
        first_last=values[0] - values[-1],
        halves=values[:half].mean(axis=0) - values[-half:].mean(axis=0),
        spread=np.ptp(values, axis=0),
        status=_status(values),
    )


def _line(values: Floats) -> tuple[Floats, Floats]:
    """Slopes over relative depth, and how far their 95 % intervals reach on both sides."""
    n = len(values)
    dx, dy = relative_depth(n) - 0.5, values - values.mean(axis=0)
    slope = dx @ dy / (dx @ dx)
    left = dy - slope * dx[:, None]
    error = np.sqrt((left**2).sum(axis=0) / (n - 2) / (dx @ dx))
    return slope, float(stdtrit(n - 2, 0.975)) * error


def _status(values: Floats) -> Texts:
    n = len(values)
    if n < 3:
        return np.full(values.shape[1], "too_few")
    energy = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    flat = energy <= _FLAT * (values**2).sum(axis=0)
    return np.where(flat, "constant", "three_points" if n == 3 else "few" if n < 10 else "ok")


def reversal(steps: Floats, gradient: Floats) -> float:
    """Step (interpolated) after which a gradient (T,) keeps the sign that it has at the end; NaN if it never turned.

    Zeros, and what is 1e-9 of the largest value or less, have the sign of what comes after them: the compression of the
    first step is 0 but for rounding.
    """
    largest = np.max(np.abs(gradient), initial=0.0, where=np.isfinite(gradient))
    sign = np.where(np.abs(gradient) <= _ROUNDING * largest, 0.0, np.sign(gradient))
    last = sign[-1]
    other = np.flatnonzero(sign == -last)
    if last == 0 or not len(other):
        return float("nan")
    at = int(other[-1])
    share = gradient[at] / (gradient[at] - gradient[at + 1])
    return float(steps[at] + share * (steps[at + 1] - steps[at]))


def hump_of(values: Floats) -> Hump:
    """Compare a parabola with a line for one profile (L,)."""
    found = humps_of(values[:, None])
    return Hump(
        curvature=float(found.curvature[0]),
        peak=float(found.peak[0]),
        peak_low=float(found.peak_low[0]),
        peak_high=float(found.peak_high[0]),
        aicc_gain=float(found.aicc_gain[0]),
        shape=str(found.shape[0]),
    )


def humps_of(values: Floats) -> Humps:
    """Compare a parabola over relative depth with a line, at each step (L, T).

    The position of the vertex has Fieller's interval: a ratio of estimates has no standard error to speak of.
    """
    n, n_steps = values.shape
    if n < 5:
        nothing = np.full(n_steps, np.nan)
        return Humps(nothing, nothing, nothing, nothing, nothing, np.full(n_steps, "too_few"))
    x = relative_depth(n) - 0.5
    design = np.stack([np.ones(n), x, x**2], axis=1)
    bent = _residual(design, values)
    gain = _aicc(_residual(design[:, :2], values), n, 2) - _aicc(bent, n, 3)
    inverse = np.linalg.inv(design.T @ design)
    _, slope, curvature = inverse @ design.T @ values
    with np.errstate(divide="ignore", invalid="ignore"):
        peak = -slope / (2 * curvature)
        inside = (gain > _DECISIVE) & (np.abs(peak) < 0.5)
        low, high = _fieller(slope, curvature, inverse[1:, 1:], bent / (n - 3), n - 3)
    shape = np.where(inside, np.where(curvature < 0, "inverted_u", "u"), "monotone")
    peak, low, high = (np.where(inside, one + 0.5, np.nan) for one in (peak, low, high))
    return Humps(curvature, peak, low, high, gain, shape)


def _residual(design: Floats, values: Floats) -> Floats:
    """Residual sums of squares (T,)."""
    basis = np.linalg.qr(design)[0]
    return np.asarray(((values - basis @ (basis.T @ values)) ** 2).sum(axis=0))


def _aicc(residual: Floats, n: int, n_coefficients: int) -> Floats:
    """AICc of Gaussian errors (T,); their variance counts as a parameter."""
    penalty = with_penalty(0.0, n, n_coefficients + 1)
    return np.asarray(n * np.log(np.maximum(residual, 1e-300) / n) + penalty)


def _fieller(
    slope: Floats, curvature: Floats, unscaled: Floats, variance: Floats, freedom: int
) -> tuple[Floats, Floats]:
    """Interval of -slope / (2 curvature): where slope + 2 x curvature is not different from 0; NaN if it has no end.

    The covariance of the two is ``unscaled`` (2, 2) times the ``variance`` of each step (T,).
    """
    reach = float(stdtrit(freedom, 0.975)) ** 2 * variance
    a = 4 * (curvature**2 - reach * unscaled[1, 1])
    b = 4 * (slope * curvature - reach * unscaled[0, 1])
    c = slope**2 - reach * unscaled[0, 0]
    root = np.sqrt(np.where(a > 0, b**2 - 4 * a * c, np.nan))
    return np.asarray((-b - root) / (2 * a)), np.asarray((-b + root) / (2 * a))
