"""The tables in DuckDB: schema, reading and writing."""

from sedarchive.tables.database import Database
from sedarchive.tables.parquet import write_parquet

__all__ = ["Database", "write_parquet"]
