"""From checkpoints and a log to the trends of the spectra: through ingest, compute and the recipes."""

import json

import pytest
from small import walk, write_safetensors

N, N_LAYERS = 24, 5
SHAPES = {f"h.{layer}.attn.c_proj.weight": (24, 24) for layer in range(N_LAYERS)}


@pytest.fixture
def run(tmp_path):
    write_safetensors(tmp_path / "run", walk(N, shapes=SHAPES))
    log(tmp_path / "run", 2.0)
    return tmp_path / "run"


def log(run, slope):
    rows = [{"step": 10 * at, "val_loss": 5 - slope * at / N + (at * 7 % 11) / 10} for at in range(N)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_trends_dissociation_and_losses_follow_from_checkpoints_and_a_log(analysis, run):
    analysis.ingest(run)
    analysis.compute(windows=(5,), inference=False)
    scopes = [("role:output",), ("trunk",)]
    for table in ("depth_trends", "dissociations", "loss_correlations"):
        assert analysis.rows(f"SELECT DISTINCT scope FROM {table} ORDER BY ALL") == scopes
    metrics = "SELECT count(DISTINCT metric) FROM {} WHERE status NOT IN ('too_few', 'constant')"
    assert analysis.rows(metrics.format("depth_trends"))[0][0] == 10
    assert analysis.rows("SELECT DISTINCT n FROM loss_correlations WHERE kind = 'difference'") == [(N - 1,)]
    assert analysis.rows("SELECT count(*) FROM dissociations WHERE dissociated") == [(0,)]


def test_a_changed_log_brings_the_correlations_up_to_date_and_nothing_else_does(analysis, run):
    made_at = "SELECT finished FROM computations WHERE table_name = 'lifecycle'"
    analysis.ingest(run)
    analysis.compute(windows=(5,), inference=False)
    levels = analysis.rows("SELECT rho FROM loss_correlations WHERE kind = 'level' ORDER BY ALL")
    before = analysis.rows(made_at)
    analysis.compute(inference=False)
    assert analysis.rows(made_at) == before
    log(run, -3.0)
    analysis.ingest(run)
    analysis.compute(inference=False)
    assert analysis.rows(made_at) != before
    assert analysis.rows("SELECT rho FROM loss_correlations WHERE kind = 'level' ORDER BY ALL") != levels
