"""Rows of ``couplings`` that follow a preset: each window size by itself, the authors' p beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.edge_inputs import EdgeSeries
from sedarchive.compute.row_columns import Row
from sedarchive.inference.correlation import FEWEST_EFFECTIVE
from sedarchive.inference.coupling import Grids, RunMetric, Variant, WindowFeatures, aligned
from sedarchive.inference.separate import SeparateScan, flip_between, scan_separately
from sedarchive.inference.significance import Flip, largest_null
from sedarchive.inference.standing import p_value
from sedarchive.leaves import DEFAULT_SCOPES
from sedarchive.presets import LagSearch, Preset

MEASURES = ("peak_xu", "lag_xu", "flip_xu")
_USABLE = ("ok", "irregular")


def follows(preset: Preset, scope: str) -> bool:
    """Whether a preset looks at a scope: those of its authors, and groups of the user's own."""
    return scope in preset.scopes.value or (":" not in scope and scope not in DEFAULT_SCOPES)


def preset_rows(preset: Preset, edges: Sequence[EdgeSeries], metrics: Mapping[str, RunMetric]) -> list[Row]:
    """Peaks, lags and flips of one scope's windows of all sizes, by every lag search of a preset.

    Parameters
    ----------
    preset
        Whose searches.
    edges
        The scope's series, one a window size, ascending.
    metrics
        Logged losses by name.
    """
    rows: list[Row] = []
    for search in preset.searches.value:
        label = {"preset": preset.label(search), "stamp": preset.stamp.value, "kind": "plain", "phase": "all"}
        label |= {"detrend": search.detrend, "peak_rule": search.peak_rule}
        for name, metric in metrics.items():
            rows += [{"target": name, **label, **row} for row in _search_rows(edges, metric, search)]
        if not metrics:
            rows += [{"target": "val_loss", **label, **_nothing(edge, "no_target")} for edge in edges]
    return rows


@dataclass(frozen=True)
class _Scanned:
    """One window size with its scan."""

    edge: EdgeSeries
    scan: SeparateScan

    @property
    def status(self) -> str:
        found = self.scan.status
        if found == "ok" and self.scan.n_eff[self.scan.at] < FEWEST_EFFECTIVE:
            return "few_effective"
        return "irregular" if found == "ok" and self.edge.irregular else found

    @property
    def lag(self) -> int | None:
        return int(self.scan.peaks.lag[0, 0]) if np.isfinite(self.scan.peaks.r[0, 0]) else None


def _search_rows(edges: Sequence[EdgeSeries], metric: RunMetric, search: LagSearch) -> list[Row]:
    grids = metric.grids(Variant("end", "none", "plain"), [edge.size for edge in edges])
    scanned = [_Scanned(edge, _scan(edge, metric, grids, search)) for edge in edges if edge.k is not None]
    rows = [_nothing(edge, "no_signal_rank") for edge in edges if edge.k is None]
    if not scanned:
        return rows
    largest = largest_null([one.scan.standing for one in scanned], np.zeros(1, dtype=np.intp))
    for one in scanned:
        rows += [_peak(one, largest), *_lags(one)]
    return rows + _flips(scanned[0], scanned[1:])


def _scan(edge: EdgeSeries, metric: RunMetric, grids: Grids, search: LagSearch) -> SeparateScan:
    both = aligned(WindowFeatures(edge.size, edge.ratio[None]), metric, grids)
    [scan] = scan_separately(both.features, both.metric, both.steps, search)
    return scan


def _named(edge: EdgeSeries, measure: str) -> Row:
    return {"scope": edge.scope, "window_size": edge.size, "feature": edge.feature, "measure": measure}


def _nothing(edge: EdgeSeries, status: str) -> Row:
    return {**_named(edge, "peak_xu"), "n": 0, "status": status}


def _peak(one: _Scanned, largest: NDArray[np.float64]) -> Row:
    scan, at, status = one.scan, one.scan.at, one.status
    standing, (low, high) = scan.standing, scan.interval()
    known = {
        "p": p_value(standing.observed, largest)[0],
        "p_lags": standing.own_p()[0],
        "low": low[at],
        "high": high[at],
    }
    return {
        **_named(one.edge, "peak_xu"),
        "lag": one.lag,
        "r": scan.peaks.r[0, 0],
        "n": scan.n[at],
        "n_eff": scan.n_eff[at],
        "n_eff_xu": scan.n_eff_xu[at],
        "p_xu": scan.p_xu()[at],
        "first_lag": scan.search.first_lag,
        "last_lag": scan.search.last_lag,
        **(known if status in _USABLE else {}),
        "status": status,
    }


def _lags(one: _Scanned) -> list[Row]:
    scan, p_xu, (low, high) = one.scan, one.scan.p_xu(), one.scan.interval()
    rows: list[Row] = []
    for at, lag in enumerate(scan.lags):
        status = _lag_status(one, at)
        row = {
            **_named(one.edge, "lag_xu"),
            "lag": int(lag),
            "r": scan.r[at],
            "n": scan.n[at],
            "n_eff": scan.n_eff[at],
            "n_eff_xu": scan.n_eff_xu[at],
            "p_xu": p_xu[at],
            "status": status,
        }
        rows.append(row | ({"low": low[at], "high": high[at]} if status in _USABLE else {}))
    return rows


def _lag_status(one: _Scanned, at: int) -> str:
    if one.scan.n[at] < one.scan.search.fewest_pairs:
        return "too_few"
    if np.isnan(one.scan.r[at]):
        return "constant"
    if one.scan.n_eff[at] < FEWEST_EFFECTIVE:
        return "few_effective"
    return "irregular" if one.edge.irregular else "ok"


def _flips(smallest: _Scanned, others: Sequence[_Scanned]) -> list[Row]:
    """Flips from the smallest window size to each other; p is by the strongest of them."""
    flips = [flip_between(smallest.scan, larger.scan) for larger in others]
    if not flips:
        return []
    largest = largest_null(flips, np.zeros(1, dtype=np.intp))
    return [_flip(smallest, larger, flip, largest) for larger, flip in zip(others, flips, strict=True)]


def _flip(smaller: _Scanned, larger: _Scanned, flip: Flip, largest: NDArray[np.float64]) -> Row:
    reason = next((one.status for one in (smaller, larger) if one.status not in _USABLE), None)
    usable = reason is None and bool(flip.flips[0])
    return {
        **_named(larger.edge, "flip_xu"),
        "lag": larger.lag,
        "r": larger.scan.peaks.r[0, 0],
        "other_window_size": smaller.edge.size,
        "other_lag": smaller.lag,
        "p": flip.p_of(largest)[0] if usable else None,
        "p_lags": flip.p[0] if usable else None,
        "status": reason or (larger.status if usable else "no_flip"),
    }
