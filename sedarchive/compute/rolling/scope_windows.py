"""Rows of all windows of one scope, from its Gram matrix; their sampled nulls come later."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.rolling.standing import StandingWindows
from sedarchive.compute.rolling.window_rows import (
    Columns,
    ScopeHistory,
    sigma_columns,
    update_columns,
    window_columns,
)
from sedarchive.gram import Gram
from sedarchive.leaves import Scope
from sedarchive.nulls.bands import effective_dimension
from sedarchive.rolling.modes import Modes
from sedarchive.rolling.windows import UpdateCounts, update_series, window_series

Tables = dict[str, Columns]
"""Rows by table."""


@dataclass(frozen=True)
class ScopeRows:
    """Rows of one scope."""

    scope: str
    norms: NDArray[np.float64]
    """Norms of all updates (n_updates,)."""
    sized: dict[int, Tables]
    """Of each window size; size 1 stands for single updates."""

    def standing(self, size: int) -> StandingWindows:
        """What the null of the windows of one size follows from."""
        return StandingWindows(self.scope, size, self.norms, self.sized[size]["windows"], {})


@dataclass(frozen=True)
class ScopeWindows:
    """Everything that the rows of one scope come from."""

    scope: Scope
    sizes: tuple[int, ...]
    """Window sizes to derive; size 1 stands for single updates."""
    gram: Gram
    counts: UpdateCounts
    history: ScopeHistory
    decay: NDArray[np.float64] | None
    """Products of the decay's part of each update with every update, where they are known."""
    known: dict[int, Modes] = field(default_factory=dict)
    """Eigenpairs of the sizes that are done."""

    def rows(self) -> ScopeRows:
        """Rows of the tables, for each of the sizes."""
        index = np.arange(self.gram.n_updates)
        norms = np.sqrt(self.gram.products(index, index))
        sized = {size: self._updates() if size == 1 else self._windows(size) for size in self.sizes}
        return ScopeRows(self.scope.name, norms, sized)

    @cached_property
    def _p_eff(self) -> float:
        """Effective dimension of the scope's updates, for the sampled null."""
        return effective_dimension(self.gram, self.scope.n_elements)

    def _updates(self) -> Tables:
        """Rows of ``updates``."""
        zeros = self.counts.zeros.astype(np.int64)
        series = update_series(self.gram, zeros, self.counts.rounding, self.scope.n_elements)
        return {"updates": self._named(update_columns(series, self.history))}

    def _windows(self, size: int) -> Tables:
        """Rows of ``windows`` and ``window_sigmas``, without null."""
        series = window_series(self.gram, size, self.scope.n_elements, self.decay, self.known)
        return {
            "windows": self._named(window_columns(series, self._p_eff, self.history), size),
            "window_sigmas": self._named(sigma_columns(series, self.history), size),
        }

    def _named(self, columns: Columns, size: int | None = None) -> Columns:
        """Columns with those that say whose they are."""
        n_rows = len(next(iter(columns.values())))
        names: dict[str, Any] = {"scope": np.full(n_rows, self.scope.name)}
        if size is not None:
            names["window_size"] = np.full(n_rows, size)
        return names | columns
