"""The DuckDB file: opened with checks, written in short transactions, read locked down."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import duckdb
import numpy as np
from numpy.typing import NDArray

from sedarchive.errors import DatabaseError
from sedarchive.result import Result
from sedarchive.tables.columns import Values, column_array
from sedarchive.tables.connecting import connected
from sedarchive.tables.schema import SCHEMA_VERSION, schema_sql

_WRITE_OPTIONS: dict[str, Any] = {
    "threads": 1,  # several write a part of the rows twice to keep their order: a third more of file, and of time
    "storage_compatibility_version": "v1.4.0",  # the default of DuckDB 2 cannot be opened by any 1.x
    "python_enable_replacements": False,  # else a table name could mean a Python variable
}
_READ_OPTIONS: dict[str, Any] = {
    "enable_external_access": False,  # no file, network or extension from a query
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "lock_configuration": True,  # none of these can be switched back; SET VARIABLE still works
}
_INCOMING = "incoming_rows"


@dataclass(frozen=True)
class _NewRows:
    """Rows to insert: arrays of one length, and values that all rows share."""

    arrays: dict[str, NDArray[Any]]
    singles: dict[str, Any]


class Database:
    """The tables of one archive.

    Made by :meth:`create_or_open` (the one writing process) or :meth:`read`. Not
    for use from several threads. A context manager: leaving it closes the file.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    connection : duckdb.DuckDBPyConnection
        For recipes and exports; never leave a result on it unfetched.
    """

    _types: ClassVar[dict[str, dict[str, str]]] = {}  # of the one schema version that is ever written

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.path = path
        self.connection = connection
        self._in_transaction = False

    @classmethod
    def create_or_open(cls, path: str | Path, archive_id: str, patience: float = 10.0) -> Self:
        """Open the database of an archive for writing; create it if there is none.

        Parameters
        ----------
        path : str or Path
            The file. Its folder must exist.
        archive_id : str
            Identity of the archive whose tables these are.
        patience : float
            Seconds to wait for another process that has the file open.

        Raises
        ------
        DatabaseError
            If the file is another archive's, of another schema version, in use, or no database of ours.
        """
        database = cls(Path(path), connected(Path(path), patience, read_only=False, config=_WRITE_OPTIONS))
        try:
            if not database.rows("SELECT 1 FROM duckdb_tables() WHERE NOT internal LIMIT 1").rows:
                database._create(archive_id)
            database._check(archive_id)
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def read(cls, path: str | Path, archive_id: str | None = None, patience: float = 10.0) -> Self:
        """Open a database for reading only: no writes, no files, no settings can be reached from a query.

        Parameters
        ----------
        path : str or Path
            The file.
        archive_id : str, optional
            If given, the archive whose tables these must be.
        patience : float
            Seconds to wait for another process that writes the file.

        Raises
        ------
        DatabaseError
            As for :meth:`create_or_open`; and if there is no such file.
        """
        if not Path(path).is_file():
            raise DatabaseError(f"there is no database {path}; `sedarchive compute` makes it, --db names another place")
        database = cls(Path(path), connected(Path(path), patience, read_only=True, config=_READ_OPTIONS))
        try:
            database._check(archive_id)
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def in_memory(cls) -> Self:
        """Empty tables in memory: for the data dictionary, which needs no file."""
        database = cls(Path(":memory:"), duckdb.connect(":memory:"))
        database._create("none")
        return database

    def close(self) -> None:
        """Close the file; a transaction that is still open is undone."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def archive_id(self) -> str:
        """Identity of the archive whose tables these are."""
        return self._meta()["archive_id"]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside, or none of them. Cannot be nested."""
        if self._in_transaction:
            raise DatabaseError(f"{self.path}: a transaction is already open; transactions cannot be nested")
        self.connection.execute("BEGIN TRANSACTION")
        self._in_transaction = True
        try:
            yield
            self.connection.execute("COMMIT")
        except duckdb.Error as error:
            self._roll_back()
            raise DatabaseError(f"{self.path}: the change was undone: {error}") from error
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._in_transaction = False

    def replace(self, table: str, where: Mapping[str, Any], columns: Mapping[str, Values | object]) -> None:
        """Delete the rows that match ``where`` and insert new ones, in one transaction.

        Parameters
        ----------
        table : str
            Name of the table.
        where : mapping
            Column to value; rows equal in all of them are deleted (None matches NULL). Empty: all rows are.
        columns : mapping
            Column to values, shape (n,) each; a single text, number, flag or None is shared by all rows (one row
            if there are no others). NaN and None become NULL, as do columns left out, except those in ``where``,
            which get its values. Empty: no rows are inserted.

        Raises
        ------
        DatabaseError
            If the table or a column does not exist, lengths differ, a value does not fit its column, or a new row
            would not itself match ``where`` (the next replacement would leave it behind).
        """
        self._check_names(table, [*where, *columns])
        rows = self._new_rows(table, where, columns)
        if self._in_transaction:
            self._replace(table, where, rows)
        else:
            with self.transaction():
                self._replace(table, where, rows)

    def insert(self, table: str, columns: Mapping[str, Values | object]) -> None:
        """Insert rows beside those that stand; otherwise as :meth:`replace`."""
        self._check_names(table, list(columns))
        rows = self._new_rows(table, {}, columns)
        if rows is not None:
            self._insert(table, rows)

    def update(self, table: str, where: Mapping[str, Any], keys: Sequence[str], columns: Mapping[str, Values]) -> None:
        """Set columns of the rows that match ``where`` and agree in ``keys``, which are among ``columns`` too.

        Raises
        ------
        DatabaseError
            As for :meth:`replace`.
        """
        self._check_names(table, [*where, *columns])
        rows = self._new_rows(table, {}, columns)
        if rows is None or rows.singles:
            raise DatabaseError(f"an update of table {table} needs a value for each row, and at least one column")
        types = self._column_types(table)
        names = [name for name in columns if name not in keys]
        assignments = ", ".join(f"{_quoted(n)} = {_nan_to_null('i.' + _quoted(n), types[n])}" for n in names)
        matches = " AND ".join(f"t.{_quoted(key)} = i.{_quoted(key)}" for key in keys)
        condition = " AND ".join(f"t.{_quoted(name)} IS NOT DISTINCT FROM ?" for name in where) or "true"
        self.connection.register(_INCOMING, rows.arrays)
        try:
            self.connection.execute(
                f"UPDATE {_quoted(table)} AS t SET {assignments} FROM {_INCOMING} AS i WHERE {condition} AND {matches}",
                list(where.values()),
            )
        finally:
            self.connection.unregister(_INCOMING)

    def keep(self, table: str, where: Mapping[str, Any], names: Sequence[str], kept: Sequence[tuple[Any, ...]]) -> None:
        """Of the rows that match ``where``, delete those whose columns ``names`` are none of ``kept``."""
        self._delete(table, where, names, kept, "NOT EXISTS")

    def remove(
        self, table: str, where: Mapping[str, Any], names: Sequence[str], gone: Sequence[tuple[Any, ...]]
    ) -> None:
        """Of the rows that match ``where``, delete those whose columns ``names`` are one of ``gone``; None is NULL."""
        self._delete(table, where, names, gone, "EXISTS")

    def _delete(
        self, table: str, where: Mapping[str, Any], names: Sequence[str], listed: Sequence[tuple[Any, ...]], test: str
    ) -> None:
        self._check_names(table, [*where, *names])
        condition = " AND ".join(f"t.{_quoted(name)} IS NOT DISTINCT FROM ?" for name in where) or "true"
        types = self._column_types(table)
        columns = [column_array([row[at] for row in listed], types[name]) for at, name in enumerate(names)]
        same = " AND ".join(f"i.{_quoted(name)} IS NOT DISTINCT FROM t.{_quoted(name)}" for name in names)
        self.connection.register(_INCOMING, dict(zip(names, columns, strict=True)))
        try:
            self.connection.execute(
                f"DELETE FROM {_quoted(table)} AS t WHERE {condition} AND {test} (FROM {_INCOMING} AS i WHERE {same})",
                list(where.values()),
            )
        finally:
            self.connection.unregister(_INCOMING)

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> Result:
        """All rows of a query.

        Raises
        ------
        DatabaseError
            If DuckDB refuses the query or fails in it.
        """
        try:
            return Result.fetch(self.connection.execute(sql, parameters))
        except duckdb.Error as error:
            raise DatabaseError(f"{self.path}: {error}") from error

    def arrays(self, sql: str, parameters: Sequence[Any] | None = None) -> dict[str, NDArray[Any]]:
        """Columns (n,) of a query of numbers: whole ones as they are, the others float64, NULL as NaN.

        A column of lists, none of them NULL, is an array of arrays.

        Raises
        ------
        DatabaseError
            As for :meth:`rows`.
        """
        try:
            found = self.connection.execute(sql, parameters).fetchnumpy()
        except duckdb.Error as error:
            raise DatabaseError(f"{self.path}: {error}") from error
        return {name: _without_mask(values) for name, values in found.items()}

    def describe(self) -> Result:
        """Return the data dictionary: table, column, type, comment with the unit, in the order of definition."""
        return self.rows(
            'SELECT table_name AS "table", column_name AS "column", data_type AS type, comment FROM duckdb_columns() '
            "WHERE NOT internal AND database_name = current_database() ORDER BY table_oid, column_index"
        )

    def _create(self, archive_id: str) -> None:
        with self.transaction():
            self.connection.execute(schema_sql())
            meta = {"key": ["schema_version", "archive_id"], "value": [str(SCHEMA_VERSION), archive_id]}
            self.replace("schema_meta", {}, meta)

    def _check(self, archive_id: str | None) -> None:
        meta = self._meta()
        version = meta.get("schema_version")
        if version != str(SCHEMA_VERSION):
            raise DatabaseError(
                f"{self.path} has schema version {version}, this sedarchive writes and reads {SCHEMA_VERSION}; "
                "use the sedarchive that wrote it, or delete the file and run `sedarchive compute`, which rebuilds it"
            )
        if archive_id is not None and meta.get("archive_id") != archive_id:
            raise DatabaseError(
                f"{self.path} holds the tables of archive {meta.get('archive_id')}, not of {archive_id}; "
                "name another file with --db, or delete this one and run `sedarchive compute`"
            )

    def _meta(self) -> dict[str, str]:
        known = self.rows("SELECT 1 FROM duckdb_tables() WHERE table_name = 'schema_meta'").rows
        if not known:
            raise DatabaseError(f"{self.path} is a DuckDB file that sedarchive did not make; name another with --db")
        return dict(self.rows("SELECT key, value FROM schema_meta").rows)

    def _column_types(self, table: str) -> dict[str, str]:
        if table not in self._types:
            sql = (
                "SELECT column_name, data_type FROM duckdb_columns() "
                "WHERE table_oid = (SELECT table_oid FROM duckdb_tables() WHERE table_name = ? AND NOT internal)"
            )
            types = dict(self.rows(sql, [table]).rows)
            if not types:
                raise DatabaseError(f"{self.path}: there is no table {table!r}")
            self._types[table] = types
        return self._types[table]

    def _check_names(self, table: str, names: Sequence[str]) -> None:
        types = self._column_types(table)
        unknown = sorted(set(names) - set(types))
        if unknown:
            raise DatabaseError(f"table {table} has no column {', '.join(unknown)}; it has {', '.join(types)}")

    def _new_rows(self, table: str, where: Mapping[str, Any], columns: Mapping[str, Any]) -> "_NewRows | None":
        if not columns:
            return None
        types = self._column_types(table)
        rows = _NewRows({}, {name: value for name, value in where.items() if name not in columns})
        for name, values in columns.items():
            try:
                if _is_single(values):
                    rows.singles[name] = column_array([values], types[name]).tolist()[0]
                else:
                    rows.arrays[name] = column_array(values, types[name])
            except (TypeError, ValueError, OverflowError) as error:
                raise DatabaseError(
                    f"column {table}.{name} ({types[name]}) cannot hold these values: {error}"
                ) from error
        lengths = {name: len(array) for name, array in rows.arrays.items()}
        if len(set(lengths.values())) > 1:
            raise DatabaseError(f"columns for table {table} differ in length: {lengths}")
        _check_matches(table, where, rows)
        return rows

    def _replace(self, table: str, where: Mapping[str, Any], rows: "_NewRows | None") -> None:
        condition = " AND ".join(f"{_quoted(name)} IS NOT DISTINCT FROM ?" for name in where) or "true"
        self.connection.execute(f"DELETE FROM {_quoted(table)} WHERE {condition}", list(where.values()))
        if rows is not None:
            self._insert(table, rows)

    def _insert(self, table: str, rows: "_NewRows") -> None:
        types = self._column_types(table)
        names = ", ".join(_quoted(name) for name in [*rows.arrays, *rows.singles])
        values = [_nan_to_null(_quoted(name), types[name]) for name in rows.arrays]
        values += [f"CAST(? AS {types[name]})" for name in rows.singles]
        insert = f"INSERT INTO {_quoted(table)} ({names}) SELECT {', '.join(values)}"
        parameters = list(rows.singles.values())
        if not rows.arrays:
            self.connection.execute(insert, parameters)
            return
        self.connection.register(_INCOMING, rows.arrays)
        try:
            self.connection.execute(f"{insert} FROM {_INCOMING}", parameters)
        finally:
            self.connection.unregister(_INCOMING)

    def _roll_back(self) -> None:
        try:
            self.connection.execute("ROLLBACK")
        except duckdb.Error:  # DuckDB has undone it already, or the connection is gone: nothing was committed
            return


def _check_matches(table: str, where: Mapping[str, Any], rows: _NewRows) -> None:
    for name, wanted in where.items():
        given = rows.arrays[name].tolist() if name in rows.arrays else [rows.singles[name]]
        if any(value != wanted for value in given):
            raise DatabaseError(f"rows for table {table} must all have {name} = {wanted!r}, as in `where`")


def _is_single(values: Any) -> bool:
    return values is None or isinstance(values, str | bool | int | float | datetime | np.generic)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _nan_to_null(column: str, type_name: str) -> str:
    if type_name == "DOUBLE":
        return f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END"
    if type_name == "DOUBLE[]":
        return (
            f"CASE WHEN {column} IS NULL THEN NULL ELSE [CASE WHEN isnan(x) THEN NULL ELSE x END FOR x IN {column}] END"
        )
    return column


def _without_mask(values: NDArray[Any]) -> NDArray[Any]:
    masked = np.ma.getmaskarray(values).any()
    return np.ma.filled(values.astype(np.float64), np.nan) if masked else np.ma.getdata(values)
