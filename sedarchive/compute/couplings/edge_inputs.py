"""The ratio at the run's modal signal rank and its phases, as they stand in the tables, by scope and window size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.tables import Database

Floats = NDArray[np.float64]
Span = tuple[int, int]
"""First and last window, both inside."""

_MODAL = (
    "SELECT DISTINCT scope, window_size, k FROM phases WHERE run = ? AND is_modal AND list_contains(?, window_size)"
)
_RATIOS = (
    f"SELECT m.scope, m.window_size, m.k, s.step, s.ratio FROM ({_MODAL}) AS m JOIN window_sigmas AS s "
    "ON s.run = ? AND s.scope = m.scope AND s.window_size = m.window_size AND s.k = m.k"
)
_PHASES = (
    "SELECT scope, window_size, method, phase, step_from, step_to FROM phases "
    "WHERE run = ? AND is_modal AND step_from IS NOT NULL AND list_contains(?, window_size)"
)
_WINDOWS = (
    "SELECT scope, window_size, coalesce(bool_or(irregular), false) FROM windows "
    "WHERE run = ? AND list_contains(?, window_size) GROUP BY scope, window_size ORDER BY scope, window_size"
)


@dataclass(frozen=True)
class EdgeSeries:
    """One scope's windows of one size: the ratio at the k that is followed."""

    scope: str
    size: int
    k: int | None
    """The run's modal signal rank; None if no window has one."""
    ratio: Floats
    """sigma_k / sigma_{k+1} (T - W,), the window in column i begins at checkpoint i; NaN where unknown."""
    spans: Mapping[tuple[str, str], Span]
    """(method, phase) -> its windows."""
    irregular: bool
    """Whether some window has unequally spaced checkpoints."""

    @property
    def feature(self) -> str:
        """Name in ``couplings``."""
        return "ratio" if self.k is None else f"ratio_{self.k}"


def read_edges(database: Database, run: str, steps: Sequence[int], sizes: Sequence[int]) -> list[EdgeSeries]:
    """Series of all scopes and of some window sizes of a run with checkpoints at ``steps``, in order of both."""
    place = {step: at for at, step in enumerate(steps)}
    ratios = {
        (scope, size): np.full(len(steps) - size, np.nan) for scope, size, _ in _rows(database, _WINDOWS, run, sizes)
    }
    ranks = {(scope, size): k for scope, size, k in _rows(database, _MODAL, run, sizes)}
    for scope, size, _, step, ratio in database.rows(_RATIOS, [run, list(sizes), run]).rows:
        ratios[scope, size][place[step] - size] = np.nan if ratio is None else ratio
    spans: dict[tuple[str, int], dict[tuple[str, str], Span]] = {}
    for scope, size, method, phase, first, last in _rows(database, _PHASES, run, sizes):
        spans.setdefault((scope, size), {})[method, phase] = place[first] - size, place[last] - size
    return [
        EdgeSeries(scope, size, ranks.get((scope, size)), ratios[scope, size], spans.get((scope, size), {}), uneven)
        for scope, size, uneven in _rows(database, _WINDOWS, run, sizes)
    ]


def _rows(database: Database, sql: str, run: str, sizes: Sequence[int]) -> list[tuple]:  # type: ignore[type-arg]
    return database.rows(sql, [run, list(sizes)]).rows
