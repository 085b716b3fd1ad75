"""Lead-time laws over the runs of an archive, from ``events``, into ``fits``."""

import math
from datetime import UTC, datetime
from itertools import groupby

import numpy as np

from sedarchive.compute.keyed import WHOLE, KeyedRows
from sedarchive.compute.row_columns import Row, columns_of
from sedarchive.digests import canonical_digest
from sedarchive.inference.leads import DRAWS, LeadLaw, Line, lead_law
from sedarchive.tables import Database

ALGORITHM = "lead-laws-1"
FIT = "lead_time"
_POINTS = """
    SELECT collapse.scope, collapse.window_size, grok.step, collapse.step
    FROM events AS collapse
    JOIN events AS grok ON collapse.run = grok.run
    WHERE collapse.event = 'collapse' AND collapse.method = 'tau=1.20' AND collapse.causal
      AND grok.event = 'grok' AND grok.method = '3 x >= 0.98'
      AND collapse.step > 0 AND grok.step > 0
      AND EXISTS (
          FROM phases
          WHERE phases.run = collapse.run AND phases.scope = collapse.scope
            AND phases.window_size = collapse.window_size AND phases.k = collapse.k AND phases.is_modal
      )
    ORDER BY collapse.scope, collapse.window_size, collapse.run
"""


def refresh_lead_laws(database: Database) -> None:
    """Fit the lead of the collapse before grokking over all runs, for each scope and window size, if that is new."""
    started = datetime.now(UTC)
    points = database.rows(_POINTS).rows
    keyed = KeyedRows(None, "fits", ALGORITHM, ())
    work = keyed.outstanding(database, {WHOLE: canonical_digest([ALGORITHM, DRAWS, points])[:16]} if points else {})
    if not work:
        return
    rows: list[Row] = []
    for (scope, size), group in groupby(points, key=lambda row: row[:2]):
        grok, onset = np.array([row[2:] for row in group], dtype=np.float64).T
        rows += [{"scope": scope, "window_size": size, **row} for row in law_rows(lead_law(grok, onset))]
    with database.transaction():
        database.replace("fits", {"run": None, "fit": FIT}, columns_of(rows))
        keyed.renew(database, work, started)


def law_rows(law: LeadLaw) -> list[Row]:
    """Rows of ``fits`` for one law: exponent and prefactor, the onset's own exponent, and the null of R²."""
    lead = _parameter("exponent", law.lead), _parameter("prefactor", law.lead)
    low, mean, high = law.r2_null
    null = {"n": law.lead.n, "status": law.lead.status}
    return [
        *lead,
        _parameter("onset_exponent", law.onset),
        {"parameter": "r2_null", "estimate": mean, "low": low, "high": high, **null},
        {"parameter": "p_null", "estimate": law.p, **null},
    ]


def _parameter(name: str, line: Line) -> Row:
    ends = line.slope, line.slope_low, line.slope_high
    if name == "prefactor":
        ends = _exp(line.intercept), _exp(line.intercept_low), _exp(line.intercept_high)
    estimate, low, high = ends
    quality = {"n": line.n, "r2": line.r2, "r2_out_of_sample": line.r2_out_of_sample, "status": line.status}
    return {"parameter": name, "estimate": estimate, "low": low, "high": high, **quality}


def _exp(value: float) -> float:
    """e^value; NaN, which becomes NULL, where that is no float64."""
    return math.exp(value) if abs(value) < 700 else math.nan
