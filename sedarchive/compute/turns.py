"""Whose turn it is at the database: whoever has the file open keeps other processes out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sedarchive.errors import SedarchiveError
from sedarchive.tables import Database


class Turns:
    """The database of an archive, opened when it is first used and held until the turn ends.

    Opening costs more than most transactions do, so that one turn serves for all that is short. Before long work a
    turn is to end, so that other processes can read. Not for use from several threads.

    A database that is made here and then left empty by a refusal is removed again.
    """

    def __init__(self, path: Path, archive_id: str) -> None:
        self._path, self._archive_id = path, archive_id
        self._opened: Database | None = None
        self._made = False

    @property
    def database(self) -> Database:
        """The open database.

        Raises
        ------
        DatabaseError
            If it cannot be opened.
        """
        if self._opened is None:
            is_new = not self._path.exists()
            self._opened = Database.create_or_open(self._path, self._archive_id)
            self._made = self._made or is_new
        return self._opened

    def end(self) -> None:
        """Close the database, if it is open."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @contextmanager
    def last(self) -> Iterator[Database]:
        """Hold the open database for the last use of a turn, which ends with it."""
        try:
            yield self.database
        finally:
            self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        empty = self._made and isinstance(error, SedarchiveError) and self._is_empty()
        self.end()
        if empty:
            self._path.unlink(missing_ok=True)

    def _is_empty(self) -> bool:
        """Whether nothing of any run was written."""
        return not self.database.rows("SELECT 1 FROM checkpoints LIMIT 1").rows
