"""Rows of ``couplings`` by phase: how the ratio at the modal signal rank goes with a loss inside each phase."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.edge_inputs import EdgeSeries
from sedarchive.compute.couplings.edge_rows import numbers_at_lag_0
from sedarchive.compute.row_columns import Row
from sedarchive.inference.coupling import Aligned, Grids, RunMetric, Variant, WindowFeatures, aligned
from sedarchive.inference.lags import MIN_PAIRS
from sedarchive.inference.separate import SeparateScan, scan_separately
from sedarchive.inference.significance import largest_null
from sedarchive.presets import LagSearch

MEASURE = "phase"
METHODS = ("peak", "derivative")
"""Of the methods that find phases the authors' first, and the one that they correlate by."""
DETRENDS = ("none", "linear")


@dataclass(frozen=True)
class _Part:
    """One phase of one series, correlated at lag 0."""

    edge: EdgeSeries
    method: str
    phase: str
    scan: SeparateScan


def phase_coupling_rows(edges: Sequence[EdgeSeries], metrics: Mapping[str, RunMetric]) -> list[Row]:
    """Pearson correlations of one scope's series with every loss, phase by phase.

    The p-value is by the maximum over the phases of both methods and all window sizes, against surrogates of the loss;
    the phases follow from the series alone, so that they are as good for a surrogate as for the loss.

    Parameters
    ----------
    edges
        The scope's series, one a window size.
    metrics
        Logged losses by name.
    """
    rows: list[Row] = []
    for name, metric in metrics.items():
        grids = metric.grids(Variant("end", "none", "plain"), [edge.size for edge in edges])
        for detrend in DETRENDS:
            search = LagSearch(MEASURE, detrend, "abs", 0, 0, MIN_PAIRS)
            label = {"target": name, "stamp": "end", "detrend": detrend, "kind": "plain", "measure": MEASURE}
            parts = [part for edge in edges for part in _parts(edge, metric, grids, search)]
            rows += [label | row for row in _rows(parts)]
    return rows


def _parts(edge: EdgeSeries, metric: RunMetric, grids: Grids, search: LagSearch) -> Iterator[_Part]:
    both = aligned(WindowFeatures(edge.size, edge.ratio[None]), metric, grids)
    ends = metric.steps[edge.size :]
    for (method, phase), (first, last) in sorted(edge.spans.items()):
        if method in METHODS:
            inside = slice(*np.searchsorted(both.steps, [ends[first], ends[last] + 1]))
            yield _Part(edge, method, phase, _correlated(both, inside, search))


def _correlated(both: Aligned, inside: slice, search: LagSearch) -> SeparateScan:
    [scan] = scan_separately(both.features[:, inside], both.metric[:, inside], both.steps[inside], search)
    return scan


def _rows(parts: Sequence[_Part]) -> list[Row]:
    if not parts:
        return []
    largest = largest_null([part.scan.standing for part in parts], np.zeros(1, dtype=np.intp))
    return [_row(part, largest) for part in parts]


def _row(part: _Part, largest: NDArray[np.float64]) -> Row:
    return {
        "scope": part.edge.scope,
        "window_size": part.edge.size,
        "feature": part.edge.feature,
        "phase": part.phase,
        "phase_method": part.method,
        **numbers_at_lag_0(part.edge, part.scan, largest),
    }
