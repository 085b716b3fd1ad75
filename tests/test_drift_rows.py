"""The tables of drift and components, against displacements formed from the weights themselves."""

import shutil

import numpy as np
import pytest
import torch
from histories import write_states

from sedarchive.archive import Archive

N = 14
STEPS = tuple(range(0, 10 * N, 10))
NAMES = ("a.weight", "b.weight", "c.weight")
KINDS = ("raw", "row_normalised", "centred")


def walk(n=N, seed=0):
    """State dicts of three tensors that drift and random-walk."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(6, 4, generator=generator) for name in NAMES}
    away = {name: 0.05 * torch.randn(6, 4, generator=generator) for name in NAMES}
    states = []
    for _ in range(n):
        states.append({name: value.clone() for name, value in state.items()})
        state = {name: v + away[name] + 0.1 * torch.randn(6, 4, generator=generator) for name, v in state.items()}
    return states


def computed(analysis, folder, states, steps=None, **options):
    analysis.ingest(write_states(folder / "run", states, steps))
    (report,) = analysis.compute(**{"scopes": ("tensor:b.weight",), "spectra": False, "inference": False, **options})
    assert report.error is None


def displacement(states, names):
    theta = np.stack([np.concatenate([state[name].double().numpy().ravel() for name in names]) for state in states])
    return theta - theta[0]


def matrix(path, kind):
    """The matrix that is decomposed."""
    if kind == "centred":
        return path - path.mean(axis=0)
    return path[1:] if kind == "raw" else path[1:] / np.linalg.norm(path[1:], axis=1, keepdims=True)


def drift(analysis, scope, kind):
    sql = """SELECT step, displacement, backbone_coordinate, residual, backbone_share, status FROM drift
             WHERE scope = ? AND kind = ? ORDER BY step"""
    return analysis.rows(sql, [scope, kind])


def shares(analysis, scope, kind):
    sql = """SELECT k, share, share_null, null_low, null_high, p, status, step_from, step_to FROM components
             WHERE scope = ? AND kind = ? ORDER BY k"""
    return analysis.rows(sql, [scope, kind])


def computations(analysis):
    sql = "SELECT scope, key, started FROM computations WHERE table_name = 'drift' ORDER BY scope"
    return {scope: (key, started) for scope, key, started in analysis.rows(sql)}


def assert_exact(analysis, scope, path):
    """Rows of a scope are those of its displacements (T, p)."""
    for kind in KINDS:
        direction, energy = np.linalg.svd(matrix(path, kind), full_matrices=False)[2:0:-1]
        rows = shares(analysis, scope, kind)
        count = min(5, len(path) - 1)
        assert [row[0] for row in rows] == list(range(1, count + 1))
        np.testing.assert_allclose([row[1] for row in rows], (energy**2 / (energy**2).sum())[:count], rtol=1e-9)
        assert all(row[3] <= row[2] <= row[4] and 0 < row[5] <= 1 and row[6] == "ok" for row in rows)
        if kind == "centred":
            assert drift(analysis, scope, kind) == []
            continue
        along = path @ direction[0] * np.sign(path[-1] @ direction[0])
        found = drift(analysis, scope, kind)
        numbers = np.array([row[1:5] for row in found[1:]])
        length = np.linalg.norm(path, axis=1)
        wanted = np.stack([length, along, np.sqrt(length**2 - along**2)], axis=1)[1:]
        np.testing.assert_allclose(numbers[:, :3], wanted, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(numbers[:, 3], along[1:] ** 2 / length[1:] ** 2, rtol=1e-8)
        assert found[0][1:] == (0.0, 0.0, 0.0, None, "zero")
        assert {row[5] for row in found[1:]} == {"ok"}


def test_the_tables_hold_what_the_weights_give(analysis, tmp_path):
    states = walk()
    computed(analysis, tmp_path, states)
    assert_exact(analysis, "all", displacement(states, NAMES))
    assert_exact(analysis, "tensor:b.weight", displacement(states, ["b.weight"]))
    assert [row[0] for row in drift(analysis, "all", "raw")] == list(STEPS)
    assert analysis.rows("SELECT DISTINCT reference_step FROM drift") == [(0,)]
    assert analysis.rows("SELECT DISTINCT step_from, step_to FROM components") == [(0, STEPS[-1])]


def test_rows_that_stand_are_kept_and_a_longer_run_renews_them(analysis, tmp_path):
    states = walk()
    computed(analysis, tmp_path, states[:9], STEPS[:9])
    before = computations(analysis)
    analysis.compute(scopes=("tensor:b.weight",), spectra=False, inference=False)
    assert computations(analysis) == before
    computed(analysis, tmp_path, states, STEPS)
    after = computations(analysis)
    assert after.keys() == before.keys()
    assert all(after[scope][0] != key for scope, (key, _) in before.items())
    assert_exact(analysis, "all", displacement(states, NAMES))
    assert analysis.rows("SELECT count(*) FROM drift WHERE scope = 'all'") == [(2 * N,)]


def test_a_scope_asked_for_later_is_added_and_one_withdrawn_goes(analysis, tmp_path):
    states = walk()
    computed(analysis, tmp_path, states, scopes=())
    assert shares(analysis, "tensor:b.weight", "raw") == []
    before = computations(analysis)
    computed(analysis, tmp_path, states)
    assert {scope: held for scope, held in computations(analysis).items() if scope in before} == before
    assert_exact(analysis, "tensor:b.weight", displacement(states, ["b.weight"]))


@pytest.mark.parametrize(("options", "cause"), [({}, "nonfinite"), ({"absent": True}, "absent")])
def test_what_is_unknown_at_one_checkpoint_leaves_what_comes_before(analysis, tmp_path, options, cause):
    states, whole = walk(), walk()
    if options:
        del states[6]["b.weight"]
    else:
        states[6]["b.weight"][2, 1] = float("nan")
    computed(analysis, tmp_path, states)
    length = np.linalg.norm(displacement(whole, ["b.weight"]), axis=1)
    rows = drift(analysis, "tensor:b.weight", "raw")
    np.testing.assert_allclose([row[1] for row in rows[:6]], length[:6])
    assert all(row[1] is None for row in rows[6:])
    assert {row[2:] for row in rows} == {(None, None, None, cause)}
    components = shares(analysis, "tensor:b.weight", "centred")
    assert {row[1:7] for row in components} == {(None, None, None, None, None, cause)}


def test_a_scope_that_never_moves_has_rows_that_say_so(analysis, tmp_path):
    states = walk()
    for state in states:
        state["b.weight"] = states[0]["b.weight"].clone()
    computed(analysis, tmp_path, states)
    assert {row[1:] for row in drift(analysis, "tensor:b.weight", "raw")} == {(0.0, None, None, None, "zero")}
    assert {row[1:7] for row in shares(analysis, "tensor:b.weight", "raw")} == {(*[None] * 5, "zero")}


def test_a_change_of_type_marks_what_comes_after(analysis, tmp_path):
    states = walk()
    states[7:] = [{name: value.bfloat16() for name, value in state.items()} for state in states[7:]]
    computed(analysis, tmp_path, states)
    status = [row[5] for row in drift(analysis, "all", "raw")]
    assert status == ["zero", *["ok"] * 6, *["dtype_changed"] * 7]
    assert {row[6] for row in shares(analysis, "all", "raw")} == {"dtype_changed"}


def test_a_band_that_does_not_reach_leaves_a_row_that_says_so(analysis, tmp_path):
    computed(analysis, tmp_path, walk(), band=6, windows=(5,))
    for kind in ("raw", "row_normalised"):
        assert drift(analysis, "all", kind) == [(STEPS[-1], None, None, None, None, "banded")]
    for kind in KINDS:
        assert shares(analysis, "all", kind) == [(1, *[None] * 5, "banded", 0, STEPS[-1])]


def test_a_band_that_reaches_is_as_good_as_the_whole(analysis, tmp_path):
    states = walk()
    computed(analysis, tmp_path, states, band=N - 1, windows=(5,))
    assert_exact(analysis, "all", displacement(states, NAMES))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_short_runs_have_what_they_can(analysis, tmp_path, n):
    states = walk(n)
    computed(analysis, tmp_path, states)
    rows = shares(analysis, "all", "raw")
    assert len(rows) == n - 1
    assert sum(row[1] for row in rows) == pytest.approx(min(n - 1, 1))
    assert all(row[5] is None for row in rows)  # too few updates for a dimension


def test_the_rows_of_a_run_that_left_go_with_it(analysis, tmp_path):
    computed(analysis, tmp_path, walk())
    analysis.ingest(write_states(tmp_path / "other", walk(seed=1)))
    shutil.rmtree(Archive(analysis.archive).run("run").folder)
    analysis.compute(spectra=False, inference=False)
    assert analysis.rows("SELECT DISTINCT run FROM drift") == [("other",)]
