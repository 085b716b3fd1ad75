"""Brings the tables of windows up to date: only what is new or stale is derived."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.audits import Audit
from sedarchive.compute.keyed import KeyedRows, Outstanding, Owned, Pair, ScopeSize
from sedarchive.compute.rolling.decayed import Decayed, decayed_tensors
from sedarchive.compute.rolling.histories import scope_history
from sedarchive.compute.rolling.null_rows import NULL_INPUTS, null_rows
from sedarchive.compute.rolling.scope_windows import ScopeRows, ScopeWindows
from sedarchive.compute.rolling.window_rows import Columns, concatenated
from sedarchive.compute.rolling.window_tables import read_windows
from sedarchive.compute.stages import Stage, of_one_size
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.executor import Progress
from sedarchive.gram import Gram
from sedarchive.leaves import Scope
from sedarchive.rolling.decay import decay_products
from sedarchive.rolling.logged import Logged
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.stored_grams import StoredGrams
from sedarchive.tables import Database

ALGORITHM = "windows-6"
TABLES = ("updates", "windows", "window_sigmas")
_NULL_KEYS = {
    "windows": ("scope", "window_size", "step"),
    "window_sigmas": ("scope", "window_size", "step", "k"),
}
"""What tells the rows of a run apart, in the tables that hold nulls."""


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


@dataclass
class WindowRefresh:
    """One refresh of the windows of a run: those that are missing or stale.

    Its two stages are for two calls of :func:`run_stages`: the nulls follow from the windows.
    """

    source: WindowSource
    work: "_Work"
    sizes: Mapping[int, bool]
    """Window sizes, and whether their null is sampled too."""
    turns: Turns
    progress: Progress
    started: datetime = field(default_factory=partial(datetime.now, UTC))
    made: list[ScopeRows] = field(default_factory=list)

    @classmethod
    def of(
        cls, source: WindowSource, scopes: Sequence[Scope], sizes: Mapping[int, bool], turns: Turns, progress: Progress
    ) -> "WindowRefresh":
        """Look at what stands."""
        return cls(source, _Work.of(turns.database, source, scopes, sizes), sizes, turns, progress)

    @property
    def n_sets(self) -> int:
        """Pairs of one scope and size to derive."""
        return len(self.work.all.keys)

    def window_stages(self) -> list[Stage[Any]]:
        """Make the windows, a task for each scope; none if all stand."""
        sized = [(scope, sizes) for scope in self.work.scopes if (sizes := self.work.sizes_of(scope))]
        if not sized:
            return []
        n_pairs = sum(len(sizes) for _, sizes in sized)

        def keep(found: Iterator[ScopeRows]) -> None:
            done = 0
            for of_scope in found:
                self.made.append(of_scope)
                done += len(of_scope.sized)
                self.progress(f"windows {self.source.anatomy.run.name}", done, n_pairs)

        n_steps = len(self.source.anatomy.run.commits)
        return [Stage(self._tasks(sized), len(sized), keep, n_pairs * n_steps, 2 * self.source.stored.matrix_bytes)]

    def _tasks(self, sized: Sequence[tuple[Scope, tuple[int, ...]]]) -> Iterator[Callable[[], ScopeRows]]:
        source, sizes_of = self.source, dict(sized)
        evidence = source.audit.evidence
        for batch in source.stored.in_batches([scope for scope, _ in sized]):
            for (scope, gram), decay in zip(batch, _decays(source, batch), strict=True):
                history = scope_history(source.anatomy, scope, evidence, source.logged)
                yield ScopeWindows(scope, sizes_of[scope], gram, source.stored.counts(scope), history, decay).rows

    def null_stages(self) -> list[Stage[Any]]:
        """Sample the nulls, of windows just made and of those that stand, and write all; none if all stand."""
        if not self.work.all:
            return []
        run = self.source.anatomy.run
        windows = read_windows(self.turns.database, run.name, self.work.without_null, NULL_INPUTS)
        windows += [rows.standing(size) for rows in self.made for size in rows.sized if self.sizes.get(size, False)]
        tasks = [partial(null_rows, together) for together in of_one_size(windows)]
        return [Stage(tasks, len(tasks), self._write, len(windows) * len(run.commits))]

    def _write(self, found: Iterator[list[dict[str, Columns]]]) -> None:
        """Write windows and nulls."""
        run = self.source.anatomy.run.name
        nulls = {_pair_of(tables["windows"]): tables for of_size in found for tables in of_size}
        standing = [nulls.pop(pair) for pair in self.work.without_null]
        database = self.turns.database
        with database.transaction():
            _remove_pairs(database, run, self.work)
            for table, columns in self._batches(nulls):
                database.insert(table, {"run": run, **columns})
            for table, names in _NULL_KEYS.items():
                if standing:
                    database.update(table, {"run": run}, names, concatenated([one[table] for one in standing]))
            self._record(database)
        self.made.clear()

    def _batches(self, nulls: Mapping[ScopeSize, dict[str, Columns]]) -> Iterator[tuple[str, Columns]]:
        """Rows of each table: those with a null, and those without."""
        for table in TABLES:
            with_null: list[Columns] = []
            bare: list[Columns] = []
            for rows in self.made:
                for size, tables in rows.sized.items():
                    null = nulls.get((rows.scope, size))
                    if table in tables:
                        (with_null if null else bare).append(tables[table] | (null[table] if null else {}))
            yield from ((table, concatenated(parts)) for parts in (with_null, bare) if parts)

    def _record(self, database: Database) -> None:
        keyed = _keyed(self.source.anatomy.run.name)
        for with_null in (False, True):
            keys = {
                pair: key
                for pair, key in self.work.all.keys.items()
                if self.sizes.get(pair[1] or 1, False) == with_null
            }
            options = json.dumps({"null": with_null})
            replace(keyed, options=options).record(database, keys, self.started, self.source.stored.key)


def _pair_of(columns: Columns) -> ScopeSize:
    return str(columns["scope"][0]), int(columns["window_size"][0])


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
    scopes: Sequence[Scope]

    @classmethod
    def of(
        cls, database: Database, source: WindowSource, scopes: Sequence[Scope], sizes: Mapping[int, bool]
    ) -> "_Work":
        known = _keyed(source.anatomy.run.name).known(database)
        reached = [1, *(size for size in sizes if size < len(source.anatomy.run.commits))]
        pairs = sorted((scope.name, size) for scope in scopes for size in reached)
        scope_of = {scope.name: scope for scope in scopes}
        wanted: dict[Pair, str] = {
            (name, size): source.key(scope_of[name], size, sizes.get(size, False)) for name, size in pairs
        }
        work = Outstanding.between(known, wanted)
        bare = [pair for pair in work.pairs if known.get(pair) == source.key(scope_of[pair[0]], pair[1], False)]
        return cls(work, bare, work.stale - set(bare) | work.gone, scopes)

    def sizes_of(self, scope: Scope) -> tuple[int, ...]:
        """Sizes to derive for a scope."""
        kept = {size for name, size in self.without_null if name == scope.name}
        return tuple(size for name, size in self.all.pairs if name == scope.name and size not in kept)


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


def _remove_pairs(database: Database, run: str, work: _Work) -> None:
    """Remove the rows of what is obsolete, and what ``computations`` says of what changes."""
    if not work.obsolete and not work.without_null:
        return
    keyed = _keyed(run)
    keyed.remove(database, work.obsolete)
    keyed.forget(database, work.without_null)
    Owned("updates", by=("scope",)).remove(database, run, {pair for pair in work.obsolete if pair[1] == 1})
