"""Whether compression and alpha part ways: the layers become alike again in one, and stay apart in the other.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) says that the gradient of compression over depth
reverses, while that of alpha only strengthens. Its test is not published. Here three things must hold: the gradient of
compression is beyond its null with one sign, and later with the other; the slope of alpha over depth moves away from 0
(:mod:`.strengthening`); and of the largest spread over layers that each had, alpha keeps more than compression.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

from sedarchive.lifecycle.gradients import reversal

Floats = NDArray[np.float64]

DRAWS = 1999
_FEWEST_LAYERS = 3


@dataclass(frozen=True)
class Turn:
    """Reversal of a gradient; NaN if it never turned."""

    step: float
    """Where it changes its sign for good, interpolated."""
    before: float
    """Farthest from 0 before, with the sign that it loses."""
    after: float
    """Farthest from 0 after, with the sign that it keeps."""


@dataclass(frozen=True)
class KeptSpread:
    """Standard deviations over layers at the last step, each over its largest of all steps; NaN where unknown."""

    compression: float = math.nan
    alpha: float = math.nan
    ratio: float = math.nan
    """Of alpha to compression."""
    low: float = math.nan
    """Ends of the 95 % interval (F distribution, as if layers were independent and normal)."""
    high: float = math.nan
    p: float = math.nan
    """Two-sided: the histories of random layers swapped between compression and alpha."""


def decisive_turn(steps: Floats, gradient: Floats, least: float) -> Turn:
    """Find where a gradient (T,) turns that has been farther than ``least`` from 0 on both sides."""
    sign = np.where(np.abs(gradient) > least, np.sign(gradient), 0)
    beyond = np.flatnonzero(sign)
    last = sign[beyond[-1]] if len(beyond) else 0
    other = np.flatnonzero(sign == -last) if last else beyond
    if not len(other):
        return Turn(math.nan, math.nan, math.nan)
    start = int(other[-1])
    end = start + int(np.flatnonzero(sign[start:] == last)[0])
    step = reversal(steps[start : end + 1], gradient[start : end + 1])
    before, after = -last * gradient[: start + 1], last * gradient[end:]
    return Turn(step, float(-last * before.max()), float(last * after.max()))


def kept_spread(compression: Floats, alpha: Floats, draws: int = DRAWS, seed: int = 0) -> KeptSpread:
    """Compare what is left of the spread over layers of compression and of alpha.

    Parameters
    ----------
    compression, alpha
        Both at the same steps (L, T), finite.
    draws, seed
        Of the null.
    """
    n_layers = len(alpha)
    sides = [_scaled(values) for values in (alpha, compression)]
    if n_layers < _FEWEST_LAYERS or not all(np.isfinite(side).all() for side in sides):
        return KeptSpread()
    swapped = np.random.default_rng(seed).random((draws + 1, n_layers)) < 0.5
    swapped[0] = False  # the observed one stands first
    mine, its = _kept(swapped, *sides), _kept(swapped, *sides[::-1])
    if not (mine[0] > 0 and its[0] > 0):
        return KeptSpread(float(its[0]), float(mine[0]))
    far = np.abs(np.log(np.maximum(mine, 1e-300) / np.maximum(its, 1e-300)))
    p = np.count_nonzero(far >= far[0] * (1 - 1e-12)) / (draws + 1)
    ratio, reach = float(mine[0] / its[0]), math.sqrt(fdtri(n_layers - 1, n_layers - 1, 0.975))
    return KeptSpread(float(its[0]), float(mine[0]), ratio, ratio / reach, ratio * reach, p)


def _scaled(values: Floats) -> Floats:
    """Values less the mean over layers at each step, over their largest standard deviation; NaN if there is none."""
    centred = values - values.mean(axis=0)
    largest = float(centred.std(axis=0).max())
    return np.asarray(centred / (largest if largest > 1e-12 * float(np.abs(values).max()) else math.nan))


def _kept(swapped: NDArray[np.bool_], side: Floats, other: Floats) -> Floats:
    """Last standard deviation over layers over the largest, for each choice of layers from the other side (draws,)."""
    n_layers = len(side)
    weight = swapped.astype(np.float64)
    mean = (side.sum(axis=0) + weight @ (other - side)) / n_layers
    square = ((side**2).sum(axis=0) + weight @ (other**2 - side**2)) / n_layers
    variance = np.maximum(square - mean**2, 0.0)
    return np.asarray(np.sqrt(variance[:, -1] / variance.max(axis=1)))
