"""How the leading directions of a window lie and turn: against its updates, and against the window before.

``v_k`` are the right singular vectors of a window (:mod:`.modes`). Angles are in radians, from 0 to pi / 2,
since the sign of a singular vector means nothing; below about 1e-7 they are rounding.

Sources: the authors' scripts of "Spectral Edge Dynamics" (arXiv 2603.15678) for gamma, the alignment of the last update
and the speeds; Yu, Wang and Samworth (Biometrika 2015, theorem 2) for the bounds; "Spectral Edge Thesis" (arXiv
2603.28964) for the stability by proxy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.rolling.modes import Modes, eigenvalue_gaps

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Directions:
    """The updates of n windows along v_1; NaN where v_1 is not resolved."""

    align_last: Floats
    """|cos(last update, v_1)| (n,)."""
    drift_along: Floats
    """|<mean update, v_1>| (n,)."""
    residual_speed: Floats
    """Norm of the mean update beside v_1 (n,)."""


def directions(modes: Modes, last_energy: Floats) -> Directions:
    """Return how the last and the mean update of each window lie to its first direction.

    Parameters
    ----------
    modes
        Eigenpairs of n windows.
    last_energy
        Squared norm of the last update of each (n,).

    Notes
    -----
    The mean update is ``sum_k (sigma_k / W) (sum_i u_ik) v_k``, so that its rest beside v_1 is a sum of squares, not a
    difference.
    """
    size = modes.sigma.shape[1]
    known = modes.ok[:, 0]
    along = np.sqrt(modes.energy) * np.abs(modes.vectors.sum(axis=1)) / size
    last = np.sqrt(modes.energy[:, 0]) * np.abs(modes.vectors[:, -1, 0])
    norm = np.sqrt(last_energy)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(known & (norm > 0), np.minimum(last / norm, 1.0), np.nan)
    residual = np.sqrt((along[:, 1:] ** 2).sum(axis=1))
    return Directions(cosine, np.where(known, along[:, 0], np.nan), np.where(known, residual, np.nan))


def turning(gamma: Floats) -> tuple[Floats, Floats]:
    """Return the angle that v_1 turned since the window before, and the sum of those known up to each window.

    Parameters
    ----------
    gamma
        |<v_1, v_1 of the window before>| of consecutive windows (n,); NaN where unknown.

    Returns
    -------
    angle, total : ndarray
        (n,) each, in radians; both NaN where gamma is, except that the total of the first window is 0.
    """
    angle = np.arccos(np.clip(gamma, 0.0, 1.0))
    total = np.where(np.isnan(angle), np.nan, np.nancumsum(angle))
    total[:1] = 0.0
    return angle, total


def subspace_angles(cosines: Floats, rank: Counts) -> Floats:
    """Return the largest principal angle (n,) between span(v_1 .. v_r) and span(w_1 .. w_r).

    Parameters
    ----------
    cosines
        ``<v_j, w_k>`` (n, W, W); NaN where unknown.
    rank
        r of each pair (n,); 0 for none, whose angle is NaN.
    """
    angle = np.full(len(rank), np.nan)
    for r in np.unique(rank[rank > 0]):
        rows = np.flatnonzero(rank == r)
        block = cosines[rows, :r, :r]
        rows, block = rows[np.isfinite(block).all(axis=(1, 2))], block[np.isfinite(block).all(axis=(1, 2))]
        smallest = np.linalg.svd(block, compute_uv=False)[:, -1]
        angle[rows] = np.arccos(np.clip(smallest, 0.0, 1.0))
    return angle


def subspace_bound(energy: Floats, change: Floats, rank: Counts) -> Floats:
    """Return an upper bound (n,) of the principal angles of span(v_1 .. v_r): arcsin of 2 change / gap.

    Parameters
    ----------
    energy
        lambda_k (n, W) of the later window.
    change
        ``||X^T X - X'^T X'||_F`` against the window before (n,), in operator form; no other form bounds directions.
    rank
        r of each window (n,); 0 for none.

    Returns
    -------
    ndarray
        pi / 2 where the bound says nothing; the gap is lambda_r - lambda_{r+1}, lambda_{W+1} = 0 counted.
    """
    below = energy - np.concatenate([energy[:, 1:], np.zeros_like(energy[:, :1])], axis=1)
    gap = np.take_along_axis(below, np.maximum(rank - 1, 0)[:, None], axis=1)[:, 0]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sine = np.where(gap > 0, 2.0 * change / gap, 1.0)
    bound = np.arcsin(np.minimum(sine, 1.0))
    return np.where((rank > 0) & np.isfinite(change), bound, np.nan)


def overlap_bound(modes: Modes, change: Floats) -> Floats:
    """Return a lower bound (n, W) of the overlap of each v_k with that of the window before; 0 where it says nothing.

    ``change`` (n,) as in :func:`subspace_bound`; the gap of lambda_k is to its nearest neighbour, 0 counted.
    """
    nearest = eigenvalue_gaps(modes.energy)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bound = np.sqrt(np.maximum(1.0 - (2.0 * change[:, None] / nearest) ** 2, 0.0))
    return np.where(modes.ok, np.where(nearest > 0, bound, 0.0), np.nan)


def proxy_stability(modes: Modes, proxy: Floats, constant: float = 1.0) -> Floats:
    """Return the authors' alpha_k = max(0, 1 - C proxy² / gap_k²) (n, W).

    Their constant C is unknown and taken as 1, and the proxy (the change of the eigenvalues alone, n) is a lower bound
    of the true change: this is their variant under its own name, and no bound of anything.
    """
    nearest = eigenvalue_gaps(modes.energy, with_zero=False)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        alpha = np.maximum(1.0 - constant * (proxy[:, None] / nearest) ** 2, 0.0)
    alpha = np.where(nearest > 0, alpha, 0.0)
    return np.where(modes.ok & np.isfinite(proxy)[:, None], alpha, np.nan)
