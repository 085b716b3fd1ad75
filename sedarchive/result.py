"""The answer to a query: names, types and rows, fully fetched. Stdlib only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Executed(Protocol):
    """What is needed of a cursor that has executed a query (PEP 249)."""

    @property
    def description(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


@dataclass(frozen=True)
class Result:
    """Rows of a query."""

    columns: list[str]
    """Names, unique: a repeated one gets ``_1``, ``_2`` ..., as DuckDB names the columns of a new table."""
    types: list[str]
    """DuckDB types, such as ``DOUBLE`` and ``VARCHAR``."""
    rows: list[tuple[Any, ...]]
    """Values as Python objects, None for NULL."""

    @classmethod
    def fetch(cls, executed: Executed) -> "Result":
        """Take all rows of a cursor that has executed a query.

        DuckDB 2 runs a query while it is fetched, so errors of the query come up here too.
        """
        description = executed.description or []
        names = [str(column[0]) for column in description]
        return cls(_unique(names), [str(column[1]) for column in description], executed.fetchall())

    def dicts(self) -> list[dict[str, Any]]:
        """One dict for each row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def column(self, name: str) -> list[Any]:
        """All values of one column.

        Raises
        ------
        ValueError
            If there is no such column.
        """
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def _unique(names: Sequence[str]) -> list[str]:
    unique: list[str] = []
    for name in names:
        candidate, repeats = name, 0
        while candidate in unique:
            repeats += 1
            candidate = f"{name}_{repeats}"
        unique.append(candidate)
    return unique
