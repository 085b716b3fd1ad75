"""Importance of layers beside their spectra: ``layer_importance``, and its rank correlations in ``fits``."""

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.keyed import WHOLE, KeyedRows
from sedarchive.compute.lifecycle.lifecycle_rows import METRICS, rank_row
from sedarchive.compute.row_columns import Row, columns_of
from sedarchive.digests import canonical_digest
from sedarchive.lifecycle.importance import rank_correlation
from sedarchive.lifecycle.pruning import protected_ends
from sedarchive.tables import Database
from sedarchive.words import few_of

ALGORITHM = "importance-1"
FIT = "importance"
_POINTS = f"""
    WITH last AS (
        SELECT run, max(step) AS step FROM matrix_stats GROUP BY run
    ),
    layers AS (
        SELECT run, layer, {", ".join(f"avg({name}) AS {name}" for name in METRICS)}
        FROM matrix_stats JOIN last USING (run, step)
        WHERE layer IS NOT NULL AND role <> 'other'
        GROUP BY run, layer
    )
    SELECT run, metric, layer, (SELECT max(layer) FROM layers AS l WHERE l.run = i.run) AS deepest,
        importance, {", ".join(METRICS)}
    FROM layer_importance AS i JOIN layers USING (run, layer)
    ORDER BY ALL
"""


def refresh_importance(database: Database, given: Mapping[tuple[str, str], Mapping[int, float]]) -> None:
    """Keep what a file says of layers, and correlate all that is known with the spectra, if any of it is new.

    Parameters
    ----------
    database
        Of the archive.
    given
        (run, metric) -> layer -> importance; what stood of these runs and metrics is replaced.
    """
    for (run, metric), values in given.items():
        columns = {"layer": list(values), "importance": list(values.values())}
        database.replace("layer_importance", {"run": run, "metric": metric}, columns)
    started, points = datetime.now(UTC), database.rows(_POINTS).rows
    keyed = KeyedRows(None, "importance", ALGORITHM, ())
    work = keyed.outstanding(database, {WHOLE: canonical_digest([ALGORITHM, points])[:16]} if points else {})
    if work:
        with database.transaction():
            store_importance(database)
            keyed.renew(database, work, started)


def unmatched_importance(database: Database) -> list[str]:
    """A line for people on each run whose table of importance names what the archive does not have."""
    sql = """
        SELECT run, metric, list(layer ORDER BY layer), count(m.run) = 0
        FROM layer_importance AS i
        LEFT JOIN (SELECT DISTINCT run FROM runs) AS m USING (run)
        WHERE NOT EXISTS (FROM matrices WHERE matrices.run = i.run AND matrices.layer = i.layer)
        GROUP BY run, metric
        ORDER BY run, metric
    """
    found = []
    for run, metric, layers, absent in database.rows(sql).rows:
        what = "such run" if absent else f"layer {few_of([str(layer) for layer in layers])}"
        found.append(f"{metric} of {run}: there is no {what}")
    return found


def store_importance(database: Database) -> None:
    """Replace the correlations of all runs, within the caller's transaction."""
    rows: list[Row] = []
    for (run, metric), group in groupby(database.rows(_POINTS).rows, key=lambda row: row[:2]):
        table = np.array([[np.nan if one is None else one for one in row[2:]] for row in group], dtype=np.float64)
        rows += [{"run": run} | row for row in importance_rows(metric, table)]
    database.replace("fits", {"fit": FIT}, columns_of(rows))


def importance_rows(metric: str, table: NDArray[np.float64]) -> list[Row]:
    """Rows of ``fits`` for one measure of importance.

    Parameters
    ----------
    metric
        Name of the measure.
    table
        (L, 3 + metrics): layer, deepest layer of the model, importance, and the spectral metrics.
    """
    layer, n_layers, importance = table[:, 0], int(table[0, 1]) + 1, table[:, 2]
    ends = protected_ends(n_layers)
    inside = (layer >= ends) & (layer < n_layers - ends)
    rows = []
    for at, name in enumerate(METRICS, start=3):
        for scope, chosen in (("core", inside), ("all", np.ones(len(layer), dtype=bool))):
            spectral, measured = table[chosen & np.isfinite(table[:, at])][:, [at, 2]].T
            rows.append(rank_row(FIT, scope, f"{metric}:{name}", rank_correlation(spectral, measured)))
    if inside.any() and not inside.all():
        share = float(importance[~inside].mean() - importance[inside].mean())
        rows.append(_excess(f"{metric}:excess", share, int(np.count_nonzero(~inside))))
    return rows


def _excess(parameter: str, estimate: float, n: int) -> dict[str, Any]:
    """Mean importance of the layers at the ends less that of the core."""
    return {"fit": FIT, "scope": "boundary", "parameter": parameter, "estimate": estimate, "n": n, "status": "no_null"}
