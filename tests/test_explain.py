"""`sedarchive explain`: every column of the results has an entry, entries say nothing of what is not there."""

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from small import data_of, run_here

from sedarchive.compute.inference.flow_rows import FITS
from sedarchive.compute.inference.lead_rows import FIT
from sedarchive.compute.lifecycle.agreement_rows import FIT as AGREEMENT
from sedarchive.compute.lifecycle.importance_rows import FIT as IMPORTANCE
from sedarchive.compute.lifecycle.lifecycle_rows import FITS as LIFECYCLE_FITS
from sedarchive.compute.lifecycle.loss_rows import FEATURES as LOSS_FEATURES
from sedarchive.compute.lifecycle.loss_rows import KINDS as LOSS_KINDS
from sedarchive.compute.lifecycle.scaling_rows import FIT as SCALING
from sedarchive.compute.lifecycle.timescale_rows import FIT as TIMESCALES
from sedarchive.compute.lifecycle.trend_rows import GRADIENTS
from sedarchive.explain import explain
from sedarchive.inference.coupling import KINDS, STAMPS
from sedarchive.inference.lags import PEAK_RULES
from sedarchive.inference.phases import METHODS
from sedarchive.inference.trends import DEGREES
from sedarchive.matrix.spectra import MatrixSpectrum
from sedarchive.rolling.drift import KINDS as DRIFT_KINDS
from sedarchive.rolling.projection import QUANTITIES
from sedarchive.tables import Database
from sedarchive.tables.entries import SHARED, Entry, entry_of, read_entries

PACKAGE = Path(__file__).parents[1] / "sedarchive"
ENTRIES = read_entries()
RESULTS = (
    *("updates", "windows", "window_sigmas", "phases", "events", "couplings", "fits", "projections"),
    *("drift", "components", "matrix_spectra", "matrix_stats", "aspect_stats"),
    *("layer_waves", "depth_gradients", "layer_importance", "depth_trends", "dissociations"),
    "loss_correlations",
)
NOT_YET: tuple[str, ...] = ()
"""Columns (table.column) and modules (compute/name.py) whose entries are still to be written."""


def described():
    with Database.in_memory() as tables:
        return [(table, column) for table, column, _, _ in tables.describe().rows]


COLUMNS = described()


def is_told(table, column):
    entry = entry_of(ENTRIES, table, column)
    if entry.values and not entry.formula:
        return True  # a status is its values
    if column not in ENTRIES.get(table, {}):
        return bool(entry.formula and entry.pitfalls)
    return bool(entry.formula and entry.source and (entry.pitfalls or entry.null))


def test_every_column_of_the_results_has_a_formula_a_source_and_a_null_or_pitfalls():
    missing = [f"{table}.{column}" for table, column in COLUMNS if table in RESULTS and not is_told(table, column)]
    assert sorted(set(missing) - set(NOT_YET)) == []


def test_entries_name_only_columns_that_exist():
    shared = {column for _, column in COLUMNS}
    named = {(table, column) for table, columns in ENTRIES.items() for column in columns}
    unknown = {(table, column) for table, column in named if table != SHARED} - set(COLUMNS)
    assert sorted(unknown | {(SHARED, column) for column in set(ENTRIES[SHARED]) - shared}) == []


def test_the_columns_that_an_entry_points_to_exist():
    known = {column for _, column in COLUMNS} | {table for table, _ in COLUMNS}
    known |= {f"{table}.{column}" for table, column in COLUMNS}
    texts = {
        f"{table}.{column}": getattr(entry, one.name)
        for table, columns in ENTRIES.items()
        for column, entry in columns.items()
        for one in fields(Entry)
        if one.name in ("null", "pitfalls")
    }
    prefixes = ("edge_", "signal_", "sigma_null", "ratio_", "gram_change", "share_", "error_", "step_", "windows.")
    pointed = {
        (name, word)
        for name, text in texts.items()
        for word in (word.strip("().,:;`").removesuffix("'s") for word in text.split())
        if word.startswith(prefixes)
    }
    assert len(pointed) >= 10
    assert sorted((name, word) for name, word in pointed if word not in known) == []


def constants(tree):
    """Text constants of a piece of code; those of keyword arguments other than status are options of a call."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    options = {id(keyword.value) for call in calls for keyword in call.keywords if keyword.arg != "status"}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {node.value for node in texts if id(node) not in options}


def test_what_is_not_computed_yet_is_written_by_no_module():
    written = set().union(*(constants(ast.parse(path.read_text())) for path in (PACKAGE / "compute").glob("*.py")))
    early = [
        f"{table}.{column}"
        for table, columns in ENTRIES.items()
        for column, entry in columns.items()
        if "Not computed yet" in entry.pitfalls and table in written and column in written
    ]
    assert early == []


# values of a status

SITES = {
    "updates.status": ("compute/rolling/window_rows.py:status", "rolling/windows.py:update_series"),
    "windows.status": ("compute/rolling/window_rows.py:status", "rolling/windows.py:_window_status"),
    "window_sigmas.status": ("rolling/modes.py:modes_of",),
    "drift.status": (
        *("compute/rolling/drift_rows.py:_banded", "compute/rolling/drift_rows.py:_drift_status"),
        *("compute/rolling/drift_rows.py:_unknown", "compute/rolling/drift_rows.py:_doubts"),
    ),
    "components.status": (
        *("compute/rolling/drift_rows.py:_banded", "compute/rolling/drift_rows.py:_components"),
        *("compute/rolling/drift_rows.py:_unknown", "compute/rolling/drift_rows.py:_doubts"),
    ),
    "matrix_spectra.status": ("compute/matrix/spectra_rows.py:_spectrum_columns",),
    "matrix_stats.status": (
        "compute/matrix/matrix_rows.py:stats_columns",
        "compute/matrix/matrix_stats.py:_without_values",
    ),
    "matrix_stats.alpha_mle_status": ("compute/matrix/matrix_rows.py:_density_columns",),
    "matrix_stats.alpha_truncated_status": ("matrix/truncated.py:fit_truncated",),
    "aspect_stats.status": ("compute/matrix/aspect_rows.py:_rows", "compute/matrix/aspect_rows.py:_metric_row"),
    "projections.status": (
        "compute/rolling/projection_rows.py:_scope_rows",
        "compute/rolling/projection_rows.py:_measured",
    ),
    "phases.status": ("inference/phases.py:find_phases",),
    "events.status": (
        *(
            "compute/inference/phase_rows.py:grok_rows",
            "compute/inference/phase_rows.py:_settling_row",
            "inference/changes.py:find_shift",
        ),
        *("inference/changes.py:_smooth", "inference/eventstudy.py:find_collapse"),
        *("inference/eventstudy.py:find_settling", "inference/eventstudy.py:find_grok"),
    ),
    "couplings.status": (
        *("compute/couplings/coupling_rows.py:peak_columns", "compute/couplings/coupling_rows.py:lag_columns"),
        *("compute/couplings/coupling_rows.py:flip_columns", "compute/couplings/coupling_rows.py:sliding_columns"),
        *("compute/couplings/coupling_rows.py:granger_columns", "compute/couplings/coupling_rows.py:share_columns"),
        *(
            "compute/couplings/preset_rows.py:preset_rows",
            "compute/couplings/preset_rows.py:_search_rows",
            "inference/separate.py:status",
        ),
        *(
            "compute/couplings/preset_rows.py:status",
            "compute/couplings/preset_rows.py:_lag_status",
            "compute/couplings/preset_rows.py:_flip",
        ),
        "compute/couplings/edge_rows.py:status_of",
        *("compute/couplings/group_couplings.py:_together", "compute/couplings/group_couplings.py:_weakest"),
        *(
            "compute/couplings/coupling_rows.py:_status",
            "compute/couplings/couplings.py:_no_target",
            "inference/lags.py:status",
        ),
    ),
    "layer_waves.status": ("compute/lifecycle/lifecycle_rows.py:wave_rows",),
    "depth_gradients.status": ("lifecycle/gradients.py:_status",),
    "depth_trends.status": ("lifecycle/strengthening.py:slow_trend",),
    "dissociations.status": (
        *("compute/lifecycle/dissociation_rows.py:dissociation_rows", "compute/lifecycle/dissociation_rows.py:_status"),
    ),
    "loss_correlations.status": (
        *("lifecycle/lossrank.py:level_couplings", "lifecycle/lossrank.py:change_couplings"),
        "lifecycle/lossrank.py:_judged",
    ),
    "depth_gradients.shape": ("lifecycle/gradients.py:humps_of",),
    "fits.status": (
        *("compute/lifecycle/lifecycle_rows.py:asymmetry_rows", "compute/lifecycle/gradient_rows.py:_reversal_row"),
        "compute/lifecycle/agreement_rows.py:agreement_rows",
        "lifecycle/waves.py:fit_wave",
        *(
            "inference/gapflow.py:gap_flow",
            "compute/inference/flow_rows.py:time_rows",
            "compute/inference/flow_rows.py:feedback_rows",
        ),
        *("compute/lifecycle/scaling_rows.py:law_rows", "compute/lifecycle/importance_rows.py:_excess"),
        "lifecycle/importance.py:rank_correlation",
        *("lifecycle/timescales.py:fit_decay", "compute/lifecycle/timescale_rows.py:_size"),
        *(
            "compute/inference/flow_rows.py:_maximality",
            "inference/leads.py:fit_line",
            "compute/inference/lead_rows.py:_parameter",
        ),
    ),
}
"""Functions that write a status, and so the only places where its values are spelled out."""
CHOICES = {
    "matrix_spectra.status": (MatrixSpectrum, "status"),
    "matrix_spectra.method": (MatrixSpectrum, "method"),
}
"""Columns whose values are the Literal type of a field."""
NO_STATUS = {
    "updates.status": {"unresolved", "irregular"},
    "events.status": {"val_acc"},
    "fits.status": {
        "logarithm",
        "power",
        "constant_",
        "_aicc_gain",
        "attention",
        "boundary",
        "compression",
        "reversal_",
        "spread_",
    },
    "layer_waves.status": {"compression_wave", "slowness", "slowness_ranks", "velocity"},
}
NO_STATUS["drift.status"] = NO_STATUS["components.status"] = {"drift", "components"}
NO_STATUS["couplings.status"] = {"all", "val_loss"}
"""Words there that cannot stand in the column."""


def words(site):
    """Names among the text constants of a function, less those of columns."""
    module, name = site.split(":")
    tree = ast.parse((PACKAGE / module).read_text())
    found = {text for node in ast.walk(tree) if getattr(node, "name", None) == name for text in constants(node)}
    return {text for text in found if text.isidentifier() and text.islower()} - {column for _, column in COLUMNS}


@pytest.mark.parametrize("column", sorted(SITES | CHOICES))
def test_every_value_that_the_code_writes_is_explained(column):
    written = {text for site in SITES.get(column, ()) for text in words(site)} - NO_STATUS.get(column, set())
    if column in CHOICES:
        kind, field = CHOICES[column]
        written |= set(get_args(get_type_hints(kind)[field]))
    assert len(written) >= 3
    table, name = column.split(".")
    others = {value for other, entry in ENTRIES[table].items() if other != name for value in entry.values}
    assert written - set(entry_of(ENTRIES, table, name).values) - (others - {"ok"}) == set()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("projections.quantity", QUANTITIES),
        ("drift.kind", DRIFT_KINDS),
        ("phases.method", METHODS),
        ("couplings.stamp", STAMPS),
        ("couplings.detrend", DEGREES),
        ("couplings.kind", KINDS),
        ("couplings.peak_rule", (*PEAK_RULES, "lowest", "highest")),
        ("loss_correlations.feature", LOSS_FEATURES),
        ("loss_correlations.kind", LOSS_KINDS),
        ("depth_trends.gradient", GRADIENTS),
        ("fits.fit", (FIT, SCALING, IMPORTANCE, *FITS, *LIFECYCLE_FITS, TIMESCALES, AGREEMENT)),
    ],
)
def test_every_name_in_a_column_of_names_is_explained(column, values):
    assert set(values) - set(entry_of(ENTRIES, *column.split(".")).values) == set()


def test_no_module_writes_a_status_that_is_not_looked_at():
    writers = {
        f"compute/{path.name}"
        for path in (PACKAGE / "compute").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Dict) and "status" in [getattr(key, "value", None) for key in node.keys]
    }
    known = {site.split(":")[0] for sites in SITES.values() for site in sites}
    assert sorted(writers - known - set(NOT_YET)) == []


# the command


def test_a_column_is_told_whole():
    shown = run_here("explain", "windows.edge_ratio").stdout
    labels = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line[2] != " "]
    assert labels == ["type", "unit", "meaning", "formula", "source", "null", "pitfalls", "authors"]
    (told,) = data_of(run_here("explain", "windows.edge_ratio", "--json"))
    assert (told["table"], told["column"], told["type"], told["unit"]) == ("windows", "edge_ratio", "DOUBLE", "1")
    assert told["formula"] == ENTRIES["windows"]["edge_ratio"].formula
    assert told["comment"] == f"{told['meaning']} [{told['unit']}]"


def test_a_column_of_several_tables_is_told_for_each():
    told = data_of(run_here("explain", "status", "--json"))
    assert [one["table"] for one in told] == [table for table, column in COLUMNS if column == "status"]
    shown = run_here("explain", "run").stdout
    assert shown.count("formula") < len([1 for _, column in COLUMNS if column == "run"])
    assert all(f"{table}.run" in shown for table, column in COLUMNS if column == "run")


def test_a_table_is_its_columns_in_order():
    shown = run_here("explain", "fits").stdout
    own = [column for table, column in COLUMNS if table == "fits"]
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line[2] != " "] == own
    assert [one["column"] for one in data_of(run_here("explain", "fits", "--json"))] == own


def test_a_recipe_is_its_header():
    told = data_of(run_here("explain", "spectral_edge", "--json"))
    assert told["columns"][:3] == ["run", "scope", "step"]
    assert {param["name"] for param in told["params"]} >= {"window_size", "scope", "run"}
    shown = run_here("explain", "spectral_edge").stdout
    assert "window_size = 10" in shown
    assert "SELECT" not in shown


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("edge_ration", "edge_ratio"), ("window", "windows"), ("windows.gpa", "windows.gap"), ("lag_flop", "lag_flip")],
)
def test_a_name_that_is_nearly_right_is_guessed(wrong, right):
    said = run_here("explain", wrong, code=4).stderr
    assert re.search(rf"did you mean .*\b{right}\b", said)


def test_a_name_like_no_other_gives_the_tables():
    assert "the tables are runs, checkpoints" in run_here("explain", "qqqqqqqq", code=4).stderr


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("name", ["windows", "couplings", "status", "method", "p", "lag_scan"])
def test_lines_fit_the_terminal(name, width):
    assert max(map(len, explain(name, width).text.splitlines())) <= width


def test_the_files_of_entries_are_short_and_plain():
    for path in sorted((PACKAGE / "tables" / "entries").iterdir()):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 400, path.name
        assert all(line.isascii() and len(line) <= 135 for line in lines), path.name
