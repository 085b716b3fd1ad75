"""Principal components of the displacement from the start, from the Gram matrix of the updates.

A random walk has them too: its first component holds 8 / pi² of the squared displacement (6 / pi² about the mean) as
the number of updates grows, so that a large share by itself says nothing of training.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def component_shares(updates: Floats, centred: bool = False) -> Floats:
    """Return the share of each principal component of a displacement, descending.

    Parameters
    ----------
    updates
        Gram matrix (n, n) of the updates; a diagonal one is the limit of random directions in many dimensions.
    centred
        Whether the mean displacement is taken out first.

    Returns
    -------
    ndarray
        (n,), of sum 1; NaN if nothing moved or a product is not finite.
    """
    if not np.isfinite(updates).all():
        return np.full(len(updates), np.nan)
    displacement = np.cumsum(np.cumsum(updates, axis=0), axis=1)
    if centred:
        displacement = displacement - displacement.mean(axis=0)
        displacement = displacement - displacement.mean(axis=1, keepdims=True)
    energy = np.maximum(np.linalg.eigvalsh(displacement)[::-1], 0.0)
    total = energy.sum()
    return energy / total if total > 0 else np.full(len(updates), np.nan)
