"""What pure noise gives where a window's Marchenko-Pastur edge and BBP threshold are read.

The "edge" takes its noise level from the lower half of the window itself. Where p is far above W it is that half's
root mean square, which most singular values of pure noise exceed (7.6 of 10), and the smallest of them is
(p / (W - 1))^(1/4) times the BBP threshold (65 for the published figure). So neither is a test; each stands beside its
value on noise: W updates of equal norms and random directions in p_eff dimensions, whose squared singular values follow
the Marchenko-Pastur law (1967).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POINTS = 4096


@dataclass(frozen=True)
class NoiseLevels:
    """Values of one window size on pure noise whose updates have norm 1; NaN below W dimensions."""

    mp_edge: float
    """Marchenko-Pastur edge as a window of noise would give it."""
    above_mp: float
    """Expected number of its singular values at or above that edge, 0 to W."""
    bbp_ratio: float
    """Its smallest singular value over the BBP threshold."""


def noise_levels(window_size: int, p_eff: float, n_elements: int) -> NoiseLevels:
    """Return the levels of pure noise.

    Parameters
    ----------
    window_size
        W >= 2, in updates.
    p_eff
        Dimension in which the directions are random.
    n_elements
        p, the number of parameters, which the formulas of edge and threshold use.

    Notes
    -----
    The law is that of many updates; at W = 5 to 30 the mean of sampled windows differs by up to 0.5 singular values in
    ``above_mp`` and by some per cent in the others.
    """
    if p_eff < window_size:
        return NoiseLevels(np.nan, np.nan, np.nan)
    energy, share = _marchenko_pastur(window_size / p_eff)
    bottom = 1.0 - (window_size // 2) / window_size
    lower = share.cumsum() <= bottom
    lower[0] = True
    level = float(np.average(energy[lower], weights=share[lower]))
    edge = np.sqrt(level) * (1.0 + np.sqrt(window_size / n_elements))
    smallest = np.sqrt(np.interp(0.5 / window_size, share.cumsum(), energy))
    threshold = np.sqrt(level) * ((window_size - 1) / n_elements) ** 0.25
    above = window_size * float(share[np.sqrt(energy) >= edge].sum())
    return NoiseLevels(float(edge), above, float(smallest / threshold))


def _marchenko_pastur(aspect: float) -> tuple[Floats, Floats]:
    """Points (ascending) and weights of the law of the squared singular values over p_eff; ``aspect`` = W / p_eff."""
    phase = np.pi * (np.arange(_POINTS) + 0.5) / _POINTS
    energy = 1.0 + aspect - 2.0 * np.sqrt(aspect) * np.cos(phase)
    share = np.sin(phase) ** 2 / energy
    return energy, share / share.sum()
