"""Gradients over depth: how a spectral quantity changes from the first layer to the last.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) speaks of a compression gradient that turns from
negative to positive, and of an alpha profile with a peak inside; how it measures them is not published.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from sedarchive.inference.leads import Line, fit_line
from sedarchive.lifecycle.correlated import with_penalty

Floats = NDArray[np.float64]

_DECISIVE = 2.0
"""Difference of AICc above which a shape is preferred."""


@dataclass(frozen=True)
class Gradient:
    """A quantity over depth at one step."""

    line: Line
    """Least squares on relative depth, 0 for the first layer and 1 for the last."""
    first_last: float
    """Value of the first layer less that of the last."""
    halves: float
    """Mean of the first half of the layers less that of the last half; the middle one of an odd number in neither."""


@dataclass(frozen=True)
class Hump:
    """Whether a quantity has an extreme inside the depth, and where."""

    curvature: float
    """Of the parabola; negative for an inverted U."""
    peak: float
    """Relative depth of the vertex; NaN unless the shape is a U."""
    peak_low: float
    """Ends of Fieller's 95 % interval; NaN where it has none."""
    peak_high: float
    aicc_gain: float
    """AICc of the line less that of the parabola: above 2, the parabola is better."""
    shape: str
    """inverted_u, u, monotone, or too_few (n < 5)."""


def relative_depth(n_layers: int) -> Floats:
    """Depth of each layer, from 0 to 1."""
    return np.linspace(0.0, 1.0, n_layers)


def gradient_of(values: Floats) -> Gradient:
    """Gradient of a quantity over layers (L,), finite."""
    half = len(values) // 2
    halves = float(values[:half].mean() - values[-half:].mean()) if half else math.nan
    return Gradient(fit_line(relative_depth(len(values)), values), float(values[0] - values[-1]), halves)


def reversal(steps: Floats, gradient: Floats) -> float:
    """Step (interpolated) after which a gradient (T,) keeps the sign that it has at the end; NaN if it never turned.

    Zeros have the sign of what comes after them.
    """
    sign = np.sign(gradient)
    last = sign[-1]
    other = np.flatnonzero(sign == -last)
    if last == 0 or not len(other):
        return math.nan
    at = int(other[-1])
    share = gradient[at] / (gradient[at] - gradient[at + 1])
    return float(steps[at] + share * (steps[at + 1] - steps[at]))


def hump_of(values: Floats) -> Hump:
    """Compare a parabola over relative depth with a line (L,).

    The position of the vertex has Fieller's interval: a ratio of estimates has no standard error to speak of.
    """
    n = len(values)
    if n < 5:
        return Hump(math.nan, math.nan, math.nan, math.nan, math.nan, "too_few")
    x = relative_depth(n) - 0.5
    design = np.stack([np.ones(n), x, x**2], axis=1)
    straight, bent = _residual(design[:, :2], values), _residual(design, values)
    gain = _aicc(straight, n, 2) - _aicc(bent, n, 3)
    inverse = np.linalg.inv(design.T @ design)
    _, slope, curvature = inverse @ design.T @ values
    covariance = inverse * bent / (n - 3)
    peak = -slope / (2 * curvature) if curvature else math.inf
    inside = gain > _DECISIVE and abs(peak) < 0.5
    shape = ("inverted_u" if curvature < 0 else "u") if inside else "monotone"
    low, high = _fieller(slope, curvature, covariance[1:, 1:], n - 3) if inside else (math.nan, math.nan)
    return Hump(float(curvature), float(peak + 0.5) if inside else math.nan, low + 0.5, high + 0.5, float(gain), shape)


def _residual(design: Floats, values: Floats) -> float:
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(left @ left)


def _aicc(residual: float, n: int, n_coefficients: int) -> float:
    """AICc of Gaussian errors; their variance counts as a parameter."""
    return with_penalty(n * math.log(max(residual, 1e-300) / n), n, n_coefficients + 1)


def _fieller(slope: float, curvature: float, covariance: Floats, freedom: int) -> tuple[float, float]:
    """Interval of -slope / (2 curvature): where slope + 2 x curvature is not different from 0."""
    reach = float(stdtrit(freedom, 0.975)) ** 2
    a = 4 * (curvature**2 - reach * covariance[1, 1])
    b = 4 * (slope * curvature - reach * covariance[0, 1])
    c = slope**2 - reach * covariance[0, 0]
    inner = b**2 - 4 * a * c
    if a <= 0 or inner < 0:
        return math.nan, math.nan
    return float((-b - math.sqrt(inner)) / (2 * a)), float((-b + math.sqrt(inner)) / (2 * a))
