"""A fixed grid of profiles of sorted log norms, so that windows with alike norms share random draws.

The grid does not depend on the windows seen before: the leader of a profile is a function of that profile alone.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SLOPE_UNIT, _SLOPE_STEP = 0.03, 0.4
_BEND_STEP = 0.06
_REST_STEP = 0.3


def leader_profiles(profiles: Floats) -> Floats:
    """Return the leader of each profile.

    A profile is written as a line and a parabola in the rank, plus a rest. The slope is rounded to an inverse
    hyperbolic sine grid (fine near 0, then proportional), the bend to steps of 0.06, and each entry of the rest to
    steps of 0.3, so that jitter is left to the first-order correction but a single outlying norm is kept.

    Parameters
    ----------
    profiles
        Log norms (n, W), W >= 2, each descending, with mean 0.

    Returns
    -------
    ndarray
        (n, W), each descending.
    """
    basis = _line_and_parabola(profiles.shape[1])
    coefficients = profiles @ basis.T / profiles.shape[1]
    slope = np.sinh(np.rint(np.arcsinh(coefficients[:, 0] / _SLOPE_UNIT) / _SLOPE_STEP) * _SLOPE_STEP) * _SLOPE_UNIT
    bend = np.rint(coefficients[:, 1] / _BEND_STEP) * _BEND_STEP
    smooth = slope[:, None] * basis[0] + bend[:, None] * basis[1]
    rest = np.rint((profiles - smooth) / _REST_STEP) * _REST_STEP
    leaders: Floats = -np.sort(-(smooth + rest), axis=1)
    return leaders + 0.0  # one zero, not two: equal leaders have equal bytes


def _line_and_parabola(size: int) -> Floats:
    """Return a descending line and a parabola in the rank (2, W), orthogonal, of mean 0 and mean square 1."""
    rank = np.linspace(1.0, -1.0, size)
    line = rank / np.sqrt(np.mean(rank**2))
    bend = rank**2 - np.mean(rank**2)
    size2 = np.mean(bend**2)
    return np.stack([line, bend / np.sqrt(size2) if size > 2 else np.zeros(size)])
