"""Rows of all windows of one scope, from its Gram matrix: what one task of a refresh makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.rolling.null_rows import bands_of_windows, unit_null
from sedarchive.compute.rolling.window_rows import (
    Columns,
    ScopeHistory,
    UnitNull,
    WindowNulls,
    sigma_columns,
    unknown_bands,
    update_columns,
    window_columns,
)
from sedarchive.gram import Gram
from sedarchive.leaves import Scope
from sedarchive.nulls.bands import NullBands, effective_dimension
from sedarchive.rolling.modes import Modes
from sedarchive.rolling.windows import UpdateCounts, WindowSeries, update_series, window_series


@dataclass(frozen=True)
class WindowTask:
    """One scope and the window sizes to derive for it; size 1 stands for single updates."""

    scope: Scope
    sizes: tuple[int, ...]
    with_null: Mapping[int, bool]
    """Whether the null of a size is sampled."""


@dataclass(frozen=True)
class ScopeWindows:
    """Everything that the rows of one scope come from."""

    task: WindowTask
    gram: Gram
    counts: UpdateCounts
    history: ScopeHistory
    decay: NDArray[np.float64] | None
    """Products of the decay's part of each update with every update, where they are known."""
    known: dict[int, Modes] = field(default_factory=dict)
    """Eigenpairs of the sizes that are done."""

    def rows(self) -> list[dict[str, Columns]]:
        """Rows of the tables, for each of the sizes."""
        return [
            {"updates": self.updates()} if size == 1 else self.windows(size, self.task.with_null.get(size, False))
            for size in self.task.sizes
        ]

    @property
    def scope(self) -> Scope:
        return self.task.scope

    @cached_property
    def p_eff(self) -> float:
        """Effective dimension of the scope's updates, for the sampled null."""
        return effective_dimension(self.gram, self.scope.n_elements)

    def updates(self) -> Columns:
        """Rows of ``updates``."""
        zeros = self.counts.zeros.astype(np.int64)
        series = update_series(self.gram, zeros, self.counts.rounding, self.scope.n_elements)
        return self._named(update_columns(series, self.history))

    def windows(self, size: int, with_null: bool) -> dict[str, Columns]:
        """Rows of ``windows`` and ``window_sigmas``."""
        series = window_series(self.gram, size, self.scope.n_elements, self.decay, self.known)
        bands = self._null_bands(series) if with_null else unknown_bands(len(series), size)
        unit = unit_null(size, self.p_eff) if with_null else UnitNull.unknown(size)
        nulls = WindowNulls(bands, unit, self.p_eff)
        return {
            "windows": self._named(window_columns(series, nulls, self.history), size),
            "window_sigmas": self._named(sigma_columns(series, nulls, self.history), size),
        }

    @cached_property
    def _norms(self) -> NDArray[np.float64]:
        index = np.arange(self.gram.n_updates)
        return np.sqrt(self.gram.products(index, index))

    def _null_bands(self, series: WindowSeries) -> NullBands:
        return bands_of_windows(self._norms, series.window_size, series.edge_ratio, self.p_eff)

    def _named(self, columns: Columns, size: int | None = None) -> Columns:
        """Columns with those that say whose they are."""
        n_rows = len(next(iter(columns.values())))
        names: dict[str, Any] = {"scope": np.full(n_rows, self.scope.name)}
        if size is not None:
            names["window_size"] = np.full(n_rows, size)
        return names | columns
