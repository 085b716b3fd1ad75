"""Laws over models of different size: power, logarithm or no change, and how much few points can tell.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) fits alpha's spread ~ depth^0.26 through three
depths; three points of pure noise reach R² >= 0.99 in 6 % of fits.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from sedarchive.inference.leads import Line, fit_line
from sedarchive.lifecycle.correlated import with_penalty

Floats = NDArray[np.float64]

_DRAWS = 1999


@dataclass(frozen=True)
class ScalingLaw:
    """y = prefactor x^exponent over models, beside its alternatives."""

    line: Line
    """ln y on ln x: the slope is the exponent, with Student's t interval."""
    aicc: dict[str, float]
    """By law (power, logarithm, constant): AICc of its residuals in y; NaN with fewer than five points."""
    best: str
    """Law of the smallest AICc; none with fewer than five points."""


def scaling_law(size: Floats, value: Floats) -> ScalingLaw:
    """Fit laws of a quantity over sizes (n,), both positive.

    Raises
    ------
    ValueError
        If a size or a value is not positive.
    """
    if not ((size > 0) & (value > 0)).all():
        raise ValueError("a power law needs positive sizes and values; leave out models that have none")
    log_size = np.log(size)
    line = fit_line(log_size, np.log(value))
    if len(size) < 5 or line.status == "too_few":
        return ScalingLaw(line, dict.fromkeys(("power", "logarithm", "constant"), math.nan), "none")
    logarithm = fit_line(log_size, value)
    fitted = {
        "power": (np.exp(line.intercept + line.slope * log_size), 2),
        "logarithm": (logarithm.intercept + logarithm.slope * log_size, 2),
        "constant": (np.full(len(size), value.mean()), 1),
    }
    aicc = {name: _aicc(value - curve, n_coefficients) for name, (curve, n_coefficients) in fitted.items()}
    return ScalingLaw(line, aicc, min(aicc, key=lambda name: aicc[name]))


@dataclass(frozen=True)
class SpreadNull:
    """Exponents of a spread over layers that have nothing to do with each other."""

    low: float
    """2.5 % quantile."""
    high: float
    """97.5 % quantile."""
    p: float
    """How rarely an exponent lies so far out, on either side."""


def spread_null(n_layers: Floats, size: Floats, exponent: float, seed: int = 0) -> SpreadNull:
    """Exponents that layers of independent normal numbers give: the more layers, the further apart their ends lie.

    Parameters
    ----------
    n_layers
        Of each model (n,), at least 2.
    size
        What the spread is fitted against (n,).
    exponent
        The one that was found.
    """
    rng = np.random.default_rng(seed)
    # the largest of L uniform numbers, and the smallest of the L - 1 others, which lie below it
    largest = rng.random((_DRAWS, len(n_layers))) ** (1 / n_layers)
    smallest = largest * -np.expm1(np.log(rng.random(largest.shape)) / (n_layers - 1))
    x = np.log(size) - np.log(size).mean()
    found = np.log(ndtri(largest) - ndtri(smallest)) @ x / (x @ x)
    low, high = np.quantile(found, (0.025, 0.975))
    rarer = min(int((found <= exponent).sum()), int((found >= exponent).sum()))
    return SpreadNull(float(low), float(high), min(2 * (1 + rarer) / (1 + _DRAWS), 1.0))


def _aicc(residual: Floats, n_coefficients: int) -> float:
    """AICc of Gaussian errors; their variance counts as a parameter."""
    n = len(residual)
    return with_penalty(n * math.log(max(float(residual @ residual), 1e-300) / n), n, n_coefficients + 1)
