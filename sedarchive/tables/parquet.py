"""Results as Parquet files, written by DuckDB itself, so that neither Arrow nor pandas is needed."""

from pathlib import Path
from typing import Any

import duckdb
from numpy.typing import NDArray

from sedarchive.errors import DatabaseError
from sedarchive.result import Result
from sedarchive.tables.columns import WRITABLE_TYPES, column_array, object_array
from sedarchive.tables.connecting import no_access


def write_parquet(result: Result, path: str | Path) -> None:
    """Write a result to a Parquet file (zstd), with the types of its columns. NaN becomes NULL.

    Raises
    ------
    DatabaseError
        If the file cannot be written or a type cannot be stored in Parquet.
    """
    names = [f"c{index}" for index in range(len(result.columns))]
    with duckdb.connect(config={"python_enable_replacements": False}) as memory:
        try:
            memory.register("incoming_rows", dict(zip(names, _arrays(result), strict=True)))
            typed = ", ".join(
                f'CAST({name} AS {type_name}) AS "{column.replace(chr(34), chr(34) * 2)}"'
                for name, column, type_name in zip(names, result.columns, result.types, strict=True)
            )
            memory.execute(f"CREATE TABLE rows_out AS SELECT {typed} FROM incoming_rows")
            memory.execute("COPY rows_out TO ? (FORMAT parquet, COMPRESSION zstd)", [str(path)])
        except duckdb.Error as error:
            denied = no_access(str(error))
            why = f" ({denied}); name another place, in a folder that you may write" if denied else f": {error}"
            raise DatabaseError(f"{path} cannot be written{why}") from error


def _arrays(result: Result) -> list[NDArray[Any]]:
    columns = zip(*result.rows, strict=True) if result.rows else ((),) * len(result.columns)
    return [_array(list(values), type_name) for values, type_name in zip(columns, result.types, strict=True)]


def _array(values: list[Any], type_name: str) -> NDArray[Any]:
    if type_name in WRITABLE_TYPES:
        return column_array(values, type_name)
    if type_name.endswith(("]", ")")) and not type_name.startswith("DECIMAL"):
        return object_array(values)
    return column_array([None if value is None else str(value) for value in values], "VARCHAR")  # cast back by DuckDB
