"""Rows by (scope, window size) that know what they were made from: what stands is kept, the rest is made or removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sedarchive import __version__
from sedarchive.tables import Database

Pair = tuple[str, int]
"""(scope, window size)."""


@dataclass(frozen=True)
class Outstanding:
    """What is to be done to the rows of one run."""

    keys: dict[Pair, str]
    """Pairs that are missing or stale, with their new keys."""
    gone: frozenset[Pair]
    """Pairs whose rows are wanted no more."""

    def __bool__(self) -> bool:
        return bool(self.keys or self.gone)


@dataclass(frozen=True)
class KeyedRows:
    """The rows of one run in one table or several, recorded in ``computations`` under one name."""

    run: str
    name: str
    """``computations.table_name``."""
    algorithm: str
    tables: tuple[str, ...]

    def outstanding(self, database: Database, wanted: Mapping[Pair, str]) -> Outstanding:
        """Compare the keys of what is wanted with those recorded."""
        sql = "SELECT scope, window_size, key FROM computations WHERE run = ? AND table_name = ?"
        known = {(scope, size): key for scope, size, key in database.rows(sql, [self.run, self.name]).rows}
        missing = {pair: key for pair, key in wanted.items() if known.get(pair) != key}
        return Outstanding(missing, frozenset(known.keys() - wanted.keys()))

    def write(
        self,
        database: Database,
        work: Outstanding,
        rows: Mapping[str, Mapping[str, Any]],
        digests: str,
        started: datetime,
    ) -> None:
        """Replace the rows of the pairs concerned by new ones (by table; columns hold scope and window_size)."""
        with database.transaction():
            for scope, size in sorted(work.gone | work.keys.keys()):
                pair = {"run": self.run, "scope": scope, "window_size": size}
                for table in self.tables:
                    database.replace(table, pair, {})
                database.replace("computations", {**pair, "table_name": self.name}, {})
            for table, columns in rows.items():
                if columns:
                    database.insert(table, {"run": self.run, **columns})
            if work.keys:
                database.insert("computations", self._made(work, digests, started))

    def _made(self, work: Outstanding, digests: str, started: datetime) -> dict[str, Any]:
        return {
            "run": self.run,
            "table_name": self.name,
            "scope": [scope for scope, _ in work.keys],
            "window_size": [size for _, size in work.keys],
            "key": list(work.keys.values()),
            "digests": digests,
            "versions": f"sedarchive {__version__}, {self.algorithm}",
            "started": started,
            "finished": datetime.now(UTC),
        }
