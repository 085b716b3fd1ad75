"""Rows of ``couplings`` for the groups of tensors that the layers are, each by itself and all together.

The authors of SED correlate each of the eight layers of their model with the validation loss. A group is a layer here
too, however many there are, and its series the ratio at its own modal signal rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.edge_inputs import EdgeSeries
from sedarchive.compute.couplings.edge_rows import numbers_at_lag_0
from sedarchive.compute.row_columns import Row
from sedarchive.inference.correlation import FEWEST_EFFECTIVE, fewest_effective
from sedarchive.inference.coupling import Aligned, Grids, RunMetric, Variant, WindowFeatures, aligned
from sedarchive.inference.granger import multiple_r2
from sedarchive.inference.lags import MIN_PAIRS
from sedarchive.inference.separate import SeparateScan, scan_separately
from sedarchive.inference.significance import largest_null
from sedarchive.inference.trends import DEGREES, trend_basis
from sedarchive.presets import LagSearch

Floats = NDArray[np.float64]

SCOPE = "layer:*"
"""Scope of these rows; ``feature`` names the layer."""
MEASURES = ("group", "groups", "groups_weakest")
DETRENDS = ("none", "linear")
_FEWEST_GROUPS = 2
_POINTS_PER_GROUP = 3
"""Points that each group needs, for all groups together to explain anything."""


def is_group(scope: str) -> bool:
    """Whether a scope is one layer."""
    return scope.startswith("layer:") and scope.removeprefix("layer:").isdigit()


def group_rows(edges: Sequence[EdgeSeries], metrics: Mapping[str, RunMetric]) -> list[Row]:
    """Correlations of the layers' series with every loss, and how much of it they explain together.

    Parameters
    ----------
    edges
        Series of all layers and window sizes; a layer that has no signal rank at a size is left out there.
    metrics
        Logged losses by name.
    """
    rows: list[Row] = []
    sizes = sorted({edge.size for edge in edges})
    for name, metric in metrics.items():
        grids = metric.grids(Variant("end", "none", "plain"), sizes)
        for detrend in DETRENDS:
            label = {"scope": SCOPE, "target": name, "stamp": "end", "detrend": detrend, "kind": "plain"}
            groups = [_groups([edge for edge in edges if edge.size == size], metric, grids, detrend) for size in sizes]
            rows += [{**label, "phase": "all", **row} for row in _rows([one for one in groups if one.edges])]
    return rows


@dataclass(frozen=True)
class _Groups:
    """All layers at one window size."""

    edges: Sequence[EdgeSeries]
    scans: Sequence[SeparateScan]
    """At lag 0, one a layer."""
    both: Aligned
    detrend: str

    @property
    def size(self) -> int:
        return self.edges[0].size

    @property
    def irregular(self) -> bool:
        return any(edge.irregular for edge in self.edges)


def _groups(edges: Sequence[EdgeSeries], metric: RunMetric, grids: Grids, detrend: str) -> _Groups:
    known = sorted((edge for edge in edges if edge.k is not None), key=lambda edge: int(edge.scope.split(":")[1]))
    values = np.stack([edge.ratio for edge in known]) if known else np.empty((0, 0))
    both = aligned(WindowFeatures(edges[0].size, values), metric, grids)
    search = LagSearch("groups", detrend, "abs", 0, 0, MIN_PAIRS)
    return _Groups(known, scan_separately(both.features, both.metric, both.steps, search), both, detrend)


def _rows(groups: Sequence[_Groups]) -> list[Row]:
    """Rows of all sizes; p of a layer is by the maximum over layers and sizes."""
    scans = [scan for one in groups for scan in one.scans]
    if not scans:
        return []
    largest = largest_null([scan.standing for scan in scans], np.zeros(1, dtype=np.intp))
    rows: list[Row] = []
    for one in groups:
        rows += [_layer(edge, scan, largest) for edge, scan in zip(one.edges, one.scans, strict=True)]
        if len(one.edges) >= _FEWEST_GROUPS:
            rows += [_together(one), _weakest(one)]
    return rows


def _layer(edge: EdgeSeries, scan: SeparateScan, largest: Floats) -> Row:
    return _named(edge.size, "group", f"{edge.scope} {edge.feature}") | numbers_at_lag_0(edge, scan, largest)


def _together(one: _Groups) -> Row:
    """Share of the loss that all layers explain together."""
    row = {**_named(one.size, "groups", f"{len(one.edges)} layers"), "n": one.both.features.shape[1]}
    few = one.both.features.shape[1] < max(MIN_PAIRS, _POINTS_PER_GROUP * len(one.edges))
    if few or not np.isfinite(one.both.features).all():
        return row | {"status": "gaps_or_too_few"}
    basis = trend_basis(one.both.steps, DEGREES[one.detrend])
    share = multiple_r2(one.both.features, one.both.metric, basis)
    n_eff = fewest_effective(one.both.features, one.both.metric[:1], basis)
    return row | {"statistic": share[0], "n_eff": n_eff} | _judged(one, n_eff, _against(share))


def _weakest(one: _Groups) -> Row:
    """Return the smallest |r| of the layers: that all of them go with the loss is a claim about it.

    Its p-value is the largest of the layers' own: only where each would be rejected by itself, all are.
    """
    row = {**_named(one.size, "groups_weakest", f"{len(one.edges)} layers"), "lag": 0}
    size = np.abs(np.concatenate([scan.peaks.r for scan in one.scans]))
    if not np.isfinite(size).all():
        return row | {"n": one.both.features.shape[1], "status": "gaps_or_too_few"}
    at = int(np.argmin(size[:, 0]))
    weakest = one.scans[at]
    found = {"r": weakest.r[0], "n": weakest.n[0], "n_eff": weakest.n_eff[0]}
    largest = max((_against(values) for values in size), key=lambda each: each["p"] or np.inf)
    least = min(float(scan.n_eff[0]) for scan in one.scans)
    return row | found | _judged(one, least, {"p": largest["p"], "null_high": _against(size[at])["null_high"]})


def _judged(one: _Groups, n_eff: float, null: Row) -> Row:
    """Status of what is said of all layers, and its null; no p-value below enough effective pairs of any of them."""
    if not n_eff >= FEWEST_EFFECTIVE:
        return {**null, "p": None, "status": "few_effective"}
    return {**null, "status": "irregular" if one.irregular else "ok"}


def _against(values: Floats) -> Row:
    """p-value and 95 % quantile of a statistic (1 + draws,) whose first value is the observed one."""
    null = values[1:]
    if not len(null) or not np.isfinite(values).all():
        return {"p": None, "null_high": None}
    p = (1 + np.count_nonzero(null >= values[0])) / (1 + len(null))
    return {"p": p, "null_high": float(np.quantile(null, 0.95))}


def _named(size: int, measure: str, feature: str) -> Row:
    return {"window_size": size, "measure": measure, "feature": feature}
