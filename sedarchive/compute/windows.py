"""Brings the tables of windows up to date: only what is new or stale is derived."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import numpy as np

from sedarchive import __version__
from sedarchive.archive.records import canonical_digest
from sedarchive.compute.requests import OpenDatabase
from sedarchive.compute.window_rows import (
    Columns,
    ScopeHistory,
    WindowNulls,
    concatenated,
    scope_history,
    sigma_columns,
    unknown_bands,
    update_columns,
    window_columns,
)
from sedarchive.executor import Executor, Progress
from sedarchive.gram import Gram
from sedarchive.leaves import Scope
from sedarchive.nulls import NullBands, NullCache, effective_dimension, null_bands
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.gram_sweep import StoredGrams, UpdateCounts
from sedarchive.tables import Database
from sedarchive.windows import WindowSeries, update_series, window_series

ALGORITHM = "windows-1"
TABLES = ("updates", "windows", "window_sigmas")


@dataclass(frozen=True)
class WindowTask:
    """One scope and the window sizes to derive for it; size 1 stands for single updates."""

    scope: Scope
    sizes: tuple[int, ...]
    with_null: Mapping[int, bool]
    """Whether the null of a size is sampled."""


def refresh_windows(
    anatomy: Anatomy,
    stored: StoredGrams,
    scopes: Sequence[Scope],
    sizes: Mapping[int, bool],
    open_database: OpenDatabase,
    executor: Executor,
    progress: Progress,
) -> int:
    """Derive the windows of a run that are missing or stale.

    ``sizes`` says of each window size whether its null is sampled too. Returns the number of (scope, size) pairs
    that were derived.
    """
    n_updates = len(anatomy.run.commits) - 1
    wanted = {
        (scope.name, size): _pair_key(stored.key, scope, size, sizes.get(size, False))
        for scope in scopes
        for size in [1, *(size for size in sizes if size <= n_updates)]
    }
    with open_database() as database:
        known = _known_keys(database, anatomy.run.name)
    stale = {pair for pair, key in wanted.items() if known.get(pair) != key}
    gone = known.keys() - wanted.keys()
    if not stale and not gone:
        return 0
    started = datetime.now(UTC)
    sizes_of = {scope.name: tuple(sorted(size for name, size in stale if name == scope.name)) for scope in scopes}
    tasks = [WindowTask(scope, sizes_of[scope.name], sizes) for scope in scopes if sizes_of[scope.name]]
    rows = _derive(anatomy, stored, tasks, executor, progress)
    with open_database() as database, database.transaction():
        if stale == wanted.keys():
            for table in TABLES:
                database.replace(table, {"run": anatomy.run.name}, {})
            database.replace("computations", {"run": anatomy.run.name, "table_name": "windows"}, {})
        else:
            _remove_pairs(database, anatomy.run.name, (stale & known.keys()) | gone)
        for table, columns in rows.items():
            if columns:
                database.insert(table, {"run": anatomy.run.name, **columns})
        _record(database, anatomy.run.name, {pair: wanted[pair] for pair in sorted(stale)}, stored.key, sizes, started)
    return len(stale)


def _pair_key(gram_key: str, scope: Scope, size: int, with_null: bool) -> str:
    return canonical_digest([ALGORITHM, gram_key, [leaf.name for leaf in scope.leaves], size, with_null])[:16]


def _derive(
    anatomy: Anatomy,
    stored: StoredGrams,
    tasks: Sequence[WindowTask],
    executor: Executor,
    progress: Progress,
) -> dict[str, Columns]:
    """Rows of the three tables for some scopes and sizes; a scope is one task."""
    parts: list[dict[str, Columns]] = []
    function = partial(_derive_scope, anatomy, stored, NullCache())
    task_of = {task.scope: task for task in tasks}
    for batch in stored.in_batches([task.scope for task in tasks]):
        for found in executor.map(function, [(task_of[scope], gram) for scope, gram in batch]):
            parts += found
            progress(f"windows {anatomy.run.name}", len(parts), sum(len(task.sizes) for task in tasks))
    return {table: concatenated([part[table] for part in parts if table in part]) for table in TABLES}


def _derive_scope(
    anatomy: Anatomy, stored: StoredGrams, cache: NullCache, job: tuple[WindowTask, Gram]
) -> list[dict[str, Columns]]:
    """Rows of one scope, for each of its sizes."""
    task, gram = job
    series = _ScopeSeries(task.scope, gram, stored.counts(task.scope), scope_history(anatomy, task.scope), cache)
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
        series = window_series(self.gram, size, self.scope.n_elements)
        bands = self._null_bands(series) if with_null else unknown_bands(len(series), size)
        nulls = WindowNulls(bands, self.p_eff)
        return {
            "windows": self._named(window_columns(series, nulls, self.history), size),
            "window_sigmas": self._named(sigma_columns(series, nulls, self.history), size),
        }

    def _null_bands(self, series: WindowSeries) -> NullBands:
        index = np.arange(self.gram.n_updates)
        norms = np.sqrt(self.gram.products(index, index))
        inside = series.last_update[:, None] - np.arange(series.window_size)[::-1]
        return null_bands(norms[inside], series.edge_ratio, self.p_eff, cache=self.cache)

    def _named(self, columns: Columns, size: int | None = None) -> Columns:
        """Columns with those that say whose they are."""
        n_rows = len(columns["step"])
        names: dict[str, Any] = {"scope": np.full(n_rows, self.scope.name)}
        if size is not None:
            names["window_size"] = np.full(n_rows, size)
        return names | columns


def _known_keys(database: Database, run: str) -> dict[tuple[str, int], str]:
    sql = "SELECT scope, window_size, key FROM computations WHERE run = ? AND table_name = 'windows'"
    return {(scope, size): key for scope, size, key in database.rows(sql, [run]).rows}


def _remove_pairs(database: Database, run: str, pairs: set[tuple[str, int]]) -> None:
    for scope, size in sorted(pairs):
        where = {"run": run, "scope": scope}
        database.replace("computations", {**where, "table_name": "windows", "window_size": size}, {})
        for table in ("updates",) if size == 1 else ("windows", "window_sigmas"):
            database.replace(table, where if size == 1 else {**where, "window_size": size}, {})


def _record(
    database: Database,
    run: str,
    keys: dict[tuple[str, int], str],
    gram_key: str,
    sizes: Mapping[int, bool],
    started: datetime,
) -> None:
    """Say in ``computations`` what was made from what."""
    if not keys:
        return
    pairs = list(keys)
    columns = {
        "run": run,
        "table_name": "windows",
        "scope": [scope for scope, _ in pairs],
        "window_size": [size for _, size in pairs],
        "key": list(keys.values()),
        "options": [json.dumps({"null": sizes.get(size, False)}) for _, size in pairs],
        "versions": f"sedarchive {__version__}, numpy {np.__version__}, {ALGORITHM}",
        "digests": gram_key,
        "started": started,
        "finished": datetime.now(UTC),
    }
    columns = {name: [value] * len(pairs) if not isinstance(value, list) else value for name, value in columns.items()}
    database.insert("computations", columns)
