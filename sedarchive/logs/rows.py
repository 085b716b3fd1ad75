"""Rows of plain log files: JSON lines, JSON documents, CSV, and the trainer_state.json of transformers."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from sedarchive.sizes import MIB
from sedarchive.untrusted import load_json

Row = dict[str, Any]
"""Numbers of one step by their names in the file, and the step itself."""
STEP_NAMES = (
    *("step", "trainer/global_step", "train/global_step", "global_step", "iter", "iter_num", "iteration"),
    *("_step", "Step"),
)
"""Names of the step, the surest first: wandb's own ``_step`` counts calls where a trainer logs its steps too."""
_SPLITS = ("train", "val", "valid", "validation", "eval", "test")
_LINE_LIMIT = MIB
_DOCUMENT_LIMIT = 128 * MIB  # ten times as much once it is parsed


def jsonl_rows(path: Path) -> Iterator[Row | None]:
    """Rows of a file with a JSON object a line; None for each line that is none."""
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


def csv_rows(path: Path, columns: Callable[[list[str]], list[str]]) -> Iterator[Row | None]:
    """Rows of a CSV file; None for each that breaks the format.

    Cells are numbers where they can be; blank ones, which Lightning writes for what was not logged, are left out.

    Parameters
    ----------
    path
        The file.
    columns
        Names to give the columns that the header names; "" leaves one out.

    Raises
    ------
    OSError, ValueError
        If the file as a whole cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        lines = _cells(file)
        header = next(lines, None)
        names = columns(header or [])
        for cells in lines:
            if cells is None or len(cells) > len(names):
                yield None
            elif cells:
                yield {name: _number(cell) for name, cell in zip(names, cells, strict=False) if name and cell.strip()}


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


def trainer_rows(path: Path) -> Iterator[Row | None]:
    """Rows of a trainer_state.json.

    Raises
    ------
    OSError, ValueError, RecursionError
        If it is none.
    """
    state = _document(path)
    rows = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(rows, list):
        raise ValueError("it has no list log_history")
    for row in rows:
        yield _without_average(row) if isinstance(row, dict) else None


def json_rows(path: Path) -> Iterator[Row | None]:
    """Rows of a JSON document: a list of them, lists of them by name, columns by name, rows by step, or a single one.

    A file of several documents is read as JSON lines, whatever its name.

    Raises
    ------
    OSError, ValueError, RecursionError
        If it is no JSON.
    """
    try:
        content = _document(path)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise
        yield from jsonl_rows(path)
        return
    if isinstance(content, dict):
        yield from _rows_of_object(content)
    elif isinstance(content, list):
        yield from (row if isinstance(row, dict) else None for row in content)


def _document(path: Path) -> Any:
    if path.stat().st_size > _DOCUMENT_LIMIT:
        raise ValueError("larger than 128 MiB")
    return load_json(path.read_bytes())


def _rows_of_object(content: Row) -> Iterator[Row | None]:
    step = next((name for name in STEP_NAMES if name in content), None)
    tables = {key: part for key, part in content.items() if isinstance(part, list) and dict in map(type, part)}
    by_step = {key: part for key, part in content.items() if isinstance(part, dict) and key.isdecimal()}
    for key, rows in tables.items():
        split = {"split": key} if key in _SPLITS else {}
        yield from (split | row if isinstance(row, dict) else None for row in rows)
    if tables:
        return
    if step is not None:
        yield from _rows_of_columns(content, step) if isinstance(content[step], list) else [content]
    for key, row in by_step.items():
        yield row | {"step": int(key)} if len(key) < 20 else None


def _rows_of_columns(content: Row, step: str) -> Iterator[Row | None]:
    """Rows of columns as long as that of the steps; others say nothing of steps."""
    columns = {name: part for name, part in content.items() if isinstance(part, list)}
    columns = {name: part for name, part in columns.items() if len(part) == len(columns[step])}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _without_average(row: Row) -> Row:
    """Rename the last row's ``train_loss``: it is the mean over the run, not the loss at that step."""
    return {"train_loss_mean" if name == "train_loss" else name: value for name, value in row.items()}
