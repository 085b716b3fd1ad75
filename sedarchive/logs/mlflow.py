"""MLflow's folders: one file a metric, a line a value."""

from collections.abc import Iterator
from pathlib import Path

from sedarchive.logs.rows import Row

STORE = "mlruns"
_LINE_LIMIT = 1024


def metric_name(path: Path) -> str | None:
    """Name of the metric that a file ``mlruns/EXPERIMENT/RUN/metrics/NAME`` holds; None if it is no such file."""
    parts = path.parts
    for at in range(len(parts) - 4, 0, -1):
        if parts[at - 1] == STORE and parts[at + 2] == "metrics":
            return "/".join(parts[at + 3 :])
    return None


def metric_rows(path: Path, name: str) -> Iterator[Row | None]:
    """Rows of the lines ``timestamp value step``; None for each that is none."""
    with path.open(encoding="utf-8", errors="replace") as file:
        whole = True
        while line := file.readline(_LINE_LIMIT):
            begun, whole = whole, line.endswith("\n")
            if begun:
                yield _row(line, name) if whole else None


def _row(line: str, name: str) -> Row | None:
    words = line.split()
    if len(words) != 3:
        return None
    try:
        return {name: float(words[1]), "step": int(words[2])}
    except ValueError:
        return None
