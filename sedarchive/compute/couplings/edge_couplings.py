"""Brings the couplings of the ratio at the modal signal rank up to date: by phase, by layer and by preset."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby

from sedarchive.compute.couplings.coupling_inputs import input_keys, read_inputs
from sedarchive.compute.couplings.edge_inputs import EdgeSeries, read_edges
from sedarchive.compute.couplings.group_couplings import MEASURES as GROUP_MEASURES
from sedarchive.compute.couplings.group_couplings import SCOPE as GROUPS
from sedarchive.compute.couplings.group_couplings import group_rows, is_group
from sedarchive.compute.couplings.phase_couplings import MEASURE as PHASE_MEASURE
from sedarchive.compute.couplings.phase_couplings import phase_coupling_rows
from sedarchive.compute.couplings.preset_rows import MEASURES as PRESET_MEASURES
from sedarchive.compute.couplings.preset_rows import follows, preset_rows
from sedarchive.compute.keyed import KeyedRows, Owned, Pair
from sedarchive.compute.row_columns import Row, columns_of
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.inference.coupling import RunMetric
from sedarchive.inference.surrogates import DRAWS
from sedarchive.presets import PRESETS
from sedarchive.tables import Database

ALGORITHM = "edge-couplings-3"
MEASURES = (PHASE_MEASURE, *GROUP_MEASURES, *PRESET_MEASURES)
"""Kinds of rows that are written here."""
COLUMNS = (
    *("scope", "window_size", "feature", "target", "stamp", "detrend", "phase", "measure", "kind", "peak_rule"),
    *(
        "preset",
        "phase_method",
        "lag",
        "r",
        "n",
        "n_eff",
        "n_eff_xu",
        "p",
        "p_lags",
        "p_xu",
        "low",
        "high",
        "first_lag",
        "last_lag",
    ),
    *("other_window_size", "other_lag", "statistic", "null_high", "status"),
)
"""Columns of ``couplings`` that are filled here."""


def record_presets(database: Database, names: Sequence[str]) -> None:
    """Say in the table ``presets`` what the presets that are followed choose, and where each choice was found."""
    rows = [row for name in names for row in PRESETS[name].rows()]
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    database.replace("presets", {}, columns)


def keyed_edge_couplings(run: str) -> KeyedRows:
    """Rows of ``couplings`` of one run that are written here, by scope."""
    options = json.dumps({"draws": DRAWS, "seed": 0})
    return KeyedRows(run, "edge_couplings", ALGORITHM, (Owned("couplings", ("scope",), "measure", MEASURES),), options)


def wanted_edge_couplings(
    database: Database, run: str, sizes: Sequence[int], presets: Sequence[str]
) -> dict[Pair, str]:
    """Keys of what should stand, by scope: a hash of its windows, the logs and the presets."""
    keys = input_keys(database, run, sizes) if sizes else {}
    layers = {scope: key for scope, key in keys.items() if is_group(scope)}
    keys = {**keys, GROUPS: canonical_digest(layers)} if layers else keys
    return {(scope, None): canonical_digest([ALGORITHM, sorted(presets), key])[:16] for scope, key in keys.items()}


def refresh_edge_couplings(
    run: str, steps: Sequence[int], sizes: Sequence[int], presets: Sequence[str], turns: Turns
) -> int:
    """Derive them for every scope whose windows, phases or logs have changed; return the number of such scopes.

    Parameters
    ----------
    run, steps
        The run, and the steps of its checkpoints.
    sizes
        Window sizes that were asked for and that the run reaches, ascending; their phases stand.
    presets
        Names of the presets to follow.
    turns
        Turns at the database.
    """
    started = datetime.now(UTC)
    keyed = keyed_edge_couplings(run)
    work = keyed.outstanding(turns.database, wanted_edge_couplings(turns.database, run, sizes, presets))
    if not work:
        return 0
    stale = {scope for scope, _ in work.keys}
    edges = read_edges(turns.database, run, steps, sizes) if stale else []
    metrics = read_inputs(turns.database, run, steps, [], []).metrics
    turns.end()
    rows = group_rows([edge for edge in edges if is_group(edge.scope)], metrics) if GROUPS in stale else []
    for scope, of_scope in groupby((edge for edge in edges if edge.scope in stale), key=lambda edge: edge.scope):
        rows += _rows(scope, list(of_scope), presets, metrics)
    keyed.write(turns.database, work, {"couplings": [columns_of(rows, COLUMNS)]}, started)
    return len(stale)


def _rows(
    scope: str, edges: Sequence[EdgeSeries], presets: Sequence[str], metrics: Mapping[str, RunMetric]
) -> list[Row]:
    rows = [] if ":" in scope else phase_coupling_rows(edges, metrics)  # single layers and tensors are many
    for preset in (PRESETS[name] for name in presets):
        rows += preset_rows(preset, edges, metrics) if follows(preset, scope) else []
    return rows
