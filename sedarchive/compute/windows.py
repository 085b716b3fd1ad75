"""Brings the tables of windows up to date: only what is new or stale is derived."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
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
    update_columns,
    window_columns,
)
from sedarchive.executor import Executor, Progress
from sedarchive.gram import Gram
from sedarchive.leaves import Scope
from sedarchive.nulls import NullCache, effective_dimension, null_bands
from sedarchive.sweeps.gram_sweep import StoredGrams
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.tables import Database
from sedarchive.windows import update_series, window_series

ALGORITHM = "windows-1"
TABLES = ("updates", "windows", "window_sigmas")


@dataclass(frozen=True)
class WindowTask:
    """One scope and the window sizes to derive for it; size 1 stands for single updates."""

    scope: Scope
    gram: Gram
    history: ScopeHistory
    size: int
    p_eff: float
    """Effective dimension of the scope's updates, for the sampled null."""


def refresh_windows(
    anatomy: Anatomy,
    stored: StoredGrams,
    scopes: Sequence[Scope],
    sizes: Sequence[int],
    open_database: OpenDatabase,
    executor: Executor,
    progress: Progress,
) -> int:
    """Derive the windows of a run that are missing or stale; how many (scope, size) pairs that were."""
    n_updates = len(anatomy.run.commits) - 1
    wanted = {
        (scope.name, size): _pair_key(stored.key, scope, size)
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
    rows = _derive(anatomy, stored, [scope for scope in scopes], stale, executor, progress)
    with open_database() as database, database.transaction():
        if stale == wanted.keys():
            for table in (*TABLES, "computations"):
                database.replace(table, {"run": anatomy.run.name}, {})
        else:
            _remove_pairs(database, anatomy.run.name, stale | gone)
        for table, columns in rows.items():
            if columns:
                database.insert(table, {"run": anatomy.run.name, **columns})
        _record(database, anatomy.run.name, {pair: wanted[pair] for pair in sorted(stale)}, stored.key, started)
    return len(stale)


def _pair_key(gram_key: str, scope: Scope, size: int) -> str:
    return canonical_digest([ALGORITHM, gram_key, [leaf.name for leaf in scope.leaves], size])[:16]


def _derive(
    anatomy: Anatomy,
    stored: StoredGrams,
    scopes: Sequence[Scope],
    stale: set[tuple[str, int]],
    executor: Executor,
    progress: Progress,
) -> dict[str, Columns]:
    """Rows of the three tables for the stale pairs; scopes are taken one at a time, their sizes in parallel."""
    parts: dict[str, list[Columns]] = {table: [] for table in TABLES}
    cache = NullCache()
    for done, scope in enumerate(scopes, start=1):
        sizes = sorted(size for name, size in stale if name == scope.name)
        if sizes:
            gram, history = stored.gram(scope), scope_history(anatomy, scope)
            p_eff = effective_dimension(gram, scope.n_elements)
            tasks = [WindowTask(scope, gram, history, size, p_eff) for size in sizes]
            for found in executor.map(partial(_derive_one, stored, cache), tasks):
                for table, columns in found.items():
                    parts[table].append(columns)
        progress(f"windows {anatomy.run.name}", done, len(scopes))
    return {table: concatenated(columns) for table, columns in parts.items()}


def _derive_one(stored: StoredGrams, cache: NullCache, task: WindowTask) -> dict[str, Columns]:
    """Rows of one scope and size."""
    if task.size == 1:
        counts = stored.counts(task.scope)
        series = update_series(task.gram, counts.zeros.astype(np.int64), counts.rounding, task.scope.n_elements)
        return {"updates": _named(task, update_columns(series, task.history))}
    windows = window_series(task.gram, task.size, task.scope.n_elements)
    last = np.arange(task.gram.n_updates)
    norms = np.sqrt(task.gram.products(last, last))
    inside = windows.last_update[:, None] - np.arange(task.size)[::-1]
    bands = null_bands(norms[inside], windows.edge_ratio, task.p_eff, cache=cache)
    nulls = WindowNulls(bands, task.p_eff)
    return {
        "windows": _named(task, window_columns(windows, nulls, task.history)),
        "window_sigmas": _named(task, sigma_columns(windows, nulls, task.history)),
    }


def _named(task: WindowTask, columns: Columns) -> Columns:
    """Columns with those that say whose they are."""
    n_rows = len(columns["step"])
    names: dict[str, Any] = {"scope": np.full(n_rows, task.scope.name, dtype=object)}
    if task.size > 1:
        names["window_size"] = np.full(n_rows, task.size)
    return names | columns


def _known_keys(database: Database, run: str) -> dict[tuple[str, int], str]:
    sql = "SELECT scope, window_size, key FROM computations WHERE run = ? AND table_name = 'windows'"
    return {(scope, size): key for scope, size, key in database.rows(sql, [run]).rows}


def _remove_pairs(database: Database, run: str, pairs: set[tuple[str, int]]) -> None:
    for scope, size in sorted(pairs):
        where = {"run": run, "scope": scope}
        database.replace("computations", {**where, "window_size": size}, {})
        for table in ("updates",) if size == 1 else ("windows", "window_sigmas"):
            database.replace(table, where if size == 1 else {**where, "window_size": size}, {})


def _record(
    database: Database, run: str, keys: dict[tuple[str, int], str], gram_key: str, started: datetime
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
        "versions": f"sedarchive {__version__}, numpy {np.__version__}, {ALGORITHM}",
        "digests": gram_key,
        "started": started,
        "finished": datetime.now(UTC),
    }
    columns = {name: [value] * len(pairs) if not isinstance(value, list) else value for name, value in columns.items()}
    database.insert("computations", columns)
