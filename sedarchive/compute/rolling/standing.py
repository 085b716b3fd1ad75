"""Windows as they stand in the tables: what nulls, fits, phases and couplings follow from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StandingWindows:
    """The n windows of one scope and size, in order of time."""

    scope: str
    size: int
    norms: Floats
    """Norms of all updates of the scope (n_updates,)."""
    windows: dict[str, NDArray[Any]]
    """Columns of ``windows`` (n,), NaN where unknown."""
    sigmas: dict[str, Floats]
    """Columns of ``window_sigmas`` (n, W), NaN where unknown."""

    @property
    def p_eff(self) -> float:
        """Effective dimension of the scope's updates, of which there is a column."""
        return float(self.windows["p_eff"][0])
