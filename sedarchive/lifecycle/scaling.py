"""Laws over models of different size: power, logarithm or no change, and how much few points can tell.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) fits alpha's spread ~ depth^0.26 through three
depths; three points of pure noise reach R² >= 0.99 in 6 % of fits.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.leads import Line, fit_line
from sedarchive.lifecycle.correlated import with_penalty

Floats = NDArray[np.float64]


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


def _aicc(residual: Floats, n_coefficients: int) -> float:
    """AICc of Gaussian errors; their variance counts as a parameter."""
    n = len(residual)
    return with_penalty(n * math.log(max(float(residual @ residual), 1e-300) / n), n, n_coefficients + 1)
