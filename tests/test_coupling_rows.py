"""The table of couplings: what stands in it, when it is made anew, and what the learning rate alone does to it."""

from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from series import autoregressive, cosine_rate
from small import walk, write_torch

from sedarchive.compute.couplings import couplings
from sedarchive.compute.couplings.coupling_features import FEATURES
from sedarchive.compute.couplings.coupling_inputs import read_inputs
from sedarchive.compute.couplings.couplings import coupling_stages, keyed_couplings, wanted_couplings
from sedarchive.compute.stages import run_stages
from sedarchive.executor import Executor
from sedarchive.processes import RowMaker
from sedarchive.tables import Database

T, SPACING = 90, 50
STEPS = [at * SPACING for at in range(T)]
DRAWS = 99


def plant(db, run="one", scopes=("all",), sizes=(10, 20), lr_driven=False, logged=True, seed=0):
    """Windows whose edge ratio leads the loss by two checkpoints, or whose speed and loss follow the learning rate."""
    generator = np.random.default_rng(seed)
    hidden = autoregressive(generator, T + 10, 0.5)[0]
    lr = cosine_rate(T)
    loss = 3 - hidden[:T] + (5 * lr if lr_driven else 0)
    db.replace("checkpoints", {"run": run}, {"step": STEPS})
    names = ["val_loss" if logged else "train_acc"] * T + ["lr"] * T
    log = {"name": names, "step": STEPS * 2, "value": np.concatenate([loss, lr]), "source": "log"}
    db.replace("metrics", {"run": run}, log)
    for scope in scopes:
        for size in sizes:
            n = T - size
            noise = generator.standard_normal((3, n))
            mean_lr = np.convolve((lr[1:] + lr[:-1]) / 2, np.full(size, 1 / size), "valid")
            columns = {
                "step": STEPS[size:],
                "edge_ratio": 1.5 + 0.1 * hidden[size + 2 : T + 2],
                "gap": np.where(np.arange(n) % 9 == 4, np.nan, noise[0]),
                "drift_speed": 2 * mean_lr + 0.02 * noise[1],
                "pc1_share": noise[2],
                "k95": np.arange(n) % 4 + 3,
                "irregular": False,
                "status": "ok",
            }
            where = {"run": run, "scope": scope, "window_size": size}
            db.replace("windows", where, columns)
            k = np.tile([1, 2, 3, 4, 5], n)
            ratios = {"step": np.repeat(STEPS[size:], 5), "k": k, "ratio": 1 + generator.random(5 * n)}
            db.replace("window_sigmas", where, ratios)
            db.replace("computations", {**where, "table_name": "windows"}, {"key": [f"{scope} {size} {seed}"]})


@pytest.fixture
def tables():
    with Database.in_memory() as db:
        yield db


@pytest.fixture(scope="module")
def made():
    """Couplings of a planted lead at two window sizes; to be read only."""
    with Database.in_memory() as db:
        plant(db)
        assert refresh(db) == 1
        yield db


def refresh(db, run="one", sizes=(10, 20), draws=DRAWS):
    """Bring the couplings up to date; return how many scopes were not."""
    turns = SimpleNamespace(database=db, end=lambda: None)
    outstanding = keyed_couplings(run).outstanding(db, wanted_couplings(db, run, sizes))
    with mock.patch.object(couplings, "read_inputs", partial(read_inputs, draws=draws)):
        run_stages(coupling_stages(run, STEPS, sizes, turns), RowMaker(Executor(), 0), turns)
    return len(outstanding.keys)


def rows(db, where):
    return db.rows(f"SELECT * FROM couplings WHERE {where} ORDER BY ALL").dicts()


def test_every_feature_has_its_peaks_lags_flips_and_tests(made):
    counts = dict(made.rows("SELECT measure, count(*) FROM couplings GROUP BY measure").rows)
    n, variants, sizes = len(FEATURES), 10, 2
    assert counts == {
        "peak": n * variants * sizes * 2,
        "flip": n * variants * 2,
        "lag": n * 6 * sizes * 31,
        "sliding": n * sizes * 4,
        "granger": n * sizes,
        "multiple_r2": sizes,
    }
    keys = "scope, window_size, feature, target, stamp, detrend, kind, phase, measure, peak_rule, width, lag"
    doubled = f"SELECT count(*) FROM couplings WHERE measure <> 'peak' GROUP BY {keys} HAVING count(*) > 1"
    assert made.rows(doubled).rows == []


def test_a_planted_lead_is_found_at_both_window_sizes(made):
    found = rows(made, "measure = 'peak' AND feature = 'edge_ratio' AND stamp = 'end' AND peak_rule = 'abs'")
    assert len(found) == 10
    for row in found:
        assert (row["lag"], row["status"]) == (2, "ok")
        assert row["r"] < -0.9
        assert row["p"] == row["p_lags"] == 1 / (1 + DRAWS)
    [test] = rows(made, "measure = 'granger' AND feature = 'edge_ratio' AND window_size = 10")
    assert test["p"] == 1 / (1 + DRAWS)
    noise = rows(made, "measure = 'peak' AND feature = 'pc1_share' AND kind = 'plain' AND peak_rule = 'abs'")
    assert all(row["p"] >= row["p_lags"] for row in noise if row["p"] is not None)
    assert any(row["p"] is not None and row["p"] > 0.1 for row in noise)


def test_the_p_value_of_a_flip_is_that_of_the_strongest_of_all_searched(made):
    """Noise flips in some feature more often than in one that was fixed beforehand."""
    found = rows(made, "measure = 'flip' AND p IS NOT NULL")
    assert len(found) > 10
    assert all(row["p"] >= row["p_lags"] for row in found)
    weakest = [row for row in found if row["p_lags"] > 0.1]
    assert sum(row["p"] > row["p_lags"] for row in weakest) > 0.9 * len(weakest) > 0


def test_unequal_spacing_is_said_of_every_measure(tables):
    plant(tables, sizes=(10,))
    tables.connection.execute("UPDATE windows SET irregular = true WHERE step = 900")
    refresh(tables, sizes=(10,))
    found = rows(tables, "status IN ('ok', 'irregular')")
    assert {row["status"] for row in found} == {"irregular"}
    assert {row["measure"] for row in found} == {"peak", "lag", "sliding", "granger", "multiple_r2"}


def test_a_feature_with_gaps_is_compared_where_it_has_values(made):
    [row] = rows(
        made,
        "measure = 'lag' AND feature = 'gap' AND lag = 0 AND stamp = 'end' AND detrend = 'none' AND window_size = 10",
    )
    assert row["n"] == sum(at % 9 != 4 for at in range(T - 10))
    [test] = rows(made, "measure = 'granger' AND feature = 'gap' AND window_size = 10")
    assert (test["p"], test["status"]) == (None, "gaps_or_too_few")


def test_what_the_learning_rate_drives_in_both_is_gone_when_it_is_taken_out(tables):
    plant(tables, sizes=(10,), lr_driven=True)
    refresh(tables, sizes=(10,))
    where = "measure = 'peak' AND feature = 'drift_speed' AND stamp = 'end' AND peak_rule = 'abs' AND window_size = 10"
    [plain] = rows(tables, f"{where} AND kind = 'plain' AND detrend = 'none'")
    [partial_lr] = rows(tables, f"{where} AND kind = 'partial_lr'")
    assert abs(plain["r"]) > 0.8
    assert abs(partial_lr["r"]) < 0.5
    assert partial_lr["p_lags"] > 0.05


def test_no_number_is_nan_and_every_status_says_why_a_p_value_is_missing(made):
    columns = "SELECT column_name FROM duckdb_columns() WHERE table_name = 'couplings' AND data_type = 'DOUBLE'"
    numbers = [name for (name,) in made.rows(columns).rows]
    assert len(numbers) > 10
    for name in numbers:
        assert made.rows(f"SELECT count(*) FROM couplings WHERE isnan({name}) OR isinf({name})").rows == [(0,)]
    missing = "SELECT DISTINCT status FROM couplings WHERE p IS NULL"
    assert not {"ok", "irregular"} & {status for (status,) in made.rows(missing).rows}
    assert made.rows("SELECT count(*) FROM couplings WHERE status IS NULL").rows == [(0,)]


def test_nothing_new_derives_nothing(tables):
    plant(tables, sizes=(10,))
    assert refresh(tables, sizes=(10,)) == 1
    before = tables.rows("SELECT * FROM computations WHERE table_name = 'couplings'").rows
    assert refresh(tables, sizes=(10,)) == 0
    assert tables.rows("SELECT * FROM computations WHERE table_name = 'couplings'").rows == before


def test_a_new_scope_leaves_the_others_as_they_stand(tables):
    plant(tables, sizes=(10,))
    refresh(tables, sizes=(10,))
    before = rows(tables, "scope = 'all'")
    plant(tables, sizes=(10,), scopes=("all", "trunk"))
    assert refresh(tables, sizes=(10,)) == 1
    assert rows(tables, "scope = 'all'") == before
    assert tables.rows("SELECT DISTINCT scope FROM couplings ORDER BY ALL").rows == [("all",), ("trunk",)]


@pytest.mark.parametrize("change", ["another log value", "other windows"])
def test_what_is_stale_is_made_anew(tables, change):
    plant(tables, sizes=(10,))
    refresh(tables, sizes=(10,))
    before = rows(tables, "measure = 'lag'")
    if change == "other windows":
        plant(tables, sizes=(10,), seed=1)
    else:
        tables.connection.execute("UPDATE metrics SET value = 9 WHERE step = 2000 AND name = 'val_loss'")
    assert refresh(tables, sizes=(10,)) == 1
    after = rows(tables, "measure = 'lag'")
    assert len(after) == len(before)
    assert after != before


def test_a_size_or_scope_no_longer_there_takes_its_rows_along(tables):
    plant(tables, scopes=("all", "trunk"))
    refresh(tables)
    assert refresh(tables, sizes=(10,)) == 2
    assert tables.rows("SELECT DISTINCT window_size FROM couplings").rows == [(10,)]
    tables.replace("computations", {"run": "one", "table_name": "windows", "scope": "trunk", "window_size": 10}, {})
    assert refresh(tables, sizes=(10,)) == 0
    assert tables.rows("SELECT DISTINCT scope FROM couplings").rows == [("all",)]


def test_a_run_without_a_loss_says_so(tables):
    plant(tables, sizes=(10,), logged=False)
    refresh(tables, sizes=(10,))
    found = rows(tables, "true")
    assert [(row["window_size"], row["target"], row["n"], row["status"]) for row in found] == [
        (10, "val_loss", 0, "no_target"),
    ]


def test_the_training_loss_serves_where_no_validation_loss_is_logged(tables):
    plant(tables, sizes=(10,))
    tables.connection.execute("UPDATE metrics SET name = 'train_loss' WHERE name = 'val_loss'")
    refresh(tables, sizes=(10,))
    found = "SELECT DISTINCT target FROM couplings WHERE status <> 'no_target'"
    assert tables.rows(found).rows == [("train_loss",)]
    assert {row["target"] for row in rows(tables, "status = 'no_target'")} == {"val_loss"}


def test_a_log_of_a_single_step_has_too_few_pairs(tables):
    plant(tables, sizes=(10,))
    tables.connection.execute("DELETE FROM metrics WHERE name = 'val_loss' AND step <> 1500")
    refresh(tables, sizes=(10,))
    statuses = "SELECT DISTINCT status FROM couplings WHERE measure IN ('peak', 'lag', 'flip')"
    assert tables.rows(statuses).rows == [("too_few",)]


def test_compute_writes_couplings_once(analysis, tmp_path):
    write_torch(tmp_path / "runs" / "walk", walk(26, shapes={"blocks.0.mlp.up_proj.weight": (8, 8)}))
    log = "\n".join(f'{{"step": {10 * at}, "val_loss": {2 + (at * 7 % 11) / 10}}}' for at in range(26))
    (tmp_path / "runs" / "walk" / "metrics.jsonl").write_text(log)
    analysis.ingest(tmp_path / "runs")
    analysis.compute(windows=(5,), scopes=("all",), spectra=False)
    [(n_rows, sizes)] = analysis.rows("SELECT count(*), list(DISTINCT window_size ORDER BY window_size) FROM couplings")
    assert n_rows > 100
    assert 5 in sizes
    stamp = analysis.rows("SELECT started FROM computations WHERE table_name = 'couplings'")
    analysis.compute(spectra=False)
    assert analysis.rows("SELECT started FROM computations WHERE table_name = 'couplings'") == stamp
