"""The part of every update that weight decay made, and its share along each direction of a window.

Decoupled weight decay (AdamW; plain SGD too) takes ``lr x decay x theta`` from the weights at every step. Over the
steps between two checkpoints that is ``-(sum of lr) decay (theta_i + theta_{i+1}) / 2`` if the weights moved on the
line between them; the rest of the update is the gradient's. Where decay enters the gradient (Adam with L2) the split
means nothing.

Source: Xu (arXiv 2604.07380). All products with theta follow from the Gram matrix of [theta_0, updates]; theta_0
matters: without it the decay's energy comes out many times wrong.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.gram import Gram
from sedarchive.rolling.modes import Modes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModeShares:
    """Who moves the weights along v_k (n, W); NaN where unknown."""

    gradient_share: Floats
    """Mean square of the gradient's part along v_k over that of both parts, 0 to 1."""
    decay_alignment: Floats
    """Cosine of both parts along v_k over the window's updates: 1 they push together, -1 against each other."""

    @classmethod
    def unknown(cls, n_windows: int, size: int) -> "ModeShares":
        """Return the shares of windows whose decay is not known."""
        return cls(np.full((n_windows, size), np.nan), np.full((n_windows, size), np.nan))


def decay_products(decayed: Gram, rate: Floats) -> Floats | None:
    """Return the products of the decay's part of each update with every update.

    Parameters
    ----------
    decayed
        Gram matrix of the parameters that decay; the others' part is 0.
    rate
        (sum of lr over the interval) x (weight decay) of each update (n,); NaN where unknown.

    Returns
    -------
    ndarray or None
        (n, n): [i, m] is <decay part of update i, delta_m>, in the decayed parameters. None if the Gram matrix is a
        band: products with theta need all updates before.
    """
    if decayed.full is None:
        return None
    start = decayed.origin[1:]
    moved = np.cumsum(decayed.full[1:, 1:], axis=0)
    theta = np.concatenate([start[None, :], start + moved])
    products: Floats = -0.5 * rate[:, None] * (theta[:-1] + theta[1:])
    return products


def mode_shares(modes: Modes, decay: Floats) -> ModeShares:
    """Return the shares along each direction of n windows.

    Parameters
    ----------
    modes
        Eigenpairs of the windows.
    decay
        Their blocks of :func:`decay_products` (n, W, W).
    """
    sigma = np.where(modes.ok, modes.sigma, 1.0)[:, None, :]
    known = modes.ok & np.isfinite(decay.sum(axis=(1, 2)))[:, None]
    by_decay = np.nan_to_num(decay) @ modes.vectors / sigma
    by_gradient = modes.vectors * sigma - by_decay
    own, rest = (by_decay**2).sum(axis=1), (by_gradient**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = rest / (rest + own)
        alignment = (by_decay * by_gradient).sum(axis=1) / np.sqrt(own * rest)
    return ModeShares(
        np.where(known & np.isfinite(share), share, np.nan),
        np.where(known & np.isfinite(alignment), np.clip(alignment, -1.0, 1.0), np.nan),
    )
