"""Laws over runs of different depth or size, from ``depth_gradients`` and ``fits``, into ``fits``."""

import math
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.keyed import WHOLE, KeyedRows
from sedarchive.compute.row_columns import Row, columns_of
from sedarchive.digests import canonical_digest
from sedarchive.lifecycle.scaling import scaling_law, spread_null
from sedarchive.tables import Database

ALGORITHM = "scaling-2"
FIT = "scaling"
_POINTS = """
    WITH last AS (
        SELECT run, scope, metric, max_by(spread, step) AS spread, max_by(peak, step) AS peak
        FROM depth_gradients
        WHERE scope = 'trunk' AND metric = 'alpha'
        GROUP BY run, scope, metric
    ),
    measured AS (
        SELECT run, 'alpha_spread' AS quantity, spread AS value FROM last
        UNION ALL
        SELECT run, 'alpha_peak', peak FROM last
        UNION ALL
        SELECT run, 'speed', abs(estimate) FROM fits
        WHERE fit = 'compression_wave' AND parameter = 'velocity' AND scope = 'trunk'
    )
    SELECT coalesce(runs.family, ''), quantity, runs.n_layers, runs.n_parameters, value, run
    FROM measured JOIN runs USING (run)
    WHERE value > 0 AND runs.n_layers > 0 AND runs.n_parameters > 0
    ORDER BY ALL
"""


def refresh_scaling(database: Database) -> None:
    """Fit each quantity over the runs of each family, against depth and against parameters, if that is new."""
    started = datetime.now(UTC)
    points = database.rows(_POINTS).rows
    keyed = KeyedRows(None, "scaling", ALGORITHM, ())
    work = keyed.outstanding(database, {WHOLE: canonical_digest([ALGORITHM, points])[:16]} if points else {})
    if work:
        with database.transaction():
            store_scaling(database)
            keyed.renew(database, work, started)


def store_scaling(database: Database) -> None:
    """Replace the laws, within the caller's transaction."""
    rows: list[Row] = []
    for (family, quantity), group in groupby(database.rows(_POINTS).rows, key=lambda row: row[:2]):
        layers, parameters, values = np.array([row[2:5] for row in group], dtype=np.float64).T
        for name, size in (("n_layers", layers), ("n_parameters", parameters)):
            law, gain = law_rows(family, f"{quantity}_by_{name}", size, values)
            rows += [law | (_null_of_spread(layers, size, law) if quantity == "alpha_spread" else {}), gain]
    database.replace("fits", {"run": None, "fit": FIT}, columns_of(rows))


def law_rows(family: str, name: str, size: NDArray[np.float64], value: NDArray[np.float64]) -> list[Row]:
    """Rows of ``fits`` for one law: its exponent, and by how much AICc prefers it to the others."""
    law = scaling_law(size, value)
    line = law.line
    shared: Row = {"fit": FIT, "scope": family or None, "n": line.n, "status": line.status}
    exponent: dict[str, Any] = {
        "parameter": name,
        "estimate": line.slope,
        "low": line.slope_low,
        "high": line.slope_high,
        "r2": line.r2,
        "r2_out_of_sample": line.r2_out_of_sample,
    }
    others = [law.aicc[other] for other in ("logarithm", "constant")]
    gain = min(others) - law.aicc["power"] if law.best != "none" else math.nan
    return [shared | exponent, shared | {"parameter": f"{name}_aicc_gain", "estimate": gain}]


def _null_of_spread(layers: NDArray[np.float64], size: NDArray[np.float64], law: Row) -> Row:
    """What unrelated layers would give in place of an exponent; nothing where there is none."""
    if math.isnan(law["estimate"]):
        return {}
    null = spread_null(layers, size, law["estimate"])
    return {"null_low": null.low, "null_high": null.high, "p": null.p}
