"""How one window's eigenvalues move to the next: the drive of first order, and the repulsion of second order.

The operator ``X^T X`` of a window becomes that of the next by ``D = new new^T - old old^T``, the update that enters
and the one that leaves. With the eigenpairs of the window before, perturbation theory gives ``lambda_j + v_j^T D v_j +
sum_{i != j} (v_i^T D v_j)² / (lambda_j - lambda_i)``: neighbours repel each other (the Dyson term), and the directions
outside the window, where lambda is 0, lift all of them. Both terms are in the units of lambda; where D is not small
against the gaps the series does not converge, and they are tendencies, not predictions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.rolling.modes import Modes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EnergyMotion:
    """Expected change of lambda_k from one window to the next (n, W); NaN where the window before is unresolved."""

    energy_drive: Floats
    """First order: <new, v_k>² - <old, v_k>²."""
    energy_repulsion: Floats
    """Second order; NaN too where two eigenvalues are equal."""


def energy_motion(old: Modes, entering: Floats, entering_energy: Floats) -> EnergyMotion:
    """Return the two terms for n pairs of consecutive windows.

    Parameters
    ----------
    old
        Eigenpairs of the window before each.
    entering
        Products (n, W) of the update that enters with the updates of the window before.
    entering_energy
        Its squared norm (n,).
    """
    ok = old.ok
    sigma = np.where(ok, old.sigma, 1.0)
    new = np.where(ok, (np.nan_to_num(entering)[:, None, :] @ old.vectors)[:, 0] / sigma, 0.0)
    gone = np.where(ok, old.vectors[:, 0] * sigma, 0.0)
    terms = new[:, :, None] * new[:, None, :]
    terms -= gone[:, :, None] * gone[:, None, :]
    terms *= terms
    outside = np.maximum(entering_energy - (new**2).sum(axis=1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        terms /= old.energy[:, None, :] - old.energy[:, :, None]  # [i, j]: lambda_j - lambda_i
        terms[~(ok[:, :, None] & ok[:, None, :]) | np.eye(ok.shape[1], dtype=bool)] = 0.0
        within = terms.sum(axis=1)
        repulsion = within + outside[:, None] * new**2 / old.energy
    known = ok & np.isfinite(entering_energy)[:, None]
    drive = np.where(known, new**2 - gone**2, np.nan)
    return EnergyMotion(drive, np.where(known & np.isfinite(repulsion), repulsion, np.nan))
