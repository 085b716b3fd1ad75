"""Results as text: tables for people, CSV, JSON and Markdown.

CSV and JSON hold every digit (``repr`` of the float, which reads back to the
same number); table and Markdown round to six.
"""

import csv
import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Literal, TextIO, get_args

from sedarchive.errors import RecipeError
from sedarchive.result import Result

Format = Literal["table", "csv", "json", "jsonl", "markdown"]
_NUMBERS = ("DOUBLE", "FLOAT", "BIGINT", "INTEGER", "HUGEINT", "UBIGINT", "UINTEGER", "SMALLINT", "TINYINT", "DECIMAL")
_SHOWN_OF_LIST = 3
_PADDING = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)
"""Blanks at the end of a line, which a narrow terminal would wrap into empty lines, with the end of a style."""


def write_result(result: Result, format: Format, stream: TextIO) -> None:
    """Write a result as text, its header always.

    Parameters
    ----------
    result : Result
        The rows.
    format : {"table", "csv", "json", "jsonl", "markdown"}
        ``table``: aligned, numbers to six digits, NULL as ``-``. ``csv``: NULL as nothing. ``json``: a list of
        objects, ``jsonl``: an object a line; NULL, NaN and infinities as null. ``markdown``: as ``table``.
    stream : text file
        Where to; csv wants it opened with ``newline=""``.

    Raises
    ------
    RecipeError
        If there is no such format.
    """
    writers: dict[str, Callable[[Result, TextIO], None]] = {
        "table": _write_table,
        "csv": _write_csv,
        "json": _write_json,
        "jsonl": _write_jsonl,
        "markdown": _write_markdown,
    }
    if format not in writers:
        raise RecipeError(f"there is no format {format!r}; use one of {', '.join(get_args(Format))}")
    writers[format](result, stream)


def _write_table(result: Result, stream: TextIO) -> None:
    from rich.console import Console  # slow to import, and only wanted here
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, numeric in zip(result.columns, _numeric(result), strict=True):
        table.add_column(Text(_printable(name)), justify="right" if numeric else "left", no_wrap=True)
    for row in result.rows:
        table.add_row(*(Text(_for_people(value)) for value in row))
    console = Console(file=stream, highlight=False)
    # nothing is ever cut, least of all a number: a terminal that is too narrow wraps the lines
    unbounded = console.options.update(max_width=2**20)
    console.width = max(1, Measurement.get(console, unbounded, table).maximum)
    with console.capture() as capture:
        console.print(table)
    stream.write(_PADDING.sub(r"\1", capture.get()))


def _write_csv(result: Result, stream: TextIO) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows([_for_csv(value) for value in row] for row in result.rows)


def _write_json(result: Result, stream: TextIO) -> None:
    lines = ",\n".join("  " + _json_object(result, row) for row in result.rows)
    stream.write(f"[\n{lines}\n]\n" if lines else "[]\n")


def _write_jsonl(result: Result, stream: TextIO) -> None:
    stream.writelines(_json_object(result, row) + "\n" for row in result.rows)


def _write_markdown(result: Result, stream: TextIO) -> None:
    rows = [result.columns, *([_for_people(value) for value in row] for row in result.rows)]
    lines = ["| " + " | ".join(_printable(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "|".join(" ---: " if numeric else " --- " for numeric in _numeric(result)) + "|")
    stream.writelines(line + "\n" for line in lines)


def _json_object(result: Result, row: tuple[Any, ...]) -> str:
    values = {name: _for_json(value) for name, value in zip(result.columns, row, strict=True)}
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _numeric(result: Result) -> list[bool]:
    return [name.startswith(_NUMBERS) and not name.endswith("]") for name in result.types]


def _for_people(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal):
        return f"{float(value):.6g}"
    if isinstance(value, list):
        more = f", ... ({len(value)})" if len(value) > _SHOWN_OF_LIST else ""
        return f"[{', '.join(_for_people(each) for each in value[:_SHOWN_OF_LIST])}{more}]"
    return _printable(str(value))


def _for_csv(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict):
        return json.dumps(_for_json(value), ensure_ascii=False)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value  # floats as their repr, None as nothing


def _for_json(value: Any) -> Any:
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_for_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _for_json(each) for key, each in value.items()}
    if value is None or isinstance(value, str | bool | int):
        return value
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value)


def _printable(text: str) -> str:
    """Names come from files of others: no escape sequence of theirs may reach a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
