"""Recipes of what a window says of itself, on the tables of a small random walk."""

import json

import numpy as np
import pytest
from small import walk, write_safetensors

from sedarchive.recipes import find_recipes, run_recipe
from sedarchive.tables import Database

N, SIZE = 30, 10


@pytest.fixture
def tables(analysis, tmp_path):
    write_safetensors(tmp_path / "run", walk(N, shapes={"h.0.attn.c_proj.weight": (8, 8)}))
    losses = 3 + np.random.default_rng(1).standard_normal(N)
    rows = [{"step": 10 * at, "val_loss": loss} for at, loss in enumerate(losses.tolist())]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    analysis.ingest(tmp_path / "run")
    analysis.compute(windows=(SIZE,), spectra=False)
    with Database.read(analysis.database) as db:
        yield db


def ask(db, recipe, **values):
    return run_recipe(db.connection, find_recipes()[recipe], values).dicts()


def test_each_recipe_shows_what_stands_in_the_tables(tables):
    edges = ask(tables, "noise_edges")
    assert len(edges) == N - SIZE
    assert all(0 < row["above_mp"] < SIZE and 0 < row["above_mp_noise"] < SIZE for row in edges)
    assert all(row["bbp_ratio"] > 0 and row["bbp_ratio_noise"] > 0 for row in edges)

    first, *turned = ask(tables, "turning")
    assert (first["gamma"], first["turning"], first["turning_total"]) == (None, None, 0)
    total = 0.0
    for row in turned:
        total += np.arccos(row["gamma"])
        assert row["turning_total"] == pytest.approx(total)
        assert 0 < row["gamma_null"] < row["gamma_null_high"] <= 1
        assert row["drift_along"] ** 2 + row["residual_speed"] ** 2 == pytest.approx(row["drift_speed"] ** 2)

    moved = [row for row in ask(tables, "repulsion", k_max=SIZE) if row["energy_change"] is not None]
    assert len(moved) == SIZE * (N - SIZE - 1)
    step = moved[-1]["step"]
    # the trace of what comes in and goes out is the whole change; a part of it lies outside the window before
    changes = [row["energy_change"] for row in moved if row["step"] == step]
    driven = [row["energy_drive"] for row in moved if row["step"] == step]
    assert sum(driven) <= sum(changes)
    lifted = [row["energy_repulsion"] for row in moved if row["k"] == 1]
    assert min(lifted) > 0  # all others lie below the first and push it up

    [share] = ask(tables, "explained_share")
    assert 0 <= share["r2"] <= 1
    assert share["window_size"] == SIZE
    assert (share["p"] is None) == (share["status"] != "ok")
