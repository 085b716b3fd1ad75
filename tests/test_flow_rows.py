"""Fits of windows in the tables: they follow their null and the logs, and leave other fits alone."""

import json
from functools import cache

import numpy as np
import pytest
from small import walk, write_safetensors

from sedarchive.compute.inference.flow_rows import (
    GapWindows,
    feedback_rows,
    flow_rows,
    maximality_rows,
    stability_rows,
    time_rows,
)
from sedarchive.compute.row_columns import columns_of
from sedarchive.explain import explain
from sedarchive.inference.gapflow import RandomHistory
from sedarchive.tables import Database

N = 30
SHAPES = {"a.weight": (6, 6), "b.weight": (6,)}
"""Of no layer and no role, so that there is one scope."""
FITS = "SELECT * EXCLUDE (run) FROM fits WHERE scope = 'all' AND window_size = 10 ORDER BY fit, parameter, k"


@pytest.fixture
def run(tmp_path):
    write_safetensors(tmp_path / "run", walk(N, shapes=SHAPES))
    return tmp_path / "run"


def write_rates(run, lr, **more):
    rows = [{"step": 10 * at, "lr": lr, **more} for at in range(N)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def without_missing(rows):
    return [[None if value != value else value for value in row] for row in rows]


def test_a_size_that_gets_its_null_later_has_the_fits_of_one_that_had_it_at_once(analysis, run):
    analysis.ingest(run)
    analysis.compute(windows=(5,), spectra=False)
    sql = "SELECT DISTINCT status FROM fits WHERE window_size = 10 AND fit = 'gap_flow' AND null_low IS NOT NULL"
    assert analysis.rows(sql) == []
    analysis.compute(windows=(10,), spectra=False)
    later = analysis.rows(FITS)
    assert sum(row[later_at("null_low")] is not None for row in later) == 2
    analysis.database.unlink()
    analysis.compute(windows=(5, 10), spectra=False)
    assert without_missing(analysis.rows(FITS)) == without_missing(later)
    unit = "SELECT DISTINCT edge_ratio_unit_null < edge_ratio_unit_null_high FROM windows WHERE window_size = 10"
    assert analysis.rows(unit) == [(True,)]


@cache
def later_at(name):
    with Database.in_memory() as tables:
        columns = [column for table, column, *_ in tables.describe().rows if table == "fits" and column != "run"]
    return columns.index(name)


def test_rates_that_are_logged_later_reach_the_windows(analysis, run):
    analysis.ingest(run)
    analysis.compute(windows=(5,), spectra=False)
    counts = "SELECT count(lr), count(adiabatic_interval) FROM windows WHERE scope = 'all' AND window_size = 5"
    shares = "SELECT count(gradient_share) FROM window_sigmas WHERE scope = 'all' AND window_size = 5"
    assert analysis.rows(counts) == [(0, 0)]
    write_rates(run, 0.01)
    analysis.ingest(run)
    analysis.compute(spectra=False)
    [(n_lr, n_adiabatic)] = analysis.rows(counts)
    assert n_lr == N - 5
    assert 0 < n_adiabatic <= n_lr
    assert analysis.rows(shares) == [(0,)]
    (run / "args.json").write_text(json.dumps({"weight_decay": 0.1}))
    analysis.ingest(run)
    analysis.compute(spectra=False)
    assert analysis.rows(shares) == [(5 * (N - 5),)]
    [again] = analysis.compute(spectra=False)
    assert again.window_sets == 0


def test_fits_of_others_stay_when_those_of_windows_are_made_again(analysis, run):
    analysis.ingest(run)
    analysis.compute(windows=(5,), spectra=False)
    with Database.create_or_open(analysis.database, analysis_id(analysis)) as database:
        database.insert("fits", {"run": "run", "fit": ["lead_time"], "estimate": [1.18]})
    write_rates(run, 0.01)
    analysis.ingest(run)
    analysis.compute(spectra=False)
    assert analysis.rows("SELECT estimate FROM fits WHERE fit = 'lead_time'") == [(1.18,)]
    sql = "SELECT count(*) FROM fits WHERE fit = 'gap_flow' AND scope = 'all' AND window_size = 5"
    assert analysis.rows(sql) == [(2,)]


def analysis_id(analysis):
    with Database.read(analysis.database) as database:
        return database.archive_id


def planted(n=80, size=6, seed=0):
    """Windows whose second ratio falls when the loss rises, and what else they need."""
    rng = np.random.default_rng(seed)
    steps = 10 * np.arange(n)
    sigma = np.sort(rng.uniform(1, 2, (n, size)), axis=1)[:, ::-1].copy()
    loss = 3 + np.cumsum(rng.standard_normal(n)) * 0.1
    sigma[:, :2] = sigma[:, 2:3] * np.exp(0.5 - (loss - loss.mean()))[:, None] * [1.3, 1.0]
    return GapWindows(steps, sigma, np.where(np.arange(n) % 3 == 0, 1.0, 2.0)), loss


def test_the_gap_followed_is_that_of_the_most_frequent_signal_rank():
    windows, _ = planted()
    assert windows.k == 2
    assert GapWindows(windows.step, windows.sigma, np.full(80, np.nan)).k == 1


def test_the_ratio_whose_collapse_goes_with_the_loss_is_found():
    windows, loss = planted()
    rows = maximality_rows(windows, loss)
    assert max(rows, key=lambda row: abs(row["estimate"]))["k"] == 2
    assert rows[1]["estimate"] > 0.8
    assert rows[1]["p"] < 0.05
    assert {row["status"] for row in maximality_rows(windows, np.full(80, np.nan))} == {"too_few"}


def test_the_ratio_whose_collapse_goes_with_its_directions_turning_is_found():
    windows, _ = planted()
    rng = np.random.default_rng(1)
    stability = rng.uniform(0, 1, (80, 6))
    stability[:, 1] = 0.5 * windows.sigma[:, 1] / windows.sigma[:, 2]
    stability[0] = np.nan  # the first window has none before it
    rows = stability_rows(windows, stability)
    assert [row["k"] for row in rows] == [1, 2, 3, 4, 5]
    assert {row["fit"] for row in rows} == {"gap_maximality_stability"}
    assert rows[1]["estimate"] == pytest.approx(1.0)
    assert max(abs(row["estimate"]) for row in rows if row["k"] != 2) < 0.5
    assert rows[1]["p"] < 0.05 < min(row["p"] for row in rows if row["k"] != 2)
    assert {row["n"] for row in rows} == {78}


def test_each_position_is_compared_with_its_own_direction():
    windows, _ = planted()
    ratio = windows.sigma[:, :-1] / windows.sigma[:, 1:]
    stability = np.concatenate([np.roll(ratio, 1, axis=1), ratio[:, :1]], axis=1)
    rows = stability_rows(windows, stability)
    time = np.arange(79)
    for row in rows:
        pair = [np.diff(ratio[:, row["k"] - 1]), np.diff(stability[:, row["k"] - 1])]
        left = [one - np.polyval(np.polyfit(time, one, 1), time) for one in pair]
        assert row["estimate"] == pytest.approx(np.corrcoef(left)[0, 1])


def test_a_gap_that_leads_its_stability_is_found_at_its_lag():
    windows, _ = planted()
    gap = windows.sigma[:, 1] - windows.sigma[:, 2]
    stability = np.tile(np.roll(gap, 3)[:, None], (1, 6))
    peak, lag = feedback_rows(windows, stability)
    assert (peak["parameter"], lag["parameter"], lag["estimate"]) == ("peak_r", "peak_lag", 3)
    assert peak["estimate"] > 0.95


def test_correlations_that_are_searched_for_have_a_p_and_no_interval_and_explain_says_so():
    windows, loss = planted()
    stability = np.random.default_rng(2).uniform(0, 1, (80, 6))
    rows = [*maximality_rows(windows, loss), *stability_rows(windows, stability), *feedback_rows(windows, stability)]
    searched = {row["fit"] for row in rows if row.get("p") is not None and not {"low", "high"} & row.keys()}
    assert searched == {row["fit"] for row in rows}
    told = {column: explain(f"fits.{column}", 100).text for column in ("low", "high")}
    assert [(name, column) for name in searched for column in told if name not in told[column]] == []


@pytest.mark.parametrize("n", [1, 2, 5, 15])
def test_short_histories_have_rows_that_say_so(n):
    sigma = np.tile([3.0, 2.0, 1.0], (n, 1))
    windows = GapWindows(np.arange(n), sigma, np.ones(n))
    rows = feedback_rows(windows, np.ones((n, 3))) + maximality_rows(windows, np.ones(n)) + time_rows(windows)
    assert {row["status"] for row in rows[:4]} == {"too_few"}
    assert len(columns_of(rows)["estimate"]) == len(rows)


def test_of_a_long_run_evenly_spaced_windows_are_fitted():
    rng = np.random.default_rng(0)
    sigma = np.sort(rng.uniform(1, 2, (397, 4)), axis=1)[:, ::-1]
    windows = GapWindows(10 * np.arange(397), sigma, np.ones(397))
    history = RandomHistory(np.ones(400), 100.0)
    rows = flow_rows(windows, history, with_null=True)
    assert {row["n"] for row in rows if row["fit"] == "gap_flow"} == {100 - 1}
    forward = next(row for row in rows if row["fit"] == "gap_flow" and row["parameter"] == "damping")
    gap = sigma[::4, 0] - sigma[::4, 1]
    slope, _ = np.polyfit(gap[:-1], np.diff(gap) / 40, 1)
    assert forward["estimate"] == pytest.approx(-slope)
    assert forward["null_low"] < forward["null_high"]
