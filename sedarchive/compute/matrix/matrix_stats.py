"""Brings ``matrix_stats`` and ``matrix_nulls`` up to date, from the stored spectra alone: no weight is read.

Spectra of one shape are summarised many at a time, whatever matrix and step they are of: every number is that of its
own spectrum, to the last bit. What is held at a time does not grow with the run.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive import __version__
from sedarchive.compute.matrix.matrix_nulls import refresh_matrix_nulls
from sedarchive.compute.matrix.matrix_rows import Columns, Shape, stats_columns
from sedarchive.compute.turns import Turns
from sedarchive.executor import Executor
from sedarchive.matrix.stack import SpectraStack
from sedarchive.tables import Database

ALGORITHM = "matrix-stats-2"
TABLE = "matrix_stats"
_BATCH_VALUES = 2**17
"""Most singular values that one task summarises, a megabyte: what it makes of them takes some twenty times that."""
_ROUND_BATCHES = 32
"""Tasks whose spectra are held at a time."""
_MISSING = """
    SELECT s.matrix, s.step, m.layer, m.role, m.n_rows, m.n_cols, s.n_resolved, s.status
    FROM matrix_spectra AS s
    JOIN matrices AS m ON s.run = m.run AND s.matrix = m.matrix
    ANTI JOIN matrix_stats AS t ON s.run = t.run AND s.matrix = t.matrix AND s.step = t.step
    WHERE s.run = ?
    ORDER BY m.n_rows, m.n_cols, s.matrix, s.step
"""
_SIGMAS = """
    SELECT s.sigma
    FROM (SELECT unnest(?::VARCHAR[]) AS matrix, unnest(?::BIGINT[]) AS step) AS wanted
    JOIN matrix_spectra AS s USING (matrix, step)
    WHERE s.run = ?
    ORDER BY s.matrix, s.step
"""
_KEYS = ("matrix", "step", "layer", "role", "n_rows", "n_cols")
Row = dict[str, Any]


def refresh_matrix_stats(run: str, turns: Turns, executor: Executor, truncated: bool = False) -> int:
    """Derive the metrics of all spectra of a run that have none, and the nulls of their shapes; return how many.

    With ``truncated`` also the truncated power laws, of all spectra.
    """
    _forget_other_versions(turns.database, run, truncated)
    missing = turns.database.rows(_MISSING, [run]).dicts()
    batches = list(_batches([row for row in missing if row["status"] == "ok"]))
    for first in range(0, len(batches), _ROUND_BATCHES):
        held = [_loaded(turns.database, run, batch) for batch in batches[first : first + _ROUND_BATCHES]]
        turns.end()
        _insert(turns, run, list(executor.map(partial(_summarised, truncated), held)))
    _insert(turns, run, _without_values([row for row in missing if row["status"] != "ok"]))
    refresh_matrix_nulls(run, turns, executor, truncated)
    return len(missing)


@dataclass(frozen=True)
class _Batch:
    """Some spectra of matrices of one shape."""

    rows: Sequence[Row]
    sigma: Sequence[NDArray[np.float64]] = ()
    """Singular values of each, once they are loaded."""

    @property
    def shape(self) -> Shape:
        return self.rows[0]["n_rows"], self.rows[0]["n_cols"]


def _batches(rows: Sequence[Row]) -> Iterator[_Batch]:
    """Cut spectra that are sorted by shape into batches."""
    for shape, group in groupby(rows, key=lambda row: (row["n_rows"], row["n_cols"])):
        alike, size = list(group), max(1, _BATCH_VALUES // min(shape))
        yield from (_Batch(alike[first : first + size]) for first in range(0, len(alike), size))


def _loaded(database: Database, run: str, batch: _Batch) -> _Batch:
    matrices, steps = ([row[name] for row in batch.rows] for name in ("matrix", "step"))
    return _Batch(batch.rows, list(database.arrays(_SIGMAS, [matrices, steps, run])["sigma"]))


def _summarised(truncated: bool, batch: _Batch) -> dict[str, Any]:
    n_resolved = np.array([row["n_resolved"] for row in batch.rows], dtype=np.int64)
    stack = SpectraStack(np.stack(batch.sigma), n_resolved)
    columns: Columns = stats_columns(stack, *batch.shape, truncated)
    return _named(batch.rows) | columns


def _without_values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Columns of spectra that have no values: the status says why."""
    if not rows:
        return []
    status = [row["status"] for row in rows]
    norm = [0.0 if one == "zero" else None for one in status]
    return [_named(rows) | {"status": status, "frobenius_norm": norm, "spectral_norm": norm}]


def _named(rows: Sequence[Row]) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in _KEYS}


def _insert(turns: Turns, run: str, parts: Sequence[dict[str, Any]]) -> None:
    if not parts:
        return
    with turns.database.transaction():
        for columns in parts:
            turns.database.insert(TABLE, {"run": run, **columns})


def _forget_other_versions(database: Database, run: str, truncated: bool) -> None:
    """Remove the metrics that other definitions or options made, and say by which those to come are made."""
    key = f"{ALGORITHM}+truncated" if truncated else ALGORITHM
    sql = "SELECT key FROM computations WHERE run = ? AND table_name = ?"
    if database.rows(sql, [run, TABLE]).rows == [(key,)]:
        return
    now = datetime.now(UTC)
    columns = {
        "key": [key],
        "options": json.dumps({"truncated": True} if truncated else {}),
        "versions": f"sedarchive {__version__}, numpy {np.__version__}, {ALGORITHM}",
        "started": now,
        "finished": now,
    }
    with database.transaction():
        database.replace(TABLE, {"run": run}, {})
        database.replace("computations", {"run": run, "table_name": TABLE}, columns)
