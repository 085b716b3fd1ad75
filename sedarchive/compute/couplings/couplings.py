"""Brings the table of couplings up to date: it follows from the window tables and the logs alone."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from sedarchive.archive.records import canonical_digest
from sedarchive.compute.couplings.coupling_inputs import (
    EXTRA,
    FEATURES,
    CouplingInputs,
    SizeTable,
    input_keys,
    read_inputs,
    stacked,
)
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
from sedarchive.compute.keyed import KeyedRows, Owned, Pair
from sedarchive.compute.rolling.window_rows import concatenated
from sedarchive.compute.turns import Turns
from sedarchive.executor import Executor
from sedarchive.inference.correlation import fewest_effective
from sedarchive.inference.coupling import STAMPS, Aligned, RunMetric, Variant, WindowFeatures, aligned, scan_sizes
from sedarchive.inference.granger import granger, multiple_r2_of_each
from sedarchive.inference.lags import MIN_PAIRS, PEAK_RULES, reach_for
from sedarchive.inference.significance import lag_flip, largest_null
from sedarchive.inference.sliding import WIDTHS, sliding_bands
from sedarchive.inference.surrogates import DRAWS
from sedarchive.inference.trends import DEGREES, trend_basis
from sedarchive.tables import Database

ALGORITHM = "couplings-4"
_CHOICES = (*(("plain", detrend) for detrend in DEGREES), ("partial_lr", "linear"), ("difference", "none"))
VARIANTS = tuple(Variant(stamp, detrend, kind) for stamp in STAMPS for kind, detrend in _CHOICES)
MEASURES = ("peak", "lag", "flip", "sliding", "granger", "multiple_r2")
"""Kinds of rows that are written here."""
_RAW = Variant("end", "none", "plain")
_NO_TARGET = "val_loss"
_Task = Callable[[], list[Columns]]


def keyed_couplings(run: str) -> KeyedRows:
    """Rows of ``couplings`` of one run; all window sizes of a scope are searched together."""
    options = json.dumps({"draws": DRAWS, "seed": 0})
    return KeyedRows(run, "couplings", ALGORITHM, (Owned("couplings", ("scope",), "measure", MEASURES),), options)


def wanted_couplings(database: Database, run: str, sizes: Sequence[int]) -> dict[Pair, str]:
    """Keys of what should stand, by scope: a hash of its windows and the logs."""
    inputs = input_keys(database, run, sizes)
    return {(scope, None): canonical_digest([ALGORITHM, key])[:16] for scope, key in inputs.items()}


def refresh_couplings(run: str, steps: Sequence[int], sizes: Sequence[int], turns: Turns, executor: Executor) -> int:
    """Derive the couplings of a run anew, unless what they follow from is unchanged.

    Parameters
    ----------
    run, steps
        The run, and the steps of its checkpoints.
    sizes
        Window sizes whose couplings are wanted.
    turns, executor
        Turns at the database; runs the scans.

    Returns
    -------
    int
        Number of scopes whose couplings were derived.
    """
    started = datetime.now(UTC)
    keyed = keyed_couplings(run)
    work = keyed.outstanding(turns.database, wanted_couplings(turns.database, run, sizes))
    if not work:
        return 0
    inputs = read_inputs(turns.database, run, steps, sizes, sorted(scope for scope, _ in work.keys if scope))
    turns.end()
    rows = coupling_rows(inputs, executor)
    keyed.write(turns.database, work, {"couplings": rows}, started)
    return len(work.keys)


def coupling_rows(inputs: CouplingInputs, executor: Executor) -> list[Columns]:
    """Rows of ``couplings``, without the run: one batch for each set of columns."""
    if not inputs.sizes or not inputs.scopes:
        return []
    rows = [] if _NO_TARGET in inputs.metrics else [_no_target(inputs)]
    tasks: list[_Task] = []
    for name, metric in inputs.metrics.items():
        variants = [one for one in VARIANTS if one.kind != "partial_lr" or metric.lr is not None]
        job = _Job(inputs, Labels(name, inputs.scopes), metric)
        # the longest first, so that no worker is left alone with it
        tasks += [job.level_rows, *(partial(job.scan_rows, one) for one in variants)]
    for found in executor.map(_done, tasks):
        rows += found
    batches: dict[tuple[str, ...], list[Columns]] = {}
    for columns in rows:
        batches.setdefault(tuple(sorted(columns)), []).append(columns)
    return [concatenated(parts) for parts in batches.values()]


def _done(task: _Task) -> list[Columns]:
    return task()


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

    def level_rows(self) -> list[Columns]:
        """What is tested at lag 0 and by the past: sliding correlations, Granger, shares explained."""
        grids = self.metric.grids(_RAW, [table.size for table in self.inputs.sizes])
        rows: list[Columns] = []
        for table in self.inputs.sizes:
            one = aligned(WindowFeatures(table.size, stacked(table)), self.metric, grids)
            if one.features.shape[1] >= MIN_PAIRS:
                extra = aligned(WindowFeatures(table.size, table.features[EXTRA]), self.metric, grids)
                irregular = np.repeat(table.irregular, len(FEATURES))
                rows += _sliding_rows(self.labels, table.size, one, irregular)
                tested = granger_columns(granger(one.features, one.metric, one.lr), irregular)
                rows.append(self.labels.columns(_RAW, table.size, "granger") | tested)
                rows += _share_rows(self.labels, table, one, extra)
        return rows


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
