"""Each recipe keeps its header's promises, finds what was planted, and says so when there is nothing to find."""

import csv
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import planted
import pytest

from sedarchive.errors import RecipeError
from sedarchive.query import answer, recipe_details
from sedarchive.recipes import check_columns, find_recipes, parse_recipe, read_recipe, run_recipe, run_sql
from sedarchive.tables import Database

RECIPES = find_recipes()
NAMES = list(RECIPES)
HEADER = "-- summary: s\n-- columns: a\n"


@pytest.fixture(scope="module")
def planted_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "archive.duckdb"
    with Database.create_or_open(path, "planted") as db:
        planted.plant_everything(db)
    return path


@pytest.fixture(scope="module")
def planted_db(planted_path):
    with Database.read(planted_path) as db:
        yield db


@pytest.fixture(scope="module")
def empty_db(tmp_path_factory):
    path = tmp_path_factory.mktemp("empty") / "archive.duckdb"
    Database.create_or_open(path, "empty").close()
    with Database.read(path) as db:
        yield db


def ask(db, recipe, **values):
    return run_recipe(db.connection, RECIPES[recipe], values).dicts()


RECIPE_NAMES = """
adiabatic
alpha_loss
backbone
compression_wave
coupling
decay_split
depth_gradients
dissociation
drift
entropy_alpha
events
explained_share
gap_flow
gap_maximality
gap_profile
gap_rate
history
importance
lag_flip
lag_scan
layer_coupling
layer_profile
lead_times
noise_edges
phase_coupling
phases
projection_error
qk_vo_asymmetry
repulsion
scaling_fits
scaling_law
signal_ranks
sliding_coupling
spectral_edge
stability
strengthening
strengthening_runs
turning
two_timescales
wave_velocity
xu2026
"""


def test_the_recipes_are_found():
    assert RECIPE_NAMES.split() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_keeps_its_header_promise_and_finds_something(planted_db, name):
    recipe = RECIPES[name]
    check_columns(planted_db.connection, recipe)
    assert run_recipe(planted_db.connection, recipe, {}).rows
    assert recipe.source
    assert all(param.meaning for param in recipe.params)


def test_one_recipe_is_asked_without_reading_the_others(planted_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "sedarchive.recipes.header.parse_recipe", lambda name, text: read.append(name) or parse_recipe(name, text)
    )
    assert answer(planted_path, "lag_flip", {}).rows
    assert recipe_details("lag_flip")["name"] == "lag_flip"
    assert read == ["lag_flip", "lag_flip"]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_database_gives_no_rows(empty_db, name):
    assert ask(empty_db, name) == []


@pytest.mark.parametrize("name", NAMES)
def test_no_result_holds_nan(planted_db, name):
    values = [value for row in run_recipe(planted_db.connection, RECIPES[name], {}).rows for value in row]
    assert not any(isinstance(value, float) and np.isnan(value) for value in values)


def less_line(at, values):
    return values - np.polyval(np.polyfit(at - at.mean(), values, 1), at - at.mean())


def naive_scan(run, window_size, reach, stamp, detrend):
    """Lag to (r, n), by explicit pairs; the metric counts from the first window of the smallest size on."""
    log_steps, losses = planted.val_losses(run)
    delays = {size: size / 2 if stamp == "centre" else 0 for size in run.window_sizes}
    own = planted.window_ends(run, window_size) - delays[window_size]
    start = min(size - delays[size] for size in run.window_sizes)
    grid = own[0] + np.arange(-100, 200)
    grid = grid[(grid >= start) & (grid <= run.n_checkpoints - 1)]
    features = planted.edge_ratios(run, window_size)
    metric = np.interp(grid * planted.SPACING, log_steps, losses)
    if detrend == "linear":
        features, metric = less_line(own, features), less_line(grid, metric)
    by_place = dict(zip(grid, metric, strict=True))
    found = {}
    for lag in range(-reach, reach + 1):
        pairs = [(x, by_place[at + lag]) for at, x in zip(own, features, strict=True) if at + lag in by_place]
        found[lag] = (np.corrcoef(np.array(pairs).T)[0, 1], len(pairs))
    return found


@pytest.mark.parametrize("stamp", ["end", "centre"])
@pytest.mark.parametrize("detrend", ["linear", "none"])
@pytest.mark.parametrize(("name", "window_size"), [("lead_end", 10), ("lead_centre", 5), ("sparse_log", 5)])
def test_every_lag_agrees_with_explicit_pairs(planted_db, name, window_size, stamp, detrend):
    [run] = [run for run in planted.LAG_RUNS if run.name == name]
    rows = ask(planted_db, "lag_scan", run=name, window_size=str(window_size), stamp=stamp, detrend=detrend)
    expected = naive_scan(run, window_size, -(-max(run.window_sizes) // 2) + 5, stamp, detrend)
    assert [row["lag"] for row in rows] == list(expected)
    assert [row["n"] for row in rows] == [n for _, n in expected.values()]
    np.testing.assert_allclose([row["r"] for row in rows], [r for r, _ in expected.values()], rtol=0, atol=1e-9)


@pytest.mark.parametrize("search", ["tinystories", "gpt2", "thesis"])
@pytest.mark.parametrize(("run", "sizes"), [("lead_end", (10, 20)), ("lead_centre", (4, 5, 10))])
def test_the_preset_finds_a_planted_lead_at_every_window_size(planted_db, run, sizes, search):
    rows = ask(planted_db, "xu2026", run=run, search=search)
    delay = dict.fromkeys(sizes, 0) if run == "lead_end" else {size: size / 2 for size in sizes}
    assert [row["window_size"] for row in rows] == list(sizes)
    for row in rows:
        assert abs(row["peak_lag"] - (planted.LEAD - delay[row["window_size"]])) <= 0.5
        assert row["p_lags"] == 0.01
        assert row["p"] >= row["p_lags"]
        assert row["status"] == "ok"
        assert row["p_xu"] < 0.01


def test_only_the_lags_asked_for_are_shown(planted_db):
    rows = ask(planted_db, "lag_scan", run="lead_end", max_lag="2")
    assert [row["lag"] for row in rows] == [-2, -1, 0, 1, 2]


def peaks(db, run, **values):
    return {row["window_size"]: row for row in ask(db, "lag_flip", run=run, **values)}


@pytest.mark.parametrize("peak", ["abs", "negative"])
def test_a_feature_that_leads_by_three_checkpoints_peaks_at_plus_three(planted_db, peak):
    found = peaks(planted_db, "lead_end", peak=peak)
    assert [(size, row["peak_lag"], row["status"], row["flip"]) for size, row in found.items()] == [
        (10, planted.LEAD, "ok", None),
        (20, planted.LEAD, "ok", False),
    ]
    assert found[10]["r"] == pytest.approx(-1, abs=0.05)
    assert found[10]["p"] == found[10]["p_lags"] == 0.01
    assert found[10]["low"] < found[10]["r"] < found[10]["high"] < -0.9


def test_the_centre_stamp_undoes_the_shift_of_the_window(planted_db):
    centre = peaks(planted_db, "lead_centre", stamp="centre")
    assert [row["peak_lag"] for row in centre.values()] == [3, 3, 3]
    assert [row["r"] for row in centre.values()] == pytest.approx([-1, -1, -1], abs=0.05)
    assert [row["flip"] for row in centre.values()] == [None, False, False]


def test_the_end_stamp_alone_flips_the_sign_of_a_lag(planted_db):
    end = peaks(planted_db, "delay_flip", stamp="end")
    assert [(row["peak_lag"], row["flip"], row["flip_p"]) for row in end.values()] == [
        (1, None, None),
        (-2, True, 0.01),
    ]
    centre = peaks(planted_db, "delay_flip", stamp="centre")
    assert [(row["peak_lag"], row["flip"], row["flip_p"]) for row in centre.values()] == [
        (3, None, None),
        (3, False, None),
    ]


def test_the_peak_of_lag_flip_is_the_strongest_lag_of_lag_scan(planted_db):
    peak = peaks(planted_db, "lead_end", detrend="none")[10]
    scan = ask(planted_db, "lag_scan", run="lead_end", detrend="none")
    strongest = max(scan, key=lambda row: abs(row["r"]))
    for name in ("r", "n", "n_eff", "p", "p_lags", "status"):
        assert peak[name] == strongest[name]
    assert peak["low"] <= strongest["low"] + 1e-12  # as wide where no other lag might have been the peak, or wider
    assert peak["high"] >= strongest["high"] - 1e-12
    assert peak["peak_lag"] == strongest["lag"]


def test_the_search_reaches_half_the_largest_window_and_five_more(planted_db):
    assert [(row["first_lag"], row["last_lag"]) for row in peaks(planted_db, "lead_end").values()] == [(-15, 15)] * 2


@pytest.mark.parametrize(
    ("run", "status"),
    [
        ("lead_too_far", "border"),
        ("straight", "constant"),
        ("short", "too_few"),
        ("silent", "no_target"),
        ("uneven", "irregular"),
    ],
)
def test_a_peak_that_is_none_says_why(planted_db, run, status):
    [row] = peaks(planted_db, run).values()
    assert row["status"] == status
    assert row["flip"] is None
    assert (row["p"] is None) == (status != "irregular")


def test_the_peak_rule_chooses_between_strongest_and_most_negative(planted_db):
    [strongest] = ask(planted_db, "lag_flip", run="same_sign")
    [negative] = ask(planted_db, "lag_flip", run="same_sign", peak="negative")
    assert (strongest["peak_lag"], strongest["r"]) == (0, pytest.approx(1, abs=0.05))
    scan = {row["lag"]: row["r"] for row in ask(planted_db, "lag_scan", run="same_sign")}
    assert min(scan.values()) < 0
    # the run is symmetric: two lags have that r, but for rounding
    assert negative["r"] == scan[negative["peak_lag"]] == pytest.approx(min(scan.values()))


def test_a_run_without_the_metric_has_one_row_in_the_scan(planted_db):
    [row] = ask(planted_db, "lag_scan", run="silent")
    assert (row["lag"], row["r"], row["n"], row["status"]) == (None, None, 0, "no_target")


def test_the_strongest_coupling_stands_first_beside_its_granger_test(planted_db):
    first, *_ = ask(planted_db, "coupling", run="lead_end")
    assert (first["feature"], first["lag"], first["status"]) == ("edge_ratio", planted.LEAD, "ok")
    assert first["granger_f"] > 10
    assert first["granger_order"] in (1, 2)
    assert first["granger_p"] == 0.01


def test_a_sliding_correlation_stands_beside_the_band_of_its_run(planted_db):
    rows = ask(planted_db, "sliding_coupling", run="lead_end", width="7")
    [run] = [run for run in planted.LAG_RUNS if run.name == "lead_end"]
    ends = planted.window_ends(run, 10)
    loss = dict(zip(*planted.val_losses(run), strict=True))
    metric = np.array([loss[at * planted.SPACING] for at in ends])
    expected = [
        np.corrcoef(planted.edge_ratios(run, 10)[at : at + 7], metric[at : at + 7])[0, 1] for at in range(len(ends) - 6)
    ]
    assert [row["step"] for row in rows] == [at * planted.SPACING for at in ends[3:-3]]
    np.testing.assert_allclose([row["r"] for row in rows], expected, atol=1e-9)
    assert {(row["null_low"], row["null_high"]) for row in rows} == {(rows[0]["null_low"], rows[0]["null_high"])}
    assert all(row["outside"] == (not row["null_low"] <= row["r"] <= row["null_high"]) for row in rows)


def test_the_rate_of_a_gap_stands_beside_that_of_its_flow(planted_db):
    rows = ask(planted_db, "gap_rate", run="muon")
    assert [(row["step"], row["k"], row["gap"], row["gap_rate"]) for row in rows] == [
        (1000, 1, 4.0, 0.01),  # from 4 to 5 in 100 steps
        (1100, 1, 5.0, None),
        (1200, 1, None, None),
    ]
    assert [row["gap_rate_flow"] for row in rows] == [pytest.approx(0.01 * (5 - 4)), 0.0, None]


def test_a_planted_wave_gives_its_arrivals_and_velocity(planted_db):
    rows = ask(planted_db, "wave_velocity", run="wave")
    arrivals = 300 + planted.WAVE_SLOWNESS * np.arange(6)
    np.testing.assert_allclose([row["arrival_step"] for row in rows], arrivals, rtol=1e-12)
    assert [row["layer"] for row in rows] == list(range(6))
    for row in rows:
        assert row["slowness"] == pytest.approx(planted.WAVE_SLOWNESS, rel=1e-12)
        assert row["velocity"] == pytest.approx(1 / planted.WAVE_SLOWNESS, rel=1e-12)
        assert row["largest_compression"] == pytest.approx(0.6)
        assert (row["n"], row["status"]) == (6, "ok")


@pytest.mark.parametrize(
    ("run", "status", "n"),
    [
        ("wave_of_three", "three_points", 3),
        ("wave_of_two", "too_few", 2),
        ("wave_without_start", "no_start", 0),
        ("wave_at_once", "simultaneous", 6),
        ("wave_none", "no_wave", 0),
    ],
)
def test_a_wave_that_cannot_be_timed_says_why(planted_db, run, status, n):
    rows = ask(planted_db, "wave_velocity", run=run)
    assert {(row["status"], row["n"]) for row in rows} == {(status, n)}
    assert all(row["velocity"] is None for row in rows) == (status != "three_points")


def test_a_wave_can_be_counted_from_a_later_step(planted_db):
    rows = ask(planted_db, "wave_velocity", run="wave_without_start", reference_step="50")
    assert rows[0]["slowness"] == pytest.approx(planted.WAVE_SLOWNESS)


@pytest.mark.parametrize("scope", ["trunk", "role:query"])
def test_a_planted_wave_has_its_velocity_with_an_interval(planted_db, scope):
    [row] = ask(planted_db, "compression_wave", run="wave", scope=scope)
    assert row["slowness"] == pytest.approx(planted.WAVE_SLOWNESS)
    assert row["slowness_ranks"] == pytest.approx(planted.WAVE_SLOWNESS)
    assert row["velocity"] == pytest.approx(1 / planted.WAVE_SLOWNESS)
    assert row["velocity_low"] <= row["velocity"] <= row["velocity_high"]
    assert (row["n"], row["first_arrival"], row["status"]) == (6, pytest.approx(300), "few")


@pytest.mark.parametrize(
    ("run", "status"),
    [
        ("wave_of_three", "three_points"),
        ("wave_of_two", "too_few"),
        ("wave_without_start", "no_start"),
        ("wave_at_once", "simultaneous"),
    ],
)
def test_a_wave_without_a_velocity_says_why_in_its_fit_too(planted_db, run, status):
    rows = ask(planted_db, "compression_wave", run=run)
    assert {row["status"] for row in rows} == {status}
    assert {row["scope"] for row in rows} == {"trunk", "role:query", "role:value"}
    assert all(row["velocity"] is None for row in rows) == (status != "three_points")


def test_layers_that_are_not_compressed_have_no_arrival(planted_db):
    rows = ask(planted_db, "compression_wave", run="wave_none")
    assert {(row["first_arrival"], row["slowness"]) for row in rows} == {(None, None)}


def test_a_planted_hump_of_alpha_is_an_inverted_u_with_its_peak(planted_db):
    rows = ask(planted_db, "depth_gradients", run="asymmetry")
    assert [row["scope"] for row in rows] == ["role:key", "role:output", "role:query", "role:value", "trunk"]
    for row in rows:
        assert (row["shape"], row["step"], row["n"]) == ("inverted_u", 1000, 12)
        assert row["peak_low"] < planted.PEAK < row["peak_high"]
        assert row["aicc_gain"] > 2
    [start] = ask(planted_db, "depth_gradients", run="asymmetry", step="0", scope="trunk")
    assert (start["shape"], start["status"]) == ("monotone", "constant")


def test_another_alpha_has_gradients_of_its_own(planted_db):
    [row] = ask(planted_db, "depth_gradients", run="asymmetry", scope="trunk", metric="alpha_ols")
    assert row["shape"] == "inverted_u"
    assert row["peak_low"] < planted.PEAK_OLS < row["peak_high"]
    assert ask(planted_db, "depth_gradients", run="asymmetry", metric="alpha_hill") == []


def test_a_planted_gradient_that_grows_strengthens_and_noise_does_not(planted_db):
    [row] = ask(planted_db, "strengthening", run="dissociated", metric="alpha")
    assert (row["strengthens"], row["status"], row["scope"]) == (True, "ok", "trunk")
    assert 0 < row["rate_low"] < row["rate"] < row["rate_high"]
    assert row["last"] == pytest.approx(0.15 * (1 - np.exp(-2)), abs=0.03)
    [spread] = ask(planted_db, "strengthening", run="dissociated", metric="alpha", gradient="spread")
    assert spread["p"] <= 0.05
    [even] = ask(planted_db, "strengthening", run="even", metric="alpha")
    assert (even["strengthens"], even["rate_low"] < 0 < even["rate_high"]) == (False, True)
    [smooth] = ask(planted_db, "strengthening", run="wave", metric="alpha")
    assert (smooth["p"], smooth["status"]) == (None, "few_effective")


def test_a_planted_dissociation_shows_its_parts(planted_db):
    [row] = ask(planted_db, "dissociation", run="dissociated", scope="trunk")
    assert (row["dissociated"], row["n"], row["status"]) == (True, 12, "ok")
    assert row["gradient_before"] < -row["gradient_null"] < row["gradient_null"] < row["gradient_after"]
    assert 1200 < row["reversal_step"] < 2600
    assert row["spread_low"] < row["spread_ratio"] < row["spread_high"]
    assert row["p"] == max(row["spread_p"], row["alpha_p"]) <= 0.05
    [even] = ask(planted_db, "dissociation", run="even", scope="trunk")
    assert (even["dissociated"], even["reversal_step"]) == (False, None)
    assert even["p"] > 0.05
    assert {row["status"] for row in ask(planted_db, "dissociation", run="wave_without_start")} == {"no_start"}


def test_an_alpha_that_moves_with_the_loss_is_told_from_one_that_does_not(planted_db):
    mean, spread = ask(planted_db, "alpha_loss", run="dissociated")
    assert (mean["feature"], mean["status"], mean["n"]) == ("mean_alpha", "ok", 79)
    assert mean["low"] < mean["rho"] < mean["high"] < -0.5
    assert mean["p_feature"] <= mean["p"] <= 0.01
    assert mean["rho_level"] < -0.5
    assert spread["p_feature"] > 0.05
    assert all(row["p"] > 0.05 for row in ask(planted_db, "alpha_loss", run="even"))


def test_an_entropy_that_mirrors_alpha_is_shown_beside_its_null(planted_db):
    [row] = ask(planted_db, "entropy_alpha", run="dissociated", scope="trunk")
    assert row["rho"] < row["null_low"] < 0 < row["null_high"]
    assert (row["n"], row["status"]) == (12, "ok")
    assert row["p"] <= 0.01
    assert {row["status"] for row in ask(planted_db, "entropy_alpha", run="wave_of_two")} == {"too_few"}


def test_a_planted_asymmetry_lies_outside_its_null(planted_db):
    found = {row["quantity"]: row for row in ask(planted_db, "qk_vo_asymmetry", run="asymmetry")}
    row = found["compression"]
    assert row["low"] < 3 < row["high"]
    assert row["null_low"] < 1 < row["null_high"] < row["ratio"]
    assert row["p"] < 0.01
    assert found["alpha"]["p"] > 0.05


def test_a_planted_exponent_is_recovered(planted_db):
    found = {row["family"]: row for row in ask(planted_db, "scaling_law")}
    for family, n, n_sizes, status in (("ladder", 5, 5, "ok"), ("triple", 3, 3, "three_points")):
        row = found[family]
        assert row["exponent"] == pytest.approx(planted.EXPONENT, rel=1e-9)
        assert row["prefactor"] == pytest.approx(0.1, rel=1e-9)
        assert row["r2"] == pytest.approx(1)
        assert (row["n"], row["n_sizes"], row["status"]) == (n, n_sizes, status)
    pair = found["pair"]
    assert (pair["n"], pair["n_sizes"], pair["exponent"], pair["status"]) == (3, 2, None, "too_few")


@pytest.mark.parametrize(("family", "n", "status"), [("ladder", 5, "few"), ("triple", 3, "three_points")])
def test_a_planted_exponent_has_an_interval_and_rivals(planted_db, family, n, status):
    rows = {row["law"]: row for row in ask(planted_db, "scaling_fits", family=family)}
    row = rows["alpha_spread_by_n_layers"]
    assert row["exponent"] == pytest.approx(planted.EXPONENT)
    assert row["low"] <= row["exponent"] <= row["high"]
    assert (row["n"], row["status"]) == (n, status)
    assert (row["aicc_gain"] is None) == (n < 5)
    assert n < 5 or row["aicc_gain"] > 2
    assert row["null_low"] < row["exponent"] < row["null_high"]
    assert row["p"] > 0.05  # unrelated layers would do


def test_the_exponent_against_parameters_is_half_where_they_grow_as_depth_squared(planted_db):
    [row] = [row for row in ask(planted_db, "scaling_law", x="n_parameters") if row["family"] == "ladder"]
    assert row["exponent"] == pytest.approx(planted.EXPONENT / 2)


def test_the_planted_edge_stands_beside_its_null(planted_db):
    rows = ask(planted_db, "spectral_edge", run="edge")
    assert [row["edge_ratio"] for row in rows] == [1.2, 2.0, 3.0]
    assert [row["edge_ratio"] > row["edge_ratio_null_high"] for row in rows] == [False, True, True]
    assert [(row["signal_rank"], row["gap"]) for row in rows] == [(None, None), (2, 4.0), (2, 6.0)]
    assert ask(planted_db, "spectral_edge", run="edge", window_size="7") == []


def test_the_error_of_a_projection_stands_beside_its_band_and_theory(planted_db):
    first, second = ask(planted_db, "projection_error")
    assert (first["inside"], second["inside"]) == (True, False)
    assert first["error_separated"] == pytest.approx(0.0798, abs=1e-4)
    assert ask(planted_db, "projection_error", quantity="gap_1") == []


def test_the_backbone_stands_beside_random_walks(planted_db):
    rows = ask(planted_db, "backbone", kind="raw", run="drifting")
    assert [row["k"] for row in rows] == [1, 2, 3, 4, 5]
    assert (rows[0]["share"] > rows[0]["null_high"], rows[0]["p"]) == (True, 0.001)
    assert rows[0]["above_null"] == pytest.approx(rows[0]["share"] - rows[0]["share_null"])
    assert all(row["share"] < 0.5 for row in ask(planted_db, "backbone", kind="raw", run="drifting")[1:])
    assert ask(planted_db, "backbone", scope="trunk") == []


def test_the_drift_is_along_the_backbone_or_beside_it(planted_db):
    rows = ask(planted_db, "drift", run="drifting")
    assert (rows[0]["displacement"], rows[0]["backbone_share"], rows[0]["status"]) == (0.0, None, "zero")
    assert rows[-1]["backbone_share"] > 0.9
    for row in rows:
        along, beside = row["backbone_coordinate"], row["residual"]
        assert along**2 + beside**2 == pytest.approx(row["displacement"] ** 2)
    assert ask(planted_db, "drift", kind="raw", run="drifting") != rows


def test_the_gap_profile_counts_only_resolved_ratios(planted_db):
    rows = {row["k"]: row for row in ask(planted_db, "gap_profile", run="edge")}
    assert list(rows) == [1, 2]
    assert rows[2]["ratio_mean"] == pytest.approx(6.2 / 3)
    assert rows[2]["ratio_median"] == 2.0
    assert (rows[2]["share_above_null"], rows[1]["share_above_null"]) == (pytest.approx(2 / 3), 0)
    assert (rows[2]["null_low"], rows[2]["null_high"], rows[2]["n"]) == (pytest.approx(1.05), pytest.approx(1.25), 3)


def test_the_layer_profile_compares_with_the_first_step(planted_db):
    last = ask(planted_db, "layer_profile", run="wave")
    assert [(row["layer"], row["role"]) for row in last[:3]] == [(0, "query"), (0, "value"), (1, "query")]
    assert {row["step"] for row in last} == {2000}
    assert all(row["compression"] == pytest.approx(0.6) for row in last)
    assert last[0]["stable_rank"] == pytest.approx(80 * 0.4)
    assert {row["compression"] for row in ask(planted_db, "layer_profile", run="wave", step="0")} == {0.0}


def test_the_history_counts_what_was_archived(planted_db):
    [row] = ask(planted_db, "history", run="seen")
    assert list(row.values()) == ["seen", "gpt2", 3, 0, 100, 2, 1000, 2, "lr, val_loss", 1, 2, 0]


def shell():
    found = shutil.which("duckdb", path=str(Path(sys.executable).parent)) or shutil.which("duckdb")
    if found is None:
        pytest.skip("DuckDB's shell is not installed (duckdb-cli)")
    return found


def in_shell(path, sql):
    command = [shell(), "-readonly", "-csv", "-nullvalue", "", str(path)]
    done = subprocess.run(command, input=sql, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return list(csv.reader(io.StringIO(done.stdout)))


def matching(text, value):
    """The text itself if it says the value, what it should have been if not."""
    if isinstance(value, float):
        return text if float(text) == pytest.approx(value, rel=1e-9, abs=1e-9) else str(value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_in_the_shell_as_it_stands(planted_path, planted_db, name):
    header, *rows = in_shell(planted_path, RECIPES[name].sql + ";")
    result = run_recipe(planted_db.connection, RECIPES[name], {})
    assert header == result.columns
    assert len(rows) == len(result.rows)
    for shown, row in zip(rows, result.rows, strict=True):
        assert shown == [matching(text, value) for text, value in zip(shown, row, strict=True)]


def test_a_parameter_is_set_in_the_shell_by_a_variable(planted_path):
    _, *rows = in_shell(planted_path, "SET VARIABLE window_size = 20;" + RECIPES["lag_scan"].sql + ";")
    assert {row[2] for row in rows} == {"20"}


def test_an_unknown_parameter_is_refused_with_the_valid_ones(planted_db):
    with pytest.raises(RecipeError, match=r"no parameter window .*'window_size'.*; it has window_size, scope, run"):
        ask(planted_db, "spectral_edge", window="5")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window_size": "ten"}, "whole number"),
        ({"window_size": "2.5"}, "whole number"),
        ({"stamp": "middle"}, "one of end, centre"),
        ({"max_lag": "far"}, "max_lag is a whole number, not 'far'"),
        ({"max_lag": "1e3"}, "max_lag is a whole number, not '1e3'"),
        ({"max_lag": "9" * 19}, "max_lag is a whole number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(planted_db, values, message):
    with pytest.raises(RecipeError, match=message):
        ask(planted_db, "lag_scan", **values)


@pytest.mark.parametrize("text", ["far", "nan", "inf", ""])
def test_a_number_without_default_is_refused_where_it_is_none(planted_db, text):
    recipe = parse_recipe("mine", HEADER + "-- param x number: rate\nSELECT getvariable('x') AS a")
    with pytest.raises(RecipeError, match=rf"recipe mine: x is a number, not '{text}'"):
        run_recipe(planted_db.connection, recipe, {"x": text})
    assert run_recipe(planted_db.connection, recipe, {"x": "-1e30"}).rows == [(-1e30,)]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_recipe_casts_is_declared_as_that(name):
    cast = dict(re.findall(r"CAST\(getvariable\('(\w+)'\) AS (\w+)\)", RECIPES[name].sql))
    kinds = {param.name: param.kind for param in RECIPES[name].params if param.default is None}
    assert {param for param, kind in kinds.items() if kind == "integer"} == set(cast)
    assert set(cast.values()) <= {"BIGINT"}
    assert set(kinds.values()) <= {"integer", "text"}


def test_parameters_do_not_outlive_the_query(planted_db):
    ask(planted_db, "spectral_edge", window_size="5")
    assert planted_db.rows("SELECT getvariable('window_size')").rows == [(None,)]


def test_a_value_is_bound_and_never_pasted(planted_db):
    assert ask(planted_db, "history", run="' OR true --") == []


def test_a_recipe_is_read_with_choices_continuations_and_defaults(tmp_path):
    path = tmp_path / "mine.sql"
    path.write_text(
        "-- summary: one\n--   sentence\n-- param a = 1.5: rate\n-- param b = 'x' | 'y': kind\n-- param c: free\n"
        "-- param d integer: count\n"
        "-- columns: p,\n--   q, r, s\n-- source: a paper\n-- note: first\n--\n--   second: part\n"
        "SELECT coalesce(getvariable('a'), 1.5) AS p, coalesce(getvariable('b'), 'x') AS q, getvariable('c') AS r,"
        " getvariable('d') AS s"
        " -- getvariable('in_a_comment')\n"
    )
    recipe = read_recipe(path)
    assert (recipe.name, recipe.summary, recipe.source) == ("mine", "one sentence", "a paper")
    assert [(p.name, p.default, p.meaning, p.choices, p.kind) for p in recipe.params] == [
        ("a", 1.5, "rate", (), "number"),
        ("b", "x", "kind", ("x", "y"), "text"),
        ("c", None, "free", (), "text"),
        ("d", None, "count", (), "integer"),
    ]
    assert recipe.columns == ("p", "q", "r", "s")
    assert recipe.note == "first second: part"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- columns: a\nSELECT 1 AS a", r"bad\.sql:1: the header needs one line `-- summary"),
        ("-- summary: s\nSELECT 1 AS a", r"bad\.sql:1: the header needs one line `-- columns"),
        (HEADER + "-- params: x\nSELECT 1 AS a", r"bad\.sql:3: a header line"),
        (HEADER + "-- param x 1: y\nSELECT 1 AS a", r"bad\.sql:3: a parameter is declared"),
        (HEADER + "-- param x = ten: y\nSELECT 1 AS a", r"bad\.sql:3: the default of x"),
        (HEADER + "-- param x = 1: y\nSELECT 1 AS a", r"bad\.sql:3: x is declared but not used"),
        (HEADER + "SELECT\n  getvariable('x') AS a", r"bad\.sql:4: x is used but not declared"),
        (
            HEADER + "-- param x = 1: y\nSELECT coalesce(getvariable('x'), 2) AS a",
            r"bad\.sql:4: x has default 2 here, 1",
        ),
        (HEADER + "-- param x = 1: y\nSELECT getvariable('x') AS a", r"bad\.sql:4: x has default None here"),
        (HEADER + "SELECT 1 AS a; SELECT 2 AS a", "exactly one SELECT statement is needed, found SELECT, SELECT"),
        (HEADER + "DELETE FROM runs", "found DELETE"),
        (HEADER, "found none"),
        (HEADER + "SELECT (1 AS a", "Parser Error"),
    ],
)
def test_a_malformed_recipe_is_refused_with_file_and_line(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe("bad", text)


def test_columns_that_differ_from_the_header_are_refused_by_line(empty_db):
    recipe = parse_recipe("bad", "-- summary: s\n-- columns: a, b\nSELECT 1 AS a, 2 AS c")
    with pytest.raises(RecipeError, match=r"bad\.sql:2: the header says columns a, b; the statement gives a, c"):
        check_columns(empty_db.connection, recipe)


@pytest.mark.parametrize("sql", ["WITH t AS (SELECT 1 AS a) SELECT * FROM t", "FROM runs LIMIT 1", "VALUES (1);"])
def test_a_users_select_runs_in_any_spelling(planted_db, sql):
    assert len(run_sql(planted_db.connection, sql).rows) == 1


@pytest.mark.parametrize(
    "sql", ["DELETE FROM runs", "SELECT 1; SELECT 2", "COPY runs TO 'x.csv'", "", "SELECT nothing"]
)
def test_a_users_query_is_one_select_or_an_error(planted_db, sql):
    with pytest.raises(RecipeError):
        run_sql(planted_db.connection, sql)


def test_a_query_that_fails_while_it_is_fetched_is_reported(planted_db):
    with pytest.raises(RecipeError, match="query:"):
        run_sql(planted_db.connection, "SELECT CAST(architecture AS BIGINT) FROM runs WHERE run = 'seen'")
    assert run_sql(planted_db.connection, "SELECT 1 AS a").rows == [(1,)]


def test_phases_are_those_at_the_modal_rank_unless_another_is_asked_for(planted_db):
    rows = ask(planted_db, "phases")
    assert [(row["run"], row["k"], row["phase"]) for row in rows] == [
        ("phased", 2, phase) for phase in ("rise", "plateau", "collapse")
    ]
    assert {(row["run"], row["k"]) for row in ask(planted_db, "phases", k="1")} == {("phased", 1), ("rankless", 1)}


def test_leads_are_those_of_the_rule_asked_for(planted_db):
    [row] = ask(planted_db, "lead_times")
    assert (row["collapse"], row["lead"], row["lead_any_time"], row["grok_lead"]) == (3500, 400, -1000, 1000)
    assert row["status"] == "ok"
    [row] = ask(planted_db, "lead_times", causal="no")
    assert (row["collapse"], row["lead"], row["status"]) == (3400, None, "no_target")
    [row] = ask(planted_db, "lead_times", tau="1.3")
    assert row["collapse"] == 3300
    [row] = ask(planted_db, "lead_times", k="1")
    assert (row["collapse"], row["lead"]) == (4000, None)


def test_events_of_the_whole_run_stand_beside_those_of_its_windows(planted_db):
    kinds = [row["event"] for row in ask(planted_db, "events", run="phased")]
    assert sorted(set(kinds)) == ["collapse", "grok", "shift", "stabilisation"]
    assert len(kinds) == 8
    assert [row["step"] for row in ask(planted_db, "events", event="shift")] == [3100]


def test_the_regime_follows_the_convention_and_the_cuts(planted_db):
    assert [row["regime"] for row in ask(planted_db, "adiabatic", run="muon")] == ["plateau", "forgetting", None]
    by_step = ask(planted_db, "adiabatic", run="muon", eta="step")
    assert [row["regime"] for row in by_step] == ["transition", "forgetting", None]
    wide = ask(planted_db, "adiabatic", run="muon", low="0.01", high="100")
    assert [row["regime"] for row in wide] == ["transition", "transition", None]


def test_the_stability_of_few_directions_stands_beside_the_angle_of_their_span(planted_db):
    rows = ask(planted_db, "stability", run="muon", k_max="2")
    assert [(row["step"], row["k"], row["subspace_angle"]) for row in rows[:4]] == [
        (1000, 1, None),
        (1000, 2, None),
        (1100, 1, 0.2),
        (1100, 2, 0.2),
    ]


def test_the_change_of_an_eigenvalue_is_that_from_the_window_before(planted_db):
    rows = ask(planted_db, "repulsion", k_max=1)
    before = {}
    for row in rows:
        key = (row["run"], row["k"])
        known = row["energy"] is not None and before.get(key) is not None
        assert row["energy_change"] == (pytest.approx(row["energy"] - before[key]) if known else None)
        before[key] = row["energy"]
    assert {row["k"] for row in rows} == {1}


def test_gradient_and_decay_share_each_direction(planted_db):
    rows = ask(planted_db, "decay_split", run="muon")[:4]
    assert [row["decay_share"] for row in rows] == [0.75, 0.5, 0, None]
    assert [row["relation"] for row in rows] == ["opposed", "aligned", None, None]


def test_the_flow_of_the_gap_comes_with_its_p_value(planted_db):
    damping, viable = ask(planted_db, "gap_flow", run="muon")
    assert (damping["parameter"], damping["estimate"], damping["p"]) == ("damping", 0.01, 0.005)
    assert (viable["parameter"], viable["estimate"]) == ("viable_gap", 5.0)


def test_the_gap_that_matters_most_is_marked(planted_db):
    rows = ask(planted_db, "gap_maximality", run="muon")
    assert [row["strongest"] for row in rows] == [True, False, None]
    assert {(row["signal_rank"], row["feedback_r"], row["feedback_lag"]) for row in rows} == {(1, -0.6, -2.0)}


def test_signal_ranks_are_counted_by_optimizer(planted_db):
    rows = ask(planted_db, "signal_ranks", run="muon")
    assert [(row["optimizer"], row["rank"], row["n_windows"], row["n_runs_mode"]) for row in rows] == [
        ("Muon", 1, 2, 1),
        ("Muon", 2, 1, 0),
    ]
    assert [row["share"] for row in rows] == pytest.approx([2 / 3, 1 / 3])
    [mp] = ask(planted_db, "signal_ranks", run="muon", definition="signal_rank_mp")
    assert (mp["rank"], mp["share"]) == (3, 1.0)
