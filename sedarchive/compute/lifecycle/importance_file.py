"""A table of the importance of layers, as a user measured it: CSV or Parquet, a row for each layer."""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from sedarchive.errors import HistoryError
from sedarchive.untrusted import writable

COLUMNS = ("run", "layer", "importance", "metric")
DEFAULT_METRIC = "importance"
_LONGEST = 2**26
_MOST_ROWS = 1_000_000
_MOST_LAYERS = 1_000_000
_SHOWN = 5


@dataclass(frozen=True)
class Importance:
    """What a file says."""

    values: dict[tuple[str, str], dict[int, float]]
    """(run, metric) -> layer -> importance."""
    ignored: tuple[str, ...] = ()
    """A line for people on each row that is left out, and why; the first few of them."""


def read_importance(path: Path) -> Importance:
    """Read columns run, layer, importance and, if there is one, metric.

    Raises
    ------
    HistoryError
        If the file cannot be read, is too large, or lacks a column.
    """
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError(f"it is larger than {_LONGEST >> 20} MiB")
        names, rows = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    except (OSError, ValueError, csv.Error, duckdb.Error) as error:
        raise HistoryError(f"{path}: cannot be read as a table of importance ({error})") from error
    missing = [name for name in COLUMNS[:3] if name not in names]
    if missing:
        raise HistoryError(f"{path}: needs the columns run, layer and importance; it lacks {', '.join(missing)}")
    return _checked(path, (dict(zip(names, row, strict=False)) for row in rows))


def _csv(path: Path) -> tuple[list[str], list[list[Any]]]:
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True))
    return (rows[0], list(rows[1:])) if rows else ([], [])


def _parquet(path: Path) -> tuple[list[str], list[Any]]:
    """Rows of a Parquet file, read where no other file and no extension of others can be reached."""
    safe: dict[str, Any] = {"autoload_known_extensions": False, "memory_limit": "512MB", "threads": 1}
    with duckdb.connect(config=safe) as memory:
        memory.execute("SET autoinstall_known_extensions = false")
        found = memory.execute(f"SELECT * FROM read_parquet(?) LIMIT {_MOST_ROWS}", [_literal(path)])
        return [str(column[0]) for column in found.description or ()], found.fetchall()


def _literal(path: Path) -> str:
    """Path that DuckDB does not read as a pattern of many."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path.absolute()))


def _checked(path: Path, rows: Iterable[dict[str, Any]]) -> Importance:
    values: dict[tuple[str, str], dict[int, float]] = {}
    ignored = []
    for number, row in enumerate(rows, start=1):
        try:
            run, metric = writable(str(row["run"] or "")), writable(str(row.get("metric") or DEFAULT_METRIC))
            layer, importance = int(row["layer"]), float(row["importance"])
            held = values.setdefault((run, metric), {})
            if not run or not 0 <= layer < _MOST_LAYERS or not math.isfinite(importance) or layer in held:
                raise ValueError("no run, no layer, no finite number, or a layer twice")
            held[layer] = importance
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            ignored.append(f"{path}: row {number} is ignored: {error}")
    more = [f"{path}: {len(ignored) - _SHOWN} more rows are ignored"] if len(ignored) > _SHOWN else []
    return Importance(values, (*ignored[:_SHOWN], *more))
