"""Whether query and key matrices differ more over depth than value and output matrices.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) names a Q/K-V asymmetry; its measure is not
published.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

Floats = NDArray[np.float64]

DRAWS = 1999


@dataclass(frozen=True)
class Asymmetry:
    """Spread over layers of query and key against that of value and output."""

    ratio: float
    """Of the standard deviations over layers, within roles."""
    low: float
    """Ends of the 95 % interval (F distribution, as if layers were independent and normal)."""
    high: float
    p: float
    """Two-sided, pairs of roles swapped in random layers."""
    null_low: float
    """2.5 % and 97.5 % quantiles of the ratio there."""
    null_high: float
    n: int
    """Layers."""


def asymmetry(values: Floats, draws: int = DRAWS, seed: int = 0) -> Asymmetry:
    """Compare the spread over depth of two pairs of roles.

    Parameters
    ----------
    values
        (4, L): query, key, value, output; finite.
    draws, seed
        Of the null, which swaps the pairs of roles in random layers after each role's mean is taken out. Pairs stay
        together, since query and key of a layer are alike: single roles in random order reject a quarter of nulls.
    """
    n_layers = values.shape[1]
    nan = math.nan
    unknown = Asymmetry(nan, nan, nan, nan, nan, nan, n_layers)
    if n_layers < 3:
        return unknown
    centred = values - values.mean(axis=1, keepdims=True)
    ratio = float(_ratio(centred))
    if not (np.isfinite(ratio) and ratio > 0):
        return unknown
    rng = np.random.default_rng(seed)
    swapped = rng.random((draws, 1, n_layers)) < 0.5
    null = _ratio(np.where(swapped, centred[[2, 3, 0, 1]], centred))
    extreme = np.abs(np.log(null)) >= abs(math.log(ratio)) * (1 - 1e-12)
    low, high = np.quantile(null, [0.025, 0.975])
    reach = math.sqrt(fdtri(n_layers - 1, n_layers - 1, 0.975))
    p = (1 + np.count_nonzero(extreme)) / (1 + draws)
    return Asymmetry(ratio, ratio / reach, ratio * reach, float(p), float(low), float(high), n_layers)


def _ratio(values: Floats) -> Floats:
    """Pooled standard deviation of the first two roles over that of the last two (..., 4, L)."""
    energy = (values - values.mean(axis=-1, keepdims=True)) ** 2
    spread = energy.mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(spread[..., :2].sum(axis=-1) / spread[..., 2:].sum(axis=-1)))
