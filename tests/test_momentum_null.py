"""The null with lag-1 correlation: against explicit vectors, and where the first null calls momentum an edge."""

import numpy as np
import pytest
from small import few_draws, run_here, walk, write_safetensors

from sedarchive.nulls.bands import null_bands
from sedarchive.nulls.momentum import momentum_bands
from sedarchive.tables import Database

SIZE, P = 8, 300


def walk_with_memory(rng, n, c, p=P):
    """Unit updates (n, p), each of which remembers the one before by ``c``."""
    updates = rng.standard_normal((n, p)) / np.sqrt(p)
    for at in range(1, n):
        updates[at] = c * updates[at - 1] + np.sqrt(1 - c**2) * updates[at]
    return updates


def described(updates, size=SIZE):
    """Norms, cosines and edge ratios of all windows."""
    norms = np.linalg.norm(updates, axis=1)
    cosines = np.full(len(updates), np.nan)
    cosines[1:] = (updates[1:] * updates[:-1]).sum(axis=1) / (norms[1:] * norms[:-1])
    starts = np.arange(len(updates) - size + 1)[:, None] + np.arange(size)
    sigma = np.array([np.linalg.svd(updates[window], compute_uv=False) for window in starts])
    return norms[starts], cosines[starts], (sigma[:, :-1] / sigma[:, 1:]).max(axis=1)


@pytest.mark.parametrize("c", [0.0, 0.6, -0.5])
def test_the_bands_are_those_of_explicit_vectors(c):
    rng = np.random.default_rng(0)
    norms = np.linspace(1, 3, SIZE)
    drawn = []
    for _ in range(1500):
        updates = walk_with_memory(rng, SIZE, c)
        updates *= (norms / np.linalg.norm(updates, axis=1))[:, None]
        sigma = np.linalg.svd(updates, compute_uv=False)
        drawn.append((sigma[:-1] / sigma[1:]).max())
    bands = momentum_bands(norms[None], np.full((1, SIZE), c), np.array([np.median(drawn)]), P, draws=2000)
    spread = np.std(drawn)
    assert bands.median[0] == pytest.approx(np.median(drawn), abs=0.15 * spread)
    assert bands.high[0] == pytest.approx(np.quantile(drawn, 0.95), abs=0.25 * spread)
    assert bands.p[0] == pytest.approx(0.5, abs=0.06)


def test_momentum_is_an_edge_to_the_first_null_and_none_to_this_one():
    rng = np.random.default_rng(1)
    first, second = [], []
    for _ in range(60):
        norms, cosines, edge = described(walk_with_memory(rng, SIZE + 1, 0.7)[1:])
        first.append(null_bands(norms, edge, P, draws=199).edge_ratio_p[0])
        second.append(momentum_bands(norms, np.nan_to_num(cosines), edge, P).p[0])
    assert np.mean(np.array(first) <= 0.05) > 0.8
    assert np.mean(np.array(second) <= 0.05) <= 0.15
    assert 0.3 < np.mean(second) < 0.7


def test_a_planted_direction_is_an_edge_to_both():
    rng = np.random.default_rng(2)
    updates = walk_with_memory(rng, SIZE, 0.3)
    direction = rng.standard_normal(P) / np.sqrt(P)
    updates += 4 * np.resize([1.0, -1.0, -1.0], SIZE)[:, None] * direction  # not what lag-1 memory makes
    norms, cosines, edge = described(updates)
    assert momentum_bands(norms, cosines, edge, P).p[0] < 0.02


def test_what_is_unknown_has_no_null():
    norms, cosines = np.ones((3, SIZE)), np.zeros((3, SIZE))
    norms[0, 2], cosines[1, 3] = 0.0, np.nan
    bands = momentum_bands(norms, cosines, np.array([1.2, 1.2, np.nan]), P)
    assert np.isnan(bands.median[:2]).all()
    assert np.isfinite(bands.median[2])
    assert np.isnan(bands.p).all()
    assert np.isnan(momentum_bands(norms, cosines, np.ones(3), SIZE).median).all()


def test_the_tables_hold_it_for_the_windows_asked_for(tmp_path):
    shapes = {"h.0.attn.c_proj.weight": (12, 12), "h.0.mlp.c_fc.weight": (12, 12)}
    write_safetensors(tmp_path / "run", walk(20, shapes=shapes))
    where = ("--archive", tmp_path / "a.zarr")
    run_here("ingest", tmp_path / "run", "-q", *where)
    states = []
    for _ in range(2):
        with few_draws():
            run_here("compute", "-q", "--no-spectra", "--window", "6", *where, "--db", tmp_path / "a.duckdb")
        with Database.read(tmp_path / "a.duckdb") as db:
            nulls = "edge_ratio_ar1_null, edge_ratio_ar1_null_high, edge_ratio_ar1_p"
            names = f"scope, window_size, step, {nulls}"
            states.append(db.rows(f"SELECT {names} FROM windows WHERE edge_ratio_ar1_p IS NOT NULL ORDER BY ALL").rows)
            made = db.rows("SELECT scope, window_size FROM computations WHERE table_name = 'momentum_null'").rows
    assert states[0] == states[1]
    assert (
        {(scope, size) for scope, size, *_ in states[0]}
        == set(made)
        == {*(("all", 6), ("trunk", 6), ("attention", 6), ("mlp", 6))}
    )
    assert all(median < high and 0 < p <= 1 for *_, median, high, p in states[0])
    assert len(states[0]) == 4 * (19 - 6 + 1)
