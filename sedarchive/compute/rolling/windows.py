"""Brings the tables of windows up to date: only what is new or stale is derived."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.archive.records import canonical_digest
from sedarchive.audit import Evidence
from sedarchive.compute.audits import Audit
from sedarchive.compute.keyed import KeyedRows, Outstanding, Owned, Pair, ScopeSize
from sedarchive.compute.logged import Logged
from sedarchive.compute.rolling.decayed import Decayed, decayed_tensors
from sedarchive.compute.rolling.null_rows import NULL_INPUTS, bands_of_windows, null_rows, unit_null
from sedarchive.compute.rolling.window_rows import (
    Columns,
    ScopeHistory,
    UnitNull,
    WindowNulls,
    concatenated,
    scope_history,
    sigma_columns,
    unknown_bands,
    update_columns,
    window_columns,
)
from sedarchive.compute.rolling.window_tables import read_windows
from sedarchive.compute.turns import Turns
from sedarchive.executor import Executor, Progress
from sedarchive.gram import Gram
from sedarchive.leaves import Scope
from sedarchive.nulls.bands import NullBands, NullCache, effective_dimension
from sedarchive.rolling.decay import decay_products
from sedarchive.rolling.modes import Modes
from sedarchive.rolling.windows import WindowSeries, update_series, window_series
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.stored_grams import StoredGrams, UpdateCounts
from sedarchive.tables import Database

ALGORITHM = "windows-6"
TABLES = ("updates", "windows", "window_sigmas")
_NULL_KEYS = {
    "windows": ("scope", "window_size", "step"),
    "window_sigmas": ("scope", "window_size", "step", "k"),
}
"""What tells the rows of a run apart, in the tables that hold nulls."""


@dataclass(frozen=True)
class WindowTask:
    """One scope and the window sizes to derive for it; size 1 stands for single updates."""

    scope: Scope
    sizes: tuple[int, ...]
    with_null: Mapping[int, bool]
    """Whether the null of a size is sampled."""


@dataclass(frozen=True)
class WindowSource:
    """What the windows of one run follow from."""

    anatomy: Anatomy
    stored: StoredGrams
    audit: Audit
    """Says which checkpoints are in doubt."""
    logged: Logged

    def key(self, scope: Scope, size: int, with_null: bool) -> str:
        """Hash of everything that the rows of a scope and size follow from."""
        leaves, decayed = ([leaf.name for leaf in one.leaves] for one in (scope, self.decayed(scope)))
        return canonical_digest([ALGORITHM, self.stored.key, self.logged.key, leaves, decayed, size, with_null])[:16]

    def decayed(self, scope: Scope) -> Scope:
        """Part of a scope that weight decay acts on."""
        return scope.only(self._decayed.tensors)

    @cached_property
    def _decayed(self) -> Decayed:
        return decayed_tensors(self.anatomy)


def refresh_windows(
    source: WindowSource,
    scopes: Sequence[Scope],
    sizes: Mapping[int, bool],
    turns: Turns,
    executor: Executor,
    progress: Progress,
) -> int:
    """Derive the windows of a run that are missing or stale.

    ``sizes`` says of each window size whether its null is sampled too. Returns the number of (scope, size) pairs that
    were derived.
    """
    started = datetime.now(UTC)
    run = source.anatomy.run.name
    work = _outstanding(turns.database, source, scopes, sizes)
    if not work.all:
        return 0
    standing = read_windows(turns.database, run, work.without_null, NULL_INPUTS)
    turns.end()
    tasks = [WindowTask(scope, work.sizes_of(scope), sizes) for scope in scopes if work.sizes_of(scope)]
    rows = _derive(source, tasks, executor, progress)
    nulls = null_rows(standing, executor)
    database = turns.database
    with database.transaction():
        _remove_pairs(database, run, work)
        for table, columns in rows.items():
            if columns:
                database.insert(table, {"run": run, **columns})
        for table, names in _NULL_KEYS.items():
            if nulls[table]:
                database.update(table, {"run": run}, names, nulls[table])
        for with_null in (False, True):
            keys = {pair: key for pair, key in work.all.keys.items() if sizes.get(pair[1] or 1, False) == with_null}
            options = json.dumps({"null": with_null})
            replace(_keyed(run), options=options).record(database, keys, started, source.stored.key)
    return len(work.all.keys)


def _keyed(run: str) -> KeyedRows:
    return KeyedRows(run, "windows", ALGORITHM, (Owned("windows"), Owned("window_sigmas")))


@dataclass(frozen=True)
class _Work:
    """What is to be done to the tables of one run."""

    all: Outstanding
    """Pairs to make and to remove."""
    without_null: list[ScopeSize]
    """Of those to make the ones that lack nothing but their null."""
    obsolete: frozenset[Pair]
    """Pairs whose rows stand and must go: stale, or wanted no more."""

    def sizes_of(self, scope: Scope) -> tuple[int, ...]:
        """Sizes to derive for a scope."""
        kept = {size for name, size in self.without_null if name == scope.name}
        return tuple(size for name, size in self.all.pairs if name == scope.name and size not in kept)


def _outstanding(database: Database, source: WindowSource, scopes: Sequence[Scope], sizes: Mapping[int, bool]) -> _Work:
    known = _keyed(source.anatomy.run.name).known(database)
    reached = [1, *(size for size in sizes if size < len(source.anatomy.run.commits))]
    pairs = sorted((scope.name, size) for scope in scopes for size in reached)
    scope_of = {scope.name: scope for scope in scopes}
    wanted: dict[Pair, str] = {
        (name, size): source.key(scope_of[name], size, sizes.get(size, False)) for name, size in pairs
    }
    work = Outstanding.between(known, wanted)
    bare = [pair for pair in work.pairs if known.get(pair) == source.key(scope_of[pair[0]], pair[1], False)]
    return _Work(work, bare, work.stale - set(bare) | work.gone)


def _derive(
    source: WindowSource, tasks: Sequence[WindowTask], executor: Executor, progress: Progress
) -> dict[str, Columns]:
    """Rows of the tables for some scopes and sizes; a scope is one task."""
    parts: list[dict[str, Columns]] = []
    evidence = source.audit.evidence if tasks else ()
    function = partial(_derive_scope, source, evidence, NullCache())
    task_of = {task.scope: task for task in tasks}
    for batch in source.stored.in_batches([task.scope for task in tasks]):
        decays = _decays(source, batch)
        jobs = [(task_of[scope], gram, decay) for (scope, gram), decay in zip(batch, decays, strict=True)]
        for found in executor.map(function, jobs):
            parts += found
            progress(f"windows {source.anatomy.run.name}", len(parts), sum(len(task.sizes) for task in tasks))
    return {table: concatenated([part[table] for part in parts if table in part]) for table in TABLES}


def _decays(source: WindowSource, batch: Sequence[tuple[Scope, Gram]]) -> list[NDArray[np.float64] | None]:
    """What weight decay did to each scope: to the tensors that it acts on alone, where its rate is known.

    Of a product it is not: decay acts on its factors.
    """
    rate = source.logged.decay_sum
    if not np.isfinite(rate).any():
        return [None] * len(batch)
    mixed = [part for scope, _ in batch if (part := source.decayed(scope)) != scope]
    decayed = dict(zip((scope.name for scope in mixed), source.stored.grams(mixed), strict=True))
    return [
        None if scope.has_products else decay_products(decayed.get(scope.name, gram), rate) for scope, gram in batch
    ]


def _derive_scope(
    source: WindowSource,
    evidence: Sequence[Evidence],
    cache: NullCache,
    job: tuple[WindowTask, Gram, NDArray[np.float64] | None],
) -> list[dict[str, Columns]]:
    """Rows of one scope, for each of its sizes."""
    task, gram, decay = job
    history = scope_history(source.anatomy, task.scope, evidence, source.logged)
    series = _ScopeSeries(task.scope, gram, source.stored.counts(task.scope), history, cache, decay)
    return [
        {"updates": series.updates()} if size == 1 else series.windows(size, task.with_null.get(size, False))
        for size in task.sizes
    ]


@dataclass(frozen=True)
class _ScopeSeries:
    """Everything that the rows of one scope come from."""

    scope: Scope
    gram: Gram
    counts: UpdateCounts
    history: ScopeHistory
    cache: NullCache
    decay: NDArray[np.float64] | None
    """Products of the decay's part of each update with every update, where they are known."""
    known: dict[int, Modes] = field(default_factory=dict)
    """Eigenpairs of the sizes that are done."""

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
        unit = unit_null(size, self.p_eff, self.cache) if with_null else UnitNull.unknown(size)
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
        return bands_of_windows(self._norms, series.window_size, series.edge_ratio, self.p_eff, self.cache)

    def _named(self, columns: Columns, size: int | None = None) -> Columns:
        """Columns with those that say whose they are."""
        n_rows = len(next(iter(columns.values())))
        names: dict[str, Any] = {"scope": np.full(n_rows, self.scope.name)}
        if size is not None:
            names["window_size"] = np.full(n_rows, size)
        return names | columns


def _remove_pairs(database: Database, run: str, work: _Work) -> None:
    """Remove the rows of what is obsolete, and what ``computations`` says of what changes."""
    if not work.obsolete and not work.without_null:
        return
    keyed = _keyed(run)
    keyed.remove(database, work.obsolete)
    keyed.forget(database, work.without_null)
    Owned("updates", by=("scope",)).remove(database, run, {pair for pair in work.obsolete if pair[1] == 1})
