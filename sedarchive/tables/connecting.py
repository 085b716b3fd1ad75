"""Opens a DuckDB file, and says in plain words why it cannot be opened."""

import re
import time
from pathlib import Path
from typing import Any

import duckdb

from sedarchive.errors import DatabaseError

_RETRY_SECONDS = 0.1
_NO_ACCESS = ("Permission denied", "Read-only file system", "No such file or directory", "Is a directory")


def connected(path: Path, patience: float, **options: Any) -> duckdb.DuckDBPyConnection:
    """Connect to a file, waiting as long as ``patience`` seconds for another process that has it open.

    Raises
    ------
    DatabaseError
        If it cannot be opened.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return duckdb.connect(str(path), **options)
        except duckdb.Error as error:
            if "Could not set lock" not in str(error) or time.monotonic() >= deadline:
                raise DatabaseError(_why_not_opened(path, str(error))) from error
        time.sleep(_RETRY_SECONDS)


def _why_not_opened(path: Path, message: str) -> str:
    if "Could not set lock" in message:
        owner = re.search(r"PID (\d+)", message)
        who = f"process {owner[1]}" if owner else "another process"
        return f"{path} is in use by {who}; wait until it has ended, or end it, then try again"
    if "different configuration" in message:
        return f"{path} is already open in this process, for writing or with other settings; close it first"
    if "version number" in message:
        return f"{path} was written by a newer DuckDB; upgrade with `pip install -U duckdb`, or name another with --db"
    if "not a valid DuckDB database" in message:
        return f"{path} is not a DuckDB database; name another file with --db"
    denied = no_access(message)
    if denied:
        return f"{path} cannot be opened or made ({denied}); name a file in a folder that you may write with --db"
    return f"{path} cannot be opened: {message.splitlines()[0]}"


def no_access(message: str) -> str | None:
    """Why a file could not be opened or made, in the words of the system, if a message of DuckDB holds them."""
    return next((cause for cause in _NO_ACCESS if cause in message), None)
