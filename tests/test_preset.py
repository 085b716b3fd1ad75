"""``--preset xu2026`` against the authors' recipe done naively on a trained history."""

import json
import shutil
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import xu2026_oracle as oracle
from safetensors.torch import save_file
from scipy.stats import t as student
from small import data_of, few_draws, run_here, walk, write_log, write_safetensors

from sedarchive.compute.couplings import couplings
from sedarchive.compute.couplings.coupling_inputs import read_inputs
from sedarchive.compute.inference import phase_rows
from sedarchive.demo.train import TrainSettings, train_run
from sedarchive.presets import PRESETS, XU2026, windows_asked
from sedarchive.recipes import find_recipes, run_recipe
from sedarchive.tables import Database

SETTINGS = TrainSettings(modulus=13, width=16, heads=2, mlp_width=32, steps=620, checkpoint_every=10)
PATTERNS = {"all": "", "trunk": oracle.TRUNK, "attention": oracle.ATTENTION}
SIZES = (10, 20)


def as_safetensors(folder, trained):
    folder.mkdir(parents=True)
    for path in trained.glob("step_*.pt"):
        save_file(torch.load(path, weights_only=True)["model"], folder / f"{path.stem}.safetensors")
    for name in ("metrics.jsonl", "config.json"):
        shutil.copy(trained / name, folder)
    return folder


def compute(root, *options):
    """The command, with few draws for the default analyses, which are tested elsewhere."""
    few_surrogates = mock.patch.object(couplings, "read_inputs", partial(read_inputs, draws=19))
    few_walks = mock.patch.object(phase_rows, "NULL_WALKS", (2, 2))
    with few_draws(), few_surrogates, few_walks:
        run_here("compute", "-q", "--no-spectra", *options, "--archive", root / "a.zarr", "--db", root / "a.duckdb")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained history, and the tables that the preset leaves of it."""
    root = tmp_path_factory.mktemp("preset")
    train_run(root / "trained", SETTINGS)
    folder = as_safetensors(root / "runs" / "one", root / "trained")
    run_here("ingest", folder, "-q", "--archive", root / "a.zarr")
    compute(root, "--preset", "xu2026")
    return root


@pytest.fixture(scope="module")
def tables(made):
    with Database.read(made / "a.duckdb") as db:
        yield db


@pytest.fixture(scope="module", params=[(scope, size) for scope in PATTERNS for size in SIZES], ids=str)
def case(request, made):
    """Scope, window size, and what the naive recipe gives for them."""
    scope, size = request.param
    steps, weights = oracle.read_history(made / "runs" / "one", PATTERNS[scope])
    assert len(steps) == 63
    return scope, size, oracle.edge(steps, weights, size)


def by_window(tables, column, scope, size):
    sql = f"SELECT {column} FROM window_sigmas WHERE scope = ? AND window_size = ? ORDER BY step, k"
    return np.array(tables.rows(sql, [scope, size]).column(column), dtype=float).reshape(-1, size)


def one_row(tables, sql, *values):
    [row] = tables.rows(sql, list(values)).dicts()
    return row


def test_singular_values_and_adjacent_overlaps_are_those_of_dense_svds(tables, case):
    scope, size, naive = case
    np.testing.assert_allclose(by_window(tables, "sigma", scope, size), naive.sigma, rtol=1e-9)
    overlaps = by_window(tables, "overlap_previous", scope, size)[1:]
    np.testing.assert_allclose(overlaps, naive.overlaps(), rtol=1e-9, atol=1e-9)


def test_the_fixed_k_and_the_phases_are_the_authors(tables, case):
    scope, size, naive = case
    ranks = "SELECT signal_rank FROM windows WHERE scope = ? AND window_size = ? ORDER BY step"
    assert tables.rows(ranks, [scope, size]).column("signal_rank") == naive.ranks
    first, last = oracle.plateau(naive.ratio)
    sql = (
        "SELECT k, step_from, step_to, peak_ratio FROM phases WHERE scope = ? AND window_size = ? AND is_modal "
        "AND method = 'peak' AND phase = ?"
    )
    row = one_row(tables, sql, scope, size, "plateau")
    assert (row["k"], row["step_from"], row["step_to"]) == (naive.k, naive.steps[first], naive.steps[last])
    assert row["peak_ratio"] == pytest.approx(naive.ratio.max(), rel=1e-9)
    rise, collapse = (one_row(tables, sql, scope, size, phase) for phase in ("rise", "collapse"))
    assert rise["step_to"] == (naive.steps[first] if first else None)
    assert collapse["step_from"] == (naive.steps[last] if last < len(naive.steps) - 1 else None)


@pytest.mark.parametrize("search", oracle.SEARCHES)
def test_every_lag_and_the_peak_are_the_authors(tables, made, case, search):
    scope, size, naive = case
    losses = oracle.read_losses(made / "runs" / "one")
    best, found = oracle.lag_peak(naive, losses, search)
    where = "WHERE preset = ? AND measure = ? AND scope = ? AND window_size = ?"
    values = [f"xu2026/{search}", "lag_xu", scope, size]
    rows = tables.rows(f"SELECT lag, r, feature FROM couplings {where} ORDER BY lag", values).rows
    assert [lag for lag, _, _ in rows] == list(found)
    assert {feature for _, _, feature in rows} == {f"ratio_{naive.k}"}
    np.testing.assert_allclose([r for _, r, _ in rows], list(found.values()), rtol=1e-9, atol=1e-9)
    peak = one_row(tables, f"SELECT * FROM couplings {where}", f"xu2026/{search}", "peak_xu", scope, size)
    assert (peak["lag"], peak["n"]) == (best, len(naive.steps) - abs(best))
    assert peak["r"] == pytest.approx(found[best], rel=1e-9)
    pairs, statistic = oracle.p_value(naive, losses, search, best)
    assert peak["n_eff_xu"] == pytest.approx(pairs, rel=1e-9)
    assert peak["p_xu"] == pytest.approx(2 * student.sf(abs(statistic), pairs - 2), rel=1e-8)


def test_lags_of_few_effective_pairs_have_no_interval(tables):
    few = "SELECT status, low, high, r FROM couplings WHERE measure = 'lag_xu' AND n_eff < 10"
    rows = tables.rows(few).rows
    assert rows
    assert {(status, low, high) for status, low, high, r in rows if r is not None} == {("few_effective", None, None)}


def test_a_flip_compares_with_the_smallest_window_size(tables):
    peaks = "SELECT window_size, lag, status FROM couplings WHERE measure = 'peak_xu' AND scope = 'all' AND preset = ?"
    flips = "SELECT * FROM couplings WHERE measure = 'flip_xu' AND scope = 'all' AND preset = ?"
    for search in oracle.SEARCHES:
        lags = {size: lag for size, lag, _ in tables.rows(peaks, [f"xu2026/{search}"]).rows}
        rows = tables.rows(flips, [f"xu2026/{search}"]).dicts()
        assert [(row["window_size"], row["other_window_size"]) for row in rows] == [(w, 10) for w in (15, 20, 25, 30)]
        for row in rows:
            assert (row["lag"], row["other_lag"]) == (lags[row["window_size"]], lags[10])
            assert row["status"] in ("ok", "no_flip", "border", "wrong_sign", "few_effective")
            assert (row["status"] == "ok") <= (row["lag"] * row["other_lag"] < 0)
            assert (row["p"] is not None) == (row["status"] == "ok")


def test_the_recipe_shows_all_of_it_in_one_table(tables):
    rows = run_recipe(tables.connection, find_recipes()["xu2026"], {"run": "one"}).dicts()
    assert [(row["scope"], row["window_size"]) for row in rows] == [
        (scope, size) for scope in ("all", "trunk", "attention") for size in XU2026.windows.value
    ]
    for row in rows:
        assert row["feature"] == f"ratio_{row['k']}"
        assert row["p_xu"] is not None
        assert row["plateau_from"] <= row["plateau_to"]
        assert (row["p"] is not None) == (row["status"] in ("ok", "irregular"))
        assert row["p"] is None or row["p"] >= row["p_lags"] > 0


def test_the_tables_say_what_is_the_presets_and_where_each_choice_is_from(tables):
    rows = tables.rows("SELECT * FROM presets").dicts()
    assert {row["preset"] for row in rows} == {"xu2026"}
    chosen = {row["choice"]: row["value"] for row in rows}
    assert chosen["windows"] == "10; 15; 20; 25; 30"
    assert "most negative r" in chosen["searches"]
    assert all(row["source"] and row["evidence"] in ("code", "text", "ours") for row in rows)
    marked = dict(tables.rows("SELECT measure, bool_and(preset IS NOT NULL) FROM couplings GROUP BY ALL").rows)
    assert {measure for measure, is_marked in marked.items() if is_marked} == {"peak_xu", "lag_xu", "flip_xu"}
    assert not tables.rows("SELECT 1 FROM couplings WHERE preset IS NOT NULL AND measure NOT LIKE '%_xu'").rows


def test_a_preset_stays_asked_for_and_is_not_computed_again(made, tmp_path):
    shutil.copytree(made / "a.zarr", tmp_path / "a.zarr")
    shutil.copy(made / "a.duckdb", tmp_path)

    def state():
        with Database.read(tmp_path / "a.duckdb") as db:
            made_at = db.rows("SELECT scope, key, finished FROM computations WHERE table_name = 'edge_couplings'").rows
            return sorted(made_at), db.rows("SELECT * FROM couplings WHERE preset IS NOT NULL ORDER BY ALL").rows

    before = state()
    assert before[0]
    compute(tmp_path)
    assert state() == before


def test_without_a_preset_nothing_of_it_is_there(tmp_path):
    folder = tmp_path / "runs"
    write_safetensors(folder, walk(14))
    write_log(folder, [10 * at for at in range(14)])
    run_here("ingest", folder, "-q", "--archive", tmp_path / "a.zarr")
    compute(tmp_path)
    with Database.read(tmp_path / "a.duckdb") as db:
        assert not db.rows("SELECT 1 FROM couplings WHERE preset IS NOT NULL").rows
        assert not db.rows("SELECT 1 FROM presets").rows


def test_a_run_without_a_loss_says_so(tmp_path):
    folder = tmp_path / "runs"
    write_safetensors(folder, walk(14))
    run_here("ingest", folder, "-q", "--archive", tmp_path / "a.zarr")
    compute(tmp_path, "--preset", "xu2026")
    with Database.read(tmp_path / "a.duckdb") as db:
        rows = db.rows("SELECT scope, window_size, status FROM couplings WHERE measure = 'peak_xu'").rows
    assert set(rows) == {(scope, 10, "no_target") for scope in PATTERNS}


def test_an_unknown_preset_is_refused_by_name(tmp_path):
    said = run_here("compute", "--preset", "xu2025", "--archive", tmp_path / "a.zarr", code=2).stderr
    assert "xu2026" in said


def test_a_presets_windows_join_those_asked_for():
    assert windows_asked([7, 10], ["xu2026"]) == (7, 10, 15, 20, 25, 30)
    assert windows_asked([7], []) == (7,)
    assert set(PRESETS) == {"xu2026"}


def test_json_lists_the_recipe(made):
    rows = data_of(run_here("query", "xu2026", "-p", "search=thesis", "--json", "--db", made / "a.duckdb"))
    assert len(json.dumps(rows)) > 100
    assert len(rows) == 15
