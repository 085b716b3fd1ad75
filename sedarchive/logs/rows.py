"""Rows of log files: JSON lines, CSV, and the trainer_state.json of transformers."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from sedarchive.sizes import MIB

Row = dict[str, Any]
_LINE_LIMIT = MIB
_DOCUMENT_LIMIT = 1024 * MIB


def read_rows(path: Path) -> Iterator[Row | None]:
    """Rows of a log in file order; None for each line that is none.

    Raises
    ------
    OSError, ValueError, RecursionError
        If the file as a whole cannot be read.
    """
    if path.name == "trainer_state.json":
        return _trainer_rows(path)
    return _csv_rows(path) if path.suffix.lower() == ".csv" else _jsonl_rows(path)


def _jsonl_rows(path: Path) -> Iterator[Row | None]:
    with path.open("rb") as file:
        while line := file.readline(_LINE_LIMIT):
            if len(line) == _LINE_LIMIT and not line.endswith(b"\n"):
                _skip_line(file)
                yield None
            elif line.strip():
                yield _json_row(line)


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(_LINE_LIMIT)) and not rest.endswith(b"\n"):
        pass


def _json_row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _csv_rows(path: Path) -> Iterator[Row | None]:
    """Cells as numbers where they are; blank ones, which Lightning writes for what was not logged, are left out."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        lines = _cells(file)
        names = next(lines, None) or []
        for cells in lines:
            if cells is None or len(cells) > len(names):
                yield None
            elif cells:
                yield {name: _number(cell) for name, cell in zip(names, cells, strict=False) if cell.strip()}


def _cells(file: TextIO) -> Iterator[list[str] | None]:
    """Cells of each row; None where the row breaks the format."""
    reader = csv.reader(_short_lines(file))
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield None


def _short_lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LINE_LIMIT):
        if len(line) == _LINE_LIMIT:
            raise ValueError("a line is longer than 1 MiB")
        yield line


def _number(cell: str) -> int | float | str:
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        return float(cell)
    except ValueError:
        return cell


def _trainer_rows(path: Path) -> Iterator[Row | None]:
    if path.stat().st_size > _DOCUMENT_LIMIT:
        raise ValueError("larger than 1 GiB")
    state = json.loads(path.read_bytes())
    rows = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(rows, list):
        raise ValueError("it has no list log_history")
    for row in rows:
        yield _without_average(row) if isinstance(row, dict) else None


def _without_average(row: Row) -> Row:
    """Rename the last row's ``train_loss``: it is the mean over the run, not the loss at that step."""
    return {"train_loss_mean" if name == "train_loss" else name: value for name, value in row.items()}
