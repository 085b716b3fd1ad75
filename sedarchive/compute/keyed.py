"""Rows by (scope, window size) that know what they were made from: what stands is kept, the rest is made or removed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from sedarchive import __version__
from sedarchive.tables import Database

ScopeSize = tuple[str, int]
Pair = tuple[str | None, int | None]
"""(scope, window size); None where the rows are of all scopes, or of all sizes."""
WHOLE: Pair = (None, None)
"""Rows that are made at once."""
Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Table -> batches of columns, without the run."""
_PAIR = ("scope", "window_size")


@dataclass(frozen=True)
class Owned:
    """The rows of one table that belong to a pair."""

    table: str
    by: tuple[str, ...] = _PAIR
    """Columns that name the pair: both, or the scope alone."""
    kind: str = ""
    """Column that tells these rows from those of others, where the table holds both."""
    kinds: tuple[str, ...] = ()
    """Its values in these rows."""

    def remove(self, database: Database, run: str | None, pairs: Collection[Pair]) -> None:
        """Remove the rows of some pairs."""
        if not pairs:
            return
        named = sorted({pair[: len(self.by)] for pair in pairs}, key=str)
        if not self.kind:
            database.remove(self.table, {"run": run}, self.by, named)
            return
        rows = [(*pair, kind) for pair, kind in product(named, self.kinds)]
        database.remove(self.table, {"run": run}, (*self.by, self.kind), rows)


@dataclass(frozen=True)
class Outstanding:
    """What is to be done to the rows of one run."""

    keys: dict[Pair, str]
    """Pairs that are missing or stale, with their new keys."""
    stale: frozenset[Pair]
    """Of these the ones that stand, made from something else."""
    gone: frozenset[Pair]
    """Pairs whose rows are wanted no more."""

    @classmethod
    def between(cls, known: Mapping[Pair, str], wanted: Mapping[Pair, str]) -> "Outstanding":
        """Return what turns the rows that stand, by their keys, into those that are wanted."""
        missing = {pair: key for pair, key in wanted.items() if known.get(pair) != key}
        return cls(missing, frozenset(known.keys() & missing.keys()), frozenset(known.keys() - wanted.keys()))

    def __bool__(self) -> bool:
        return bool(self.keys or self.gone)

    @cached_property
    def pairs(self) -> list[ScopeSize]:
        """Pairs of one scope and size that are to be made."""
        return [(scope, size) for scope, size in self.keys if scope is not None and size is not None]


@dataclass(frozen=True)
class KeyedRows:
    """The rows of one run in one table or several, recorded in ``computations`` under one name."""

    run: str | None
    """None for rows that are of all runs together."""
    name: str
    """``computations.table_name``."""
    algorithm: str
    tables: tuple[Owned, ...]
    options: str = "{}"
    """JSON, for people."""

    def known(self, database: Database) -> dict[Pair, str]:
        """Pairs that stand, with their keys."""
        sql = (
            "SELECT scope, window_size, key FROM computations "
            "WHERE run IS NOT DISTINCT FROM ? AND table_name = ? ORDER BY ALL"
        )
        return {(scope, size): key for scope, size, key in database.rows(sql, [self.run, self.name]).rows}

    def outstanding(self, database: Database, wanted: Mapping[Pair, str]) -> Outstanding:
        """Compare the keys of what is wanted with those recorded."""
        return Outstanding.between(self.known(database), wanted)

    def write(
        self, database: Database, work: Outstanding, rows: Rows, started: datetime, digests: str | None = None
    ) -> None:
        """Replace the rows of the pairs concerned by new ones, whose columns say which pair they are of."""
        with database.transaction():
            self.remove(database, work.keys.keys() | work.gone)
            for table, batches in rows.items():
                for columns in batches:
                    if columns:
                        database.insert(table, {"run": self.run, **columns})
            self.record(database, work.keys, started, digests)

    def drop(self, database: Database, work: Outstanding) -> None:
        """Remove the rows of what is stale or wanted no more, and make nothing."""
        if work.stale or work.gone:
            with database.transaction():
                self.remove(database, work.stale | work.gone)

    def remove(self, database: Database, pairs: Collection[Pair]) -> None:
        """Remove the rows of some pairs and what ``computations`` says of them."""
        for owned in self.tables:
            owned.remove(database, self.run, pairs)
        self.forget(database, pairs)

    def forget(self, database: Database, pairs: Collection[Pair]) -> None:
        """Take back what ``computations`` says of some pairs."""
        database.remove("computations", {"run": self.run, "table_name": self.name}, _PAIR, sorted(pairs, key=str))

    def renew(self, database: Database, work: Outstanding, started: datetime) -> None:
        """Say in ``computations`` what was done, where the caller replaced the rows, in his transaction."""
        self.forget(database, work.keys.keys() | work.gone)
        self.record(database, work.keys, started)

    def record(
        self, database: Database, keys: Mapping[Pair, str], started: datetime, digests: str | None = None
    ) -> None:
        """Say in ``computations`` what was made from what."""
        if not keys:
            return
        made = {
            "run": self.run,
            "table_name": self.name,
            "scope": [scope for scope, _ in keys],
            "window_size": [size for _, size in keys],
            "key": list(keys.values()),
            "options": self.options,
            "digests": digests,
            "versions": f"sedarchive {__version__}, numpy {np.__version__}, {self.algorithm}",
            "started": started,
            "finished": datetime.now(UTC),
        }
        database.insert("computations", made)
