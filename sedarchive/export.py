"""Export: every table and every recipe as a file for papers and other tools."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sedarchive.recipes import find_recipes, run_recipe
from sedarchive.render import write_result
from sedarchive.result import Result
from sedarchive.tables import Database, write_parquet

ExportFormat = Literal["csv", "parquet"]
_LONG_FORM = {"matrix_spectra": ("sigma", "matrix_sigmas")}
"""Tables with a column of lists, that column, and the view that gives it a row an entry, for CSV."""


@dataclass(frozen=True)
class Exported:
    """One file written."""

    path: Path
    n_rows: int


def export(database: Database, folder: Path, format: ExportFormat) -> Iterator[Exported]:
    """Write each table, and each recipe with its defaults, to a file in ``folder``; empty ones get their header."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in dict.fromkeys(database.describe().column("table")):
        if table != "schema_meta":
            columns = "*" if format == "parquet" or table not in _LONG_FORM else f"* EXCLUDE ({_LONG_FORM[table][0]})"
            yield _write(database.rows(f'SELECT {columns} FROM "{table}" ORDER BY ALL'), folder / table, format)
    for name, recipe in sorted(find_recipes().items()):
        yield _write(run_recipe(database.connection, recipe, {}), folder / "recipes" / name, format)


def not_exported(format: ExportFormat) -> list[str]:
    """Sentences on the columns that a format leaves out, and where their values are."""
    if format == "parquet":
        return []
    return [
        f"{table}.csv leaves out the column {column}, of lists, which CSV does not have: {view}.csv holds its entries, "
        "a row each; --format parquet keeps it"
        for table, (column, view) in _LONG_FORM.items()
    ]


def _write(result: Result, stem: Path, format: ExportFormat) -> Exported:
    path = stem.with_name(f"{stem.name}.{format}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "parquet":
        write_parquet(result, path)
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            write_result(result, "csv", stream)
    return Exported(path, len(result.rows))
