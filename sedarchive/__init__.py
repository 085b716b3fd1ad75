"""sedarchive: the spectral history of a training run, from its checkpoints.

>>> import sedarchive
>>> archive = sedarchive.open("archive.zarr")          # doctest: +SKIP
>>> run = archive.run("my-run")                        # doctest: +SKIP
>>> run.read("layers.0.mlp.up_proj.weight", (0, 4), [0, 1]).shape   # doctest: +SKIP
(2, 4, 64)
>>> with sedarchive.database("archive.duckdb") as tables:           # doctest: +SKIP
...     tables.rows("SELECT step, edge_ratio FROM windows WHERE window_size = 10").dicts()
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported by every command before it can see to Ctrl-C, so next to nothing is imported here
    from pathlib import Path

    from sedarchive.archive import Archive
    from sedarchive.tables import Database

__version__ = "0.1.0"
__all__ = ["__version__", "database", "open"]


def open(path: "str | Path") -> "Archive":
    """Open an archive for reading: its runs, their checkpoints and tensors; nothing is read until asked for.

    Raises
    ------
    sedarchive.errors.ArchiveError
        If there is no archive, or one that cannot be used.
    """
    from pathlib import Path

    from sedarchive.archive import Archive  # zarr takes a second to import

    return Archive(Path(path))


def database(path: "str | Path") -> "Database":
    """Open the tables of an archive for reading; a context manager.

    ``database(path).connection`` is a read-only DuckDB connection, whose results go to Arrow, pandas or polars.

    Raises
    ------
    sedarchive.errors.DatabaseError
        If there is no database, or one that cannot be used.
    """
    from sedarchive.tables import Database

    return Database.read(path)
