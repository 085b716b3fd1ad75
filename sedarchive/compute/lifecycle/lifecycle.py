"""Brings waves and gradients over depth of a run, and their trends, up to date: from ``matrix_stats`` and the logs."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.coupling_inputs import LOG_HASHES
from sedarchive.compute.keyed import WHOLE, KeyedRows
from sedarchive.compute.lifecycle.agreement_rows import FIT as AGREEMENT
from sedarchive.compute.lifecycle.agreement_rows import agreement_rows
from sedarchive.compute.lifecycle.dissociation_rows import dissociation_rows
from sedarchive.compute.lifecycle.gradient_rows import depth_series, gradient_columns, reversal_rows
from sedarchive.compute.lifecycle.lifecycle_rows import (
    ALL_ROLES,
    FITS,
    FOLLOWED,
    LayerMetrics,
    asymmetry_rows,
    wave_rows,
)
from sedarchive.compute.lifecycle.loss_rows import loss_rows
from sedarchive.compute.lifecycle.timescale_rows import FIT as TIMESCALES
from sedarchive.compute.lifecycle.timescale_rows import timescale_rows
from sedarchive.compute.lifecycle.trend_rows import trend_rows
from sedarchive.compute.rolling.window_rows import Columns, concatenated
from sedarchive.compute.row_columns import Row, columns_of
from sedarchive.digests import canonical_digest
from sedarchive.tables import Database

ALGORITHM = "lifecycle-3"
_MADE_FROM = """
    SELECT count(*), bit_xor(hash(s.matrix, s.step, s.digest, t.layer, t.role))
    FROM matrix_spectra AS s JOIN matrix_stats AS t USING (run, matrix, step)
    WHERE run = ? AND t.layer IS NOT NULL
"""
_BY_LAYER = f"""
    SELECT coalesce(role, '{ALL_ROLES}') AS role, layer, step, {", ".join(f"avg({name})" for name in FOLLOWED)},
        sqrt(sum((null_sd / null_mean) ** 2)) / count(*)
    FROM (
        SELECT s.role, s.layer, s.step, {", ".join(f"s.{name}" for name in FOLLOWED)}, n.sd AS null_sd,
            n.mean AS null_mean
        FROM matrix_stats AS s
        LEFT JOIN matrix_nulls AS n
            ON s.n_rows = n.n_rows AND s.n_cols = n.n_cols AND n.metric = 'stable_rank'
        WHERE s.run = ? AND s.layer IS NOT NULL AND s.role <> 'other'
    )
    GROUP BY GROUPING SETS ((role, layer, step), (layer, step))
    ORDER BY ALL
"""


def refresh_lifecycle(run: str, database: Database) -> bool:
    """Derive the waves and gradients of a run if its spectra or losses changed; return whether they did."""
    started = datetime.now(UTC)
    keyed = KeyedRows(run, "lifecycle", ALGORITHM, ())
    logged = [list(map(str, row)) for row in database.rows(LOG_HASHES, [run]).rows]
    key = canonical_digest([ALGORITHM, *database.rows(_MADE_FROM, [run]).rows[0], logged])[:16]
    work = keyed.outstanding(database, {WHOLE: key})
    if not work:
        return False
    with database.transaction():
        store_lifecycle(database, run)
        keyed.renew(database, work, started)
    return True


def store_lifecycle(database: Database, run: str) -> None:
    """Replace the rows of a run, within the caller's transaction."""
    metrics = _read(database, run)
    found = _rows_of(metrics)
    losses = [row for one in metrics for row in loss_rows(database, run, one)]
    database.replace("layer_waves", {"run": run}, columns_of(found.waves))
    database.replace("depth_gradients", {"run": run}, concatenated(found.gradients))
    database.replace("depth_trends", {"run": run}, columns_of(found.trends))
    database.replace("dissociations", {"run": run}, columns_of(found.dissociations))
    database.replace("loss_correlations", {"run": run}, columns_of(losses))
    for fit in (*FITS, TIMESCALES, AGREEMENT):
        mine = [row for row in found.fits if row["fit"] == fit]
        database.replace("fits", {"run": run, "fit": fit}, columns_of(mine))


@dataclass
class _Found:
    """What is written, by table."""

    waves: list[Row] = field(default_factory=list)
    gradients: list[Columns] = field(default_factory=list)
    trends: list[Row] = field(default_factory=list)
    dissociations: list[Row] = field(default_factory=list)
    fits: list[Row] = field(default_factory=list)

    def add(self, one: LayerMetrics) -> None:
        """Add the rows of one scope."""
        waves, wave_fits = wave_rows(one)
        series = depth_series(one)
        trends = trend_rows(series)
        self.waves += waves
        self.gradients += map(gradient_columns, series)
        self.trends += trends
        self.dissociations += dissociation_rows(one, series, trends)
        self.fits += wave_fits + reversal_rows(series) + agreement_rows(one)
        if one.scope == ALL_ROLES:
            self.fits += timescale_rows(one, waves)


def _rows_of(metrics: list[LayerMetrics]) -> _Found:
    found = _Found()
    for one in metrics:
        found.add(one)
    found.fits += asymmetry_rows({one.scope.removeprefix("role:"): one for one in metrics})
    return found


def _read(database: Database, run: str) -> list[LayerMetrics]:
    """Means over the matrices of each layer, by role and over all."""
    by_role: dict[str, list[tuple[float, ...]]] = {}
    for role, *numbers in database.rows(_BY_LAYER, [run]).rows:
        by_role.setdefault(role, []).append(tuple(np.nan if one is None else one for one in numbers))
    return [_series(role, np.array(rows, dtype=np.float64)) for role, rows in sorted(by_role.items())]


def _series(role: str, table: NDArray[np.float64]) -> LayerMetrics:
    """Rows of (layer, step, metrics ..., spread) as arrays by layer and step."""
    layers, at_layer = np.unique(table[:, 0].astype(np.int64), return_inverse=True)
    steps, at_step = np.unique(table[:, 1].astype(np.int64), return_inverse=True)
    values = {}
    for column, metric in enumerate(FOLLOWED, start=2):
        values[metric] = np.full((len(layers), len(steps)), np.nan)
        values[metric][at_layer, at_step] = table[:, column]
    spread = np.zeros(len(layers))
    spread[at_layer] = np.nan_to_num(table[:, -1])
    return LayerMetrics(role if role == ALL_ROLES else f"role:{role}", steps, layers, values, spread)
