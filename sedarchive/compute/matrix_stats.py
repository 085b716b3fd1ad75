"""Brings ``matrix_stats`` and ``matrix_nulls`` up to date, from the stored spectra alone: no weight is read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from sedarchive import __version__
from sedarchive.compute.matrix_rows import null_columns, stats_columns
from sedarchive.compute.turns import Turns
from sedarchive.executor import Executor
from sedarchive.matrix.stack import SpectraStack
from sedarchive.tables import Database

ALGORITHM = "matrix-stats-1"
Shape = tuple[int, int]
_MISSING = """
    SELECT s.matrix, s.step, s.sigma, s.n_resolved, s.status, m.layer, m.role, m.n_rows, m.n_cols
    FROM matrix_spectra AS s
    JOIN matrices AS m ON s.run = m.run AND s.matrix = m.matrix
    ANTI JOIN matrix_stats AS t ON s.run = t.run AND s.matrix = t.matrix AND s.step = t.step
    WHERE s.run = ? AND s.matrix = ?
    ORDER BY s.step
"""
_KEYS = ("matrix", "step", "layer", "role", "n_rows", "n_cols")


def refresh_matrix_stats(run: str, turns: Turns, executor: Executor) -> int:
    """Derive the metrics of all spectra of a run that have none, and the nulls of their shapes; return how many."""
    database = turns.database
    _forget_other_versions(database, run)
    missing = [_missing_of(database, run, matrix) for matrix in _matrices(database, run)]
    missing = [one for one in missing if one.rows]
    if not missing:
        return 0
    shapes = sorted({one.shape for one in missing if one.shape} - _known_shapes(database))
    turns.end()
    stats = [part for parts in executor.map(_columns_of, missing) for part in parts]
    nulls = list(executor.map(_null_of, shapes))
    database = turns.database
    with database.transaction():
        for columns in stats:
            database.insert("matrix_stats", {"run": run, **columns})
        for (n_rows, n_cols), null in zip(shapes, nulls, strict=True):
            database.replace("matrix_nulls", {"n_rows": n_rows, "n_cols": n_cols}, null)
        _record(database, run)
    return sum(len(one.rows) for one in missing)


@dataclass(frozen=True)
class _Missing:
    """Spectra of one matrix that have no metrics yet."""

    rows: list[dict[str, Any]]

    @property
    def shape(self) -> Shape | None:
        """Shape of the matrix, if it has elements."""
        n_rows, n_cols = (self.rows[0][name] for name in ("n_rows", "n_cols")) if self.rows else (None, None)
        return (n_rows, n_cols) if n_rows and n_cols else None


def _matrices(database: Database, run: str) -> list[str]:
    sql = "SELECT DISTINCT matrix FROM matrix_spectra WHERE run = ? ORDER BY matrix"
    return [str(name) for name in database.rows(sql, [run]).column("matrix")]


def _missing_of(database: Database, run: str, matrix: str) -> _Missing:
    rows = database.rows(_MISSING, [run, matrix]).dicts()
    for row in rows:  # a list of floats takes eight times the room
        row["sigma"] = np.array(row["sigma"] or (), dtype=np.float64)
    return _Missing(rows)


def _columns_of(missing: _Missing) -> list[dict[str, Any]]:
    """Columns of the spectra that have values, and of those that have none."""
    known = [row for row in missing.rows if row["status"] == "ok"]
    others = [row for row in missing.rows if row["status"] != "ok"]
    found = []
    if known and missing.shape:
        sigma = np.stack([row["sigma"] for row in known])
        stack = SpectraStack(sigma, np.array([row["n_resolved"] for row in known], dtype=np.int64))
        found.append(_named(known) | stats_columns(stack, *missing.shape))
    if others:
        status = [row["status"] for row in others]
        norm = [0.0 if one == "zero" else None for one in status]
        found.append(_named(others) | {"status": status, "frobenius_norm": norm, "spectral_norm": norm})
    return found


def _named(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in _KEYS}


def _null_of(shape: Shape) -> dict[str, Any]:
    return dict(null_columns(*shape))


def _known_shapes(database: Database) -> set[Shape]:
    return {(rows, cols) for rows, cols in database.rows("SELECT DISTINCT n_rows, n_cols FROM matrix_nulls").rows}


def _forget_other_versions(database: Database, run: str) -> None:
    """Remove the metrics that another version of the definitions made."""
    made = {"run": run, "table_name": "matrix_stats"}
    sql = "SELECT key FROM computations WHERE run = ? AND table_name = 'matrix_stats'"
    if [key for (key,) in database.rows(sql, [run]).rows] != [ALGORITHM]:
        database.replace("matrix_stats", {"run": run}, {})
        database.replace("computations", made, {})


def _record(database: Database, run: str) -> None:
    now = datetime.now(UTC)
    columns = {
        "key": [ALGORITHM],
        "options": json.dumps({}),
        "versions": f"sedarchive {__version__}, numpy {np.__version__}, {ALGORITHM}",
        "started": now,
        "finished": now,
    }
    database.replace("computations", {"run": run, "table_name": "matrix_stats"}, columns)
