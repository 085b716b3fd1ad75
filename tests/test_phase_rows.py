"""Phases, events and lead-time fits in the tables: planted windows and logs in, rows out."""

import numpy as np
import pytest

from sedarchive.compute.inference.lead_rows import refresh_lead_laws
from sedarchive.compute.inference.phases import keyed_phases, phase_stages, wanted_phases
from sedarchive.compute.stages import run_stages
from sedarchive.compute.turns import Turns
from sedarchive.executor import Executor
from sedarchive.inference.eventstudy import find_collapse
from sedarchive.inference.leads import lead_law
from sedarchive.inference.phases import find_phases
from sedarchive.processes import RowMaker

SIZE, SPACING, N_CHECKPOINTS = 5, 100, 91
N_WINDOWS = N_CHECKPOINTS - SIZE


@pytest.fixture
def path(tmp_path):
    return tmp_path / "archive.duckdb"


@pytest.fixture
def turns(path):
    with Turns(path, "planted") as turns:
        yield turns


def ratio_of_windows(peak_at=40):
    i = np.arange(N_WINDOWS)
    return 1.02 + np.exp(-((i - peak_at) ** 2) / 200)


def edge_of_windows(jump_at=50):
    updates = np.where(np.arange(N_CHECKPOINTS - 1) >= jump_at, 0.5, 0.0)
    noise = 0.01 * np.random.default_rng(0).standard_normal(N_CHECKPOINTS - 1)
    return np.exp(0.3 + np.lib.stride_tricks.sliding_window_view(updates + noise, SIZE).mean(axis=-1))


def plant(database, run="one", key="k1", rank=2, loss="val_loss", grok_at=6000, p_eff=200.0):
    steps = np.arange(N_CHECKPOINTS) * SPACING
    database.replace("checkpoints", {"run": run}, {"step": steps, "checkpoint_index": np.arange(N_CHECKPOINTS)})
    last = np.arange(N_WINDOWS) + SIZE
    norms = {"step": steps[1:], "norm": 1.0, "status": "ok"}
    database.replace("updates", {"run": run, "scope": "all"}, norms)
    where = {"run": run, "scope": "all", "window_size": SIZE}
    edge = {
        "step": steps[last],
        "step_first": steps[last - SIZE],
        "edge_ratio": edge_of_windows(),
        "edge_ratio_null": 1.2,
        "signal_rank": rank,
        "p_eff": p_eff,
    }
    database.replace("windows", where, edge)
    ratio = np.full((N_WINDOWS, SIZE), 1.1)
    ratio[:, 1], ratio[:, -1] = ratio_of_windows(), np.nan
    sigmas = {"step": np.repeat(steps[last], SIZE), "k": np.tile(np.arange(1, SIZE + 1), N_WINDOWS)}
    database.replace("window_sigmas", where, {**sigmas, "ratio": ratio.ravel()})
    database.replace("computations", {**where, "table_name": "windows"}, {"key": [key]})
    values = 3 * np.exp(-steps / 2000)
    accuracy = np.where(steps >= grok_at, 0.99, 0.1)
    for name, series in ((loss, values), ("val_acc", accuracy)):
        database.replace("metrics", {"run": run, "name": name}, {"step": steps, "value": series, "source": "log.csv"})


def refreshed(turns, run="one", sizes=(SIZE,)):
    """Bring phases and events up to date; return how many pairs of scope and size were not."""
    outstanding = keyed_phases(run).outstanding(turns.database, wanted_phases(turns.database, run, sizes))
    run_stages(phase_stages(run, sizes, turns), RowMaker(Executor(), 0), turns)
    return len(outstanding.keys)


def ask(turns, sql, *parameters):
    with turns.last() as database:
        return database.rows(sql, parameters).dicts()


def test_the_phases_in_the_table_are_those_of_the_series(turns):
    with turns.last() as database:
        plant(database)
    assert refreshed(turns) == 2
    rows = ask(turns, "FROM phases WHERE is_modal ORDER BY method, step_from")
    assert {row["k"] for row in rows} == {2}
    ends = (np.arange(N_WINDOWS) + SIZE) * SPACING
    for method in ("derivative", "peak", "threshold"):
        expected = find_phases(ratio_of_windows(), method)
        found = {row["phase"]: (row["step_from"], row["step_to"]) for row in rows if row["method"] == method}
        assert found == {name: (ends[span[0]], ends[span[1]]) for name, span in expected.spans().items()}
    assert all(0 <= row["null_share"] <= 1 and row["null_walks"] == 49 for row in rows)
    assert all(1 < row["null_peak_ratio"] < row["peak_ratio"] for row in rows)
    assert {row["peak_ratio"] for row in rows} == {ratio_of_windows().max()}
    flat = ask(turns, "FROM phases WHERE k = 1")
    assert {(row["status"], row["is_modal"]) for row in flat} == {("no_pattern", False)}
    assert {row["k"] for row in ask(turns, "FROM phases")} == {1, 2, 3, 4}


def test_walks_that_agree_on_every_pattern_are_enough_when_they_are_nine(turns):
    with turns.last() as database:
        plant(database, p_eff=1e9)
    refreshed(turns)
    rows = ask(turns, "FROM phases")
    assert {row["null_walks"] for row in rows} == {9}
    assert {row["null_share"] for row in rows} <= {0.0, 1.0}


def test_collapses_and_settled_losses_are_dated(turns):
    with turns.last() as database:
        plant(database)
    refreshed(turns)
    ends = (np.arange(N_WINDOWS) + SIZE) * SPACING
    [row] = ask(turns, "FROM events WHERE event = 'collapse' AND k = 2 AND method = 'tau=1.20' AND causal")
    at = find_collapse(ratio_of_windows(), 1.2, causal=True).index
    assert (row["step"], row["low"], row["high"]) == (ends[at], ends[at] - SIZE * SPACING, ends[at])
    assert row["feature"] == "sigma_2/sigma_3"
    settled = ask(turns, "FROM events WHERE event = 'stabilisation' AND k = 2")
    assert all(row["step"] > 4000 and row["feature"] == "val_loss" for row in settled)
    any_time = ask(turns, "FROM events WHERE event = 'stabilisation' AND k IS NULL")
    assert [row["method"] for row in any_time] == ["any time"] * 2
    assert all(2000 < row["step"] < 4000 for row in any_time)
    assert {row["status"] for row in ask(turns, "FROM events WHERE k = 1")} == {"no_pattern"}


def test_a_planted_jump_of_the_edge_is_dated_in_steps(turns):
    with turns.last() as database:
        plant(database)
    refreshed(turns)
    rows = ask(turns, "FROM events WHERE event = 'shift' ORDER BY feature")
    assert [row["feature"] for row in rows] == ["edge_ratio", "edge_ratio / edge_ratio_null"]
    for row in rows:
        assert abs(row["step"] - 5100) <= SPACING
        assert row["low"] <= 5100 <= row["high"]
        assert row["p"] < 0.001
        assert row["change"] == pytest.approx(0.5, abs=0.02)


def test_grokking_is_dated_by_two_rules(turns):
    with turns.last() as database:
        plant(database)
    refreshed(turns)
    rows = ask(turns, "FROM events WHERE event = 'grok' ORDER BY method")
    assert [(row["method"], row["step"], row["low"], row["causal"]) for row in rows] == [
        ("3 x >= 0.98", 6000, 5900, False),
        ("first >= 0.95", 6000, 5900, True),
    ]
    assert all(row["scope"] is None for row in rows)


def test_a_run_without_logs_or_rank_says_so(turns):
    with turns.last() as database:
        plant(database, rank=None, loss="throughput", grok_at=10**9)
        database.replace("metrics", {"run": "one", "name": "val_acc"}, {})
    refreshed(turns)
    assert not ask(turns, "FROM phases WHERE is_modal")
    assert {row["status"] for row in ask(turns, "FROM events WHERE event IN ('stabilisation', 'grok')")} == {
        "no_target"
    }


def test_nothing_is_derived_twice_and_what_changes_is_derived_again(turns):
    with turns.last() as database:
        plant(database)
    refreshed(turns)
    before = ask(turns, "FROM events ORDER BY ALL")
    assert refreshed(turns) == 0
    with turns.last() as database:
        plant(database, key="k2")
    assert refreshed(turns) == 1
    assert ask(turns, "FROM events ORDER BY ALL") == before
    with turns.last() as database:
        plant(database, key="k2", loss="train_loss")
        database.replace("metrics", {"run": "one", "name": "val_loss"}, {})
    assert refreshed(turns) == 2
    assert {row["feature"] for row in ask(turns, "FROM events WHERE event = 'stabilisation'")} == {"train_loss"}
    assert len(ask(turns, "FROM events")) == len(before)


def test_windows_that_are_wanted_no_more_take_their_rows_with_them(turns):
    with turns.last() as database:
        plant(database)
    refreshed(turns)
    refreshed(turns, sizes=())
    assert not ask(turns, "FROM phases")
    assert {row["event"] for row in ask(turns, "FROM events")} == {"grok"}
    assert len(ask(turns, "FROM computations WHERE table_name = 'phases'")) == 1


def test_no_value_is_nan(turns):
    with turns.last() as database:
        plant(database)
        sql = "UPDATE window_sigmas SET ratio = NULL WHERE k = 2"
        database.connection.execute(sql)
        database.connection.execute("UPDATE windows SET edge_ratio = NULL")
    refreshed(turns)
    for table in ("phases", "events"):
        rows = ask(turns, f"FROM {table}")
        assert rows
        assert not any(isinstance(value, float) and np.isnan(value) for row in rows for value in row.values())
    assert {row["status"] for row in ask(turns, "FROM phases WHERE k = 2")} == {"too_few"}
    assert {row["status"] for row in ask(turns, "FROM events WHERE event = 'shift'")} == {"few_effective"}


def test_the_law_of_lead_times_is_fitted_over_runs_once(turns):
    groks = [7000, 7500, 8000, 8600]
    with turns.last() as database:
        for at, grok in enumerate(groks):
            plant(database, run=f"run{at}", key=f"k{at}", grok_at=grok)
    for at in range(len(groks)):
        refreshed(turns, f"run{at}")
    refresh_lead_laws(turns.database)
    rows = {row["parameter"]: row for row in ask(turns, "FROM fits")}
    [onset] = {
        row["step"]
        for row in ask(turns, "FROM events WHERE event = 'collapse' AND k = 2 AND causal AND method = 'tau=1.20'")
    }
    law = lead_law(np.array(groks, dtype=float), np.full(4, float(onset)))
    assert rows["exponent"]["estimate"] == pytest.approx(law.lead.slope)
    assert (rows["exponent"]["n"], rows["exponent"]["status"], rows["exponent"]["window_size"]) == (4, "few", SIZE)
    assert rows["onset_exponent"]["status"] == "constant"
    assert rows["onset_exponent"]["r2"] is None
    assert rows["p_null"]["estimate"] == 1
    made = ask(turns, "SELECT finished FROM computations WHERE table_name = 'fits'")
    refresh_lead_laws(turns.database)
    assert ask(turns, "SELECT finished FROM computations WHERE table_name = 'fits'") == made
    with turns.last() as database:
        database.replace("events", {"run": "run0"}, {})
    refresh_lead_laws(turns.database)
    assert {row["n"] for row in ask(turns, "FROM fits")} == {3}


def test_an_archive_without_grokking_has_no_fit_and_no_record_of_one(turns):
    refresh_lead_laws(turns.database)
    assert not ask(turns, "FROM fits")
    assert not ask(turns, "FROM computations")
