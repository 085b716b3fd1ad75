"""Rows of ``couplings``: every feature of the windows against the losses, at every lag and by every choice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from sedarchive.compute.couplings.coupling_features import EXTRA, FEATURES, CouplingInputs, SizeTable, stacked
from sedarchive.compute.couplings.coupling_rows import (
    Columns,
    Labels,
    SizeScan,
    flip_columns,
    granger_columns,
    lag_columns,
    peak_columns,
    share_columns,
    sliding_columns,
)
from sedarchive.compute.rolling.window_rows import concatenated
from sedarchive.inference.correlation import fewest_effective
from sedarchive.inference.coupling import STAMPS, Aligned, RunMetric, Variant, WindowFeatures, aligned, scan_sizes
from sedarchive.inference.granger import granger, multiple_r2_of_each
from sedarchive.inference.lags import MIN_PAIRS, PEAK_RULES, reach_for
from sedarchive.inference.significance import lag_flip, largest_null
from sedarchive.inference.sliding import WIDTHS, sliding_bands
from sedarchive.inference.trends import DEGREES, trend_basis

_CHOICES = (*(("plain", detrend) for detrend in DEGREES), ("partial_lr", "linear"), ("difference", "none"))
VARIANTS = tuple(Variant(stamp, detrend, kind) for stamp in STAMPS for kind, detrend in _CHOICES)
MEASURES = ("peak", "lag", "flip", "sliding", "granger", "multiple_r2")
"""Kinds of rows that are made here."""
_RAW = Variant("end", "none", "plain")
_NO_TARGET = "val_loss"
_Task = Callable[[], list[Columns]]


def coupling_rows(inputs: CouplingInputs) -> list[Columns]:
    """Rows of ``couplings``, without the run: one batch for each set of columns."""
    return by_columns(inputs, (task() for task in coupling_tasks(inputs)))


def coupling_tasks(inputs: CouplingInputs) -> list[_Task]:
    """What makes the rows of ``couplings``."""
    tasks: list[_Task] = []
    if not inputs.sizes or not inputs.scopes:
        return tasks
    for name, metric in inputs.metrics.items():
        variants = [one for one in VARIANTS if one.kind != "partial_lr" or metric.lr is not None]
        job = _Job(inputs, Labels(name, inputs.scopes), metric)
        tasks += [partial(job.scan_rows, one) for one in variants]
        tasks += [partial(job.level_rows, table) for table in inputs.sizes]
    return tasks


def by_columns(inputs: CouplingInputs, found: Iterator[list[Columns]]) -> list[Columns]:
    """Put rows with the same columns together."""
    rows = [columns for of_task in found for columns in of_task]
    if inputs.sizes and inputs.scopes and _NO_TARGET not in inputs.metrics:
        rows.append(_no_target(inputs))
    batches: dict[tuple[str, ...], list[Columns]] = {}
    for columns in rows:
        batches.setdefault(tuple(sorted(columns)), []).append(columns)
    return [concatenated(parts) for parts in batches.values()]


@dataclass(frozen=True)
class _Job:
    """One run's windows against one metric."""

    inputs: CouplingInputs
    labels: Labels
    metric: RunMetric

    def scan_rows(self, variant: Variant) -> list[Columns]:
        """Peaks, lags and flips of one variant, at all window sizes."""
        tables, labels = self.inputs.sizes, self.labels
        features = [WindowFeatures(table.size, stacked(table)) for table in tables]
        scans = scan_sizes(features, self.metric, variant, reach_for(max(table.size for table in tables)))
        families = np.repeat(np.arange(len(self.inputs.scopes)), len(FEATURES))
        sized = [
            SizeScan(table.size, scan, table.irregular[families]) for table, scan in zip(tables, scans, strict=True)
        ]
        rows: list[Columns] = []
        for rule in PEAK_RULES:
            largest = largest_null([one.standing(rule) for one in sized], families)
            rows += [labels.columns(variant, one.size, "peak") | peak_columns(one, rule, largest) for one in sized]
            rows += _flip_rows(labels, variant, sized, rule, families)
            if rule == "abs" and variant.kind == "plain":
                rows += [_lag_rows(labels, variant, one, largest) for one in sized]
        return rows

    def level_rows(self, table: SizeTable) -> list[Columns]:
        """What is tested at lag 0 and by the past: sliding correlations, Granger, shares explained."""
        grids = self.metric.grids(_RAW, [table.size for table in self.inputs.sizes])
        one = aligned(WindowFeatures(table.size, stacked(table)), self.metric, grids)
        if one.features.shape[1] < MIN_PAIRS:
            return []
        extra = aligned(WindowFeatures(table.size, table.features[EXTRA]), self.metric, grids)
        irregular = np.repeat(table.irregular, len(FEATURES))
        tested = granger_columns(granger(one.features, one.metric, one.lr), irregular)
        return [
            *_sliding_rows(self.labels, table.size, one, irregular),
            self.labels.columns(_RAW, table.size, "granger") | tested,
            *_share_rows(self.labels, table, one, extra),
        ]


def _lag_rows(labels: Labels, variant: Variant, one: SizeScan, largest: np.ndarray[Any, Any]) -> Columns:
    n_lags = len(one.scan.lags)
    names = labels.columns(variant, one.size, "lag")
    return {name: np.repeat(values, n_lags) for name, values in names.items()} | lag_columns(one, largest)


def _flip_rows(
    labels: Labels, variant: Variant, sized: Sequence[SizeScan], rule: str, families: np.ndarray[Any, Any]
) -> list[Columns]:
    """Flips from each window size to the next; p is by the strongest of all features and sizes of a scope."""
    pairs = list(pairwise(sized))
    flips = [lag_flip(smaller.scan, larger.scan, rule) for smaller, larger in pairs]
    if not flips:
        return []
    largest = largest_null(flips, families)
    return [
        labels.columns(variant, pair[1].size, "flip") | flip_columns(*pair, rule, flip, largest)
        for pair, flip in zip(pairs, flips, strict=True)
    ]


def _sliding_rows(labels: Labels, size: int, one: Aligned, irregular: np.ndarray[Any, Any]) -> list[Columns]:
    rows: list[Columns] = []
    for width in WIDTHS:
        bands = sliding_bands(one.features, one.metric, width)
        for end in ("lowest", "highest"):
            rows.append(labels.columns(_RAW, size, "sliding") | sliding_columns(bands, end, width, irregular))
    return rows


def _share_rows(labels: Labels, table: SizeTable, one: Aligned, extra: Aligned) -> list[Columns]:
    """Share of the loss that edge ratio and k95 of each scope explain together, beyond a straight line."""
    edge_ratios = one.features[FEATURES.index("edge_ratio") :: len(FEATURES)]
    pairs = np.stack([edge_ratios, extra.features], axis=1)
    whole = np.flatnonzero(np.isfinite(pairs).all(axis=(1, 2)))
    basis = trend_basis(one.steps, 1)
    shares = dict(zip(whole.tolist(), multiple_r2_of_each(list(pairs[whole]), one.metric, basis), strict=True))
    unknown = np.full(len(one.metric), np.nan)
    rows: list[Columns] = []
    for scope, (name, pair) in enumerate(zip(labels.scopes, pairs, strict=True)):
        n_eff = fewest_effective(pair, one.metric[:1], basis) if scope in shares else np.nan
        names = labels.shared(Variant("end", "linear", "plain"), table.size, "multiple_r2", 1)
        names |= {"scope": np.array([name]), "feature": np.array([f"edge_ratio and {EXTRA}"])}
        irregular = bool(table.irregular[scope])
        rows.append(names | share_columns(shares.get(scope, unknown), pair.shape[1], n_eff, irregular))
    return rows


def _no_target(inputs: CouplingInputs) -> Columns:
    """One row a scope and window size that says that no loss is logged."""
    labels = Labels(_NO_TARGET, inputs.scopes)
    parts = [labels.shared(Variant(), table.size, "peak", len(inputs.scopes)) for table in inputs.sizes]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    n_rows = len(columns["target"])
    return columns | {
        "scope": np.tile(inputs.scopes, len(inputs.sizes)),
        "feature": np.full(n_rows, "edge_ratio"),
        "n": np.zeros(n_rows, dtype=np.int64),
        "status": np.full(n_rows, "no_target"),
    }
