"""Brings ``matrix_nulls`` up to date: what Gaussian matrices show in each metric, for every shape of a run."""

from functools import partial

from sedarchive.compute.matrix.matrix_rows import (
    DRAWN_NUMBERS,
    FEWEST_DRAWS,
    MOST_DRAWS,
    WITH_NULL,
    Columns,
    Shape,
    null_columns,
)
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.executor import Executor

ALGORITHM = "matrix-nulls-1"
"""Raised whenever a metric or the way to draw changes."""
TABLE = "matrix_nulls"
_MISSING = """
    SELECT DISTINCT s.n_rows, s.n_cols
    FROM matrix_stats AS s
    ANTI JOIN matrix_nulls AS n ON s.n_rows = n.n_rows AND s.n_cols = n.n_cols AND n.digest = ?
    WHERE s.run = ? AND s.n_resolved IS NOT NULL
    ORDER BY ALL
"""


def refresh_matrix_nulls(run: str, turns: Turns, executor: Executor, truncated: bool = False) -> int:
    """Draw the nulls of the shapes of a run that have none, or one that was made otherwise; return how many."""
    digest = _digest(truncated)
    turns.database.keep(TABLE, {}, ("digest",), [(digest,)])
    shapes = [(rows, cols) for rows, cols in turns.database.rows(_MISSING, [digest, run]).rows]
    if not shapes:
        return 0
    turns.end()
    nulls = list(executor.map(partial(_null_of, truncated), shapes))
    with turns.database.transaction():
        for (n_rows, n_cols), null in zip(shapes, nulls, strict=True):
            where = {"n_rows": n_rows, "n_cols": n_cols}
            turns.database.replace(TABLE, where, {**null, "digest": digest})
    return len(shapes)


def _digest(truncated: bool) -> str:
    """Hash of all that a null depends on but its shape."""
    return canonical_digest([ALGORITHM, list(WITH_NULL), truncated, DRAWN_NUMBERS, FEWEST_DRAWS, MOST_DRAWS])[:16]


def _null_of(truncated: bool, shape: Shape) -> Columns:
    return null_columns(*shape, truncated)
