"""What couplings are computed from: columns of the window tables and the logged losses."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.coupling import RunMetric

Floats = NDArray[np.float64]

WINDOW_FEATURES = ("edge_ratio", "gap", "drift_speed", "pc1_share")
"""Columns of windows that are compared with the losses."""
RATIOS = 4
"""Of the ratios sigma_k / sigma_(k+1), as many are features: ratio_1, ratio_2, ..."""
FEATURES = (*WINDOW_FEATURES, *(f"ratio_{k}" for k in range(1, RATIOS + 1)))
EXTRA = "k95"
"""Goes with the edge ratio into the share of variance that both explain."""


@dataclass(frozen=True)
class SizeTable:
    """All windows of one size."""

    size: int
    features: dict[str, Floats]
    """Feature -> (n_scopes, T - W), NaN where it has no value; EXTRA among them."""
    irregular: NDArray[np.bool_]
    """Whether some window of a scope has unequally spaced checkpoints (n_scopes,)."""


@dataclass(frozen=True)
class CouplingInputs:
    """Everything that one run's couplings follow from."""

    scopes: tuple[str, ...]
    sizes: tuple[SizeTable, ...]
    metrics: dict[str, RunMetric]
    """Loss -> its values at the places of the run."""


def stacked(table: SizeTable) -> Floats:
    """Features of all scopes, one series a row, the features of a scope together (n_scopes * n_features, T - W)."""
    blocks = np.stack([table.features[name] for name in FEATURES], axis=1)
    return blocks.reshape(-1, blocks.shape[2])
