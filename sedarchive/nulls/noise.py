"""What pure noise gives where a window's Marchenko-Pastur edge and BBP threshold are read.

The "edge" takes its noise level from the lower half of the window itself. Where p is far above W it is that half's
root mean square, which most singular values of pure noise exceed (7.6 of 10), and the smallest of them is
(p / (W - 1))^(1/4) times the BBP threshold (65 for the published figure). So neither is a test; each stands beside its
value on noise: W updates of equal norms and random directions in p_eff dimensions, whose squared singular values follow
the Marchenko-Pastur law (1967).

Consecutive windows of noise share all but one update, so that their directions overlap too: v_1 by about 0.8 at W = 10
in any number of dimensions. An overlap stands beside that value.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sedarchive.nulls.leaders import draw_cosines, leader_dimension
from sedarchive.rolling.modes import cosines_between, modes_of

Floats = NDArray[np.float64]

_POINTS = 4096
OVERLAP_DRAWS = 999
_MANY_DIMENSIONS = 8
_ROOT_STEP = 0.1


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


@dataclass(frozen=True)
class NoiseOverlaps:
    """Overlap of v_k with that of the window before on pure noise (W,); NaN where v_k is not resolved."""

    median: Floats
    high: Floats
    """95 % quantile."""


def noise_overlaps(window_size: int, p_eff: float, draws: int = OVERLAP_DRAWS, seed: int = 0) -> NoiseOverlaps:
    """Sample the overlaps of consecutive windows of random updates of equal norms.

    Parameters
    ----------
    window_size
        W, in updates.
    p_eff
        Dimension in which the directions are random.
        Those of the nearest value of a grid are taken (:func:`overlap_dimension`), so that scopes may share them: 0.02
        at most from those of p_eff itself, no more than the standard error of 999 draws.
    draws, seed
        Number of pairs of windows, and the seed.
    """
    return _noise_overlaps(window_size, overlap_dimension(p_eff, window_size), draws, seed)


def overlap_dimension(p_eff: float, window_size: int) -> float:
    """Return the dimension whose overlaps stand for those of p_eff.

    In many dimensions the overlaps have a limit, and differ from it in proportion to sqrt(W / p_eff): from 8 W
    dimensions up the grid is one of this root, in steps of 0.1, so that four values reach to infinity. Measured at W
    = 5 to 30, medians lie 0.017 at most from those of p_eff itself and 95 % quantiles 0.006, where 999 draws have
    standard errors of 0.016 to 0.019 and 0.007 to 0.011 (of the worst k in each case). Below, :func:`leader_dimension`.
    """
    if p_eff < _MANY_DIMENSIONS * window_size:
        return leader_dimension(p_eff, window_size)
    root = (np.floor(np.sqrt(window_size / p_eff) / _ROOT_STEP) + 0.5) * _ROOT_STEP
    return float(window_size / root**2)


@lru_cache(maxsize=256)
def _noise_overlaps(window_size: int, p_eff: float, draws: int, seed: int) -> NoiseOverlaps:
    products = draw_cosines(window_size + 1, p_eff, draws, seed).cosines
    before, after = modes_of(products[:, :-1, :-1]), modes_of(products[:, 1:, 1:])
    overlap = np.abs(np.diagonal(cosines_between(after, before, products[:, 1:, :-1]), axis1=1, axis2=2))
    known = np.isfinite(overlap).all(axis=0)
    median, high = np.quantile(np.where(known, overlap, 0.0), [0.5, 0.95], axis=0)
    return NoiseOverlaps(np.where(known, median, np.nan), np.where(known, high, np.nan))


def _marchenko_pastur(aspect: float) -> tuple[Floats, Floats]:
    """Points (ascending) and weights of the law of the squared singular values over p_eff; ``aspect`` = W / p_eff."""
    phase = np.pi * (np.arange(_POINTS) + 0.5) / _POINTS
    energy = 1.0 + aspect - 2.0 * np.sqrt(aspect) * np.cos(phase)
    share = np.sin(phase) ** 2 / energy
    return energy, share / share.sum()
