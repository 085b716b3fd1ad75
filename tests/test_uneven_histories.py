"""Histories with gaps, changes and damage: what can be computed stays exact, and the rest says why it is not."""

import numpy as np
import pytest
import torch
from histories import write_states

N = 12
STEPS = tuple(range(0, 10 * N, 10))
SIZE = 5


def walk(n=N, seed=0):
    """State dicts of three tensors that random-walk."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(6, 4, generator=generator) for name in ("a.weight", "b.weight", "c.weight")}
    states = []
    for _ in range(n):
        states.append({name: value.clone() for name, value in state.items()})
        state = {name: value + 0.1 * torch.randn(6, 4, generator=generator) for name, value in state.items()}
    return states


def computed_run(analysis, folder, states, steps=None, **options):
    analysis.ingest(write_states(folder / "run", states, steps))
    (report,) = analysis.compute(**{"scopes": ("tensor:b.weight",), "inference": False, **options})
    assert report.error is None
    return report


def dense_sigmas(states, names):
    """Singular values (n, W) of the windows of some tensors, which all states have."""
    theta = np.stack([np.concatenate([state[name].double().numpy().ravel() for name in names]) for state in states])
    deltas = np.diff(theta, axis=0)
    windows = [deltas[at : at + SIZE] for at in range(len(deltas) - SIZE + 1)]
    return np.linalg.svd(np.stack(windows), compute_uv=False)


def window_sigmas(analysis, scope):
    """Last step -> (set of statuses, sigma) of each window of a scope."""
    sql = """SELECT step, list(status ORDER BY k), list(sigma ORDER BY k) FROM window_sigmas
             WHERE scope = ? AND window_size = ? GROUP BY step"""
    return {step: (set(status), sigma) for step, status, sigma in analysis.rows(sql, [scope, SIZE])}


def statuses(analysis, scope):
    sql = "SELECT step, status FROM windows WHERE scope = ? AND window_size = ? ORDER BY step"
    return dict(analysis.rows(sql, [scope, SIZE]))


def findings(analysis, check):
    sql = "SELECT step, tensor, detail FROM audit WHERE check_name = ? ORDER BY ALL"
    return analysis.rows(sql, [check])


def assert_exact(found, states, names, ends):
    """Windows that end at some checkpoints have the singular values of the dense matrices."""
    wanted = dense_sigmas(states, names)
    for end in ends:
        status, sigma = found[STEPS[end]]
        assert status == {"ok"}
        np.testing.assert_allclose(sigma, wanted[end - SIZE], rtol=1e-9)


ALL = range(SIZE, N)
"""Last checkpoints of all windows."""


def test_an_absent_tensor_leaves_the_groups_and_keeps_nulls_in_its_own_scope(analysis, tmp_path):
    states, whole = walk(), walk()
    del states[3]["b.weight"]
    computed_run(analysis, tmp_path, states)
    assert_exact(window_sigmas(analysis, "all"), whole, ("a.weight", "c.weight"), ALL)
    own = window_sigmas(analysis, "tensor:b.weight")
    spoiled = [end for end in ALL if end - SIZE <= 3]
    for end in spoiled:
        assert own[STEPS[end]] == ({"absent"}, [None] * SIZE)
    assert_exact(own, whole, ("b.weight",), set(ALL) - set(spoiled))
    assert [step for step, status in statuses(analysis, "tensor:b.weight").items() if status == "absent"] == [
        STEPS[end] for end in spoiled
    ]
    ((reason,),) = analysis.rows("SELECT skipped_reason FROM tensors WHERE tensor = 'b.weight'")
    assert "absent at 1 of 12" in reason
    assert [tensor for _, tensor, _ in findings(analysis, "tensor_absent")] == ["b.weight"]


def test_updates_beside_an_absence_are_null_with_a_status(analysis, tmp_path):
    states = walk()
    del states[3]["b.weight"]
    computed_run(analysis, tmp_path, states)
    sql = "SELECT step, norm, zero_fraction, status FROM updates WHERE scope = 'tensor:b.weight' AND norm IS NULL"
    assert sorted(analysis.rows(sql)) == [(30, None, None, "absent"), (40, None, None, "absent")]


def test_a_change_of_shape_begins_a_new_segment_and_is_never_differenced(analysis, tmp_path):
    states = walk()
    for state in states[6:]:
        state["b.weight"] = torch.cat([state["b.weight"], torch.ones(1, 4)])
    computed_run(analysis, tmp_path, states, scopes=("tensor:b.weight", "tensor:b.weight~1"))
    assert_exact(window_sigmas(analysis, "all"), states, ("a.weight", "c.weight"), ALL)
    first, second = (window_sigmas(analysis, f"tensor:{name}") for name in ("b.weight", "b.weight~1"))
    assert_exact(first, states[:6], ("b.weight",), [5])
    assert {step for step, (status, _) in first.items() if status == {"ok"}} == {STEPS[5]}
    assert {step for step, (status, _) in second.items() if status == {"ok"}} == {STEPS[11]}
    np.testing.assert_allclose(second[STEPS[11]][1], dense_sigmas(states[6:], ("b.weight",))[0], rtol=1e-9)
    assert first[STEPS[8]] == second[STEPS[8]] == ({"absent"}, [None] * SIZE)
    rows = analysis.rows("SELECT tensor, shape, skipped_reason IS NULL FROM tensors WHERE tensor LIKE 'b%' ORDER BY 1")
    assert rows == [("b.weight", "6x4", False), ("b.weight~1", "7x4", False)]
    assert [(step, tensor) for step, tensor, _ in findings(analysis, "shape_changed")] == [(60, "b.weight")]
    steps = analysis.rows("SELECT step FROM matrix_spectra WHERE matrix = 'b.weight~1' ORDER BY step")
    assert [step for (step,) in steps] == list(STEPS[6:])


def test_a_change_of_dtype_is_differenced_in_float64_with_a_status(analysis, tmp_path):
    states = walk()
    states[7:] = [{name: value.bfloat16() for name, value in state.items()} for state in states[7:]]
    computed_run(analysis, tmp_path, states)
    wanted = dense_sigmas(states, ("a.weight", "b.weight", "c.weight"))
    found, status = window_sigmas(analysis, "all"), statuses(analysis, "all")
    for end in ALL:
        np.testing.assert_allclose(found[STEPS[end]][1], wanted[end - SIZE], rtol=1e-9)
        assert status[STEPS[end]] == ("dtype_changed" if end - SIZE < 7 <= end else "ok")
    assert analysis.rows("SELECT DISTINCT dtype FROM tensors") == [("float32 then bfloat16",)]
    ((step, tensor, detail),) = findings(analysis, "dtype_changed")
    assert (step, tensor) == (70, None)
    assert "3 tensors" in detail


@pytest.mark.parametrize("value", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.slow), float("-inf")])
def test_a_value_that_is_not_finite_spoils_its_own_windows_only(analysis, tmp_path, value):
    states, whole = walk(), walk()
    states[6]["b.weight"][2, 1] = value
    computed_run(analysis, tmp_path, states)
    spoiled = [end for end in ALL if end - SIZE <= 6 <= end]
    for scope, names in (("all", tuple(whole[0])), ("tensor:b.weight", ("b.weight",))):
        found, status = window_sigmas(analysis, scope), statuses(analysis, scope)
        for end in spoiled:
            assert found[STEPS[end]] == ({"nonfinite"}, [None] * SIZE)
            assert status[STEPS[end]] == "nonfinite"
        assert_exact(found, whole, names, set(ALL) - set(spoiled))
        assert spoiled != list(ALL)
    ((step, tensor, _),) = findings(analysis, "nonfinite")
    assert (step, tensor) == (60, "b.weight")
    sql = "SELECT matrix, step, sigma IS NULL FROM matrix_spectra WHERE status = 'nonfinite'"
    assert analysis.rows(sql) == [("b.weight", 60, True)]


def test_no_number_in_the_tables_is_nan_or_infinite(analysis, tmp_path):
    states = walk()
    states[6]["b.weight"][2, 1] = float("nan")
    del states[9]["c.weight"]
    computed_run(analysis, tmp_path, states, inference=True)
    for table in ("updates", "windows", "window_sigmas", "matrix_stats", "matrix_sigmas"):
        for row in analysis.rows(f"SELECT * FROM {table}"):
            assert all(np.isfinite(value) for value in row if isinstance(value, float)), (table, row)


def test_one_checkpoint_has_spectra_and_no_updates(analysis, tmp_path):
    report = computed_run(analysis, tmp_path, walk(1))
    assert report.gram.computed == 3
    for table, count in (("updates", 0), ("windows", 0), ("window_sigmas", 0), ("matrix_spectra", 3)):
        assert analysis.rows(f"SELECT count(*) FROM {table}") == [(count,)]


def test_a_window_longer_than_the_history_is_said_and_the_others_are_there(analysis, tmp_path):
    report = computed_run(analysis, tmp_path, walk(7), windows=(6, 7, 40))
    assert report.too_long == (7, 40)
    assert analysis.rows("SELECT DISTINCT window_size FROM windows ORDER BY 1") == [(5,), (6,)]
    ((_, _, detail),) = findings(analysis, "too_few_checkpoints")
    assert "no window of 7, 40 updates in 7 checkpoints" in detail


def test_unequal_spacing_is_flagged_in_exactly_the_windows_that_hold_it(analysis, tmp_path):
    steps = [0, 10, 20, 30, 40, 50, 55, 60, 65, 70, 75, 80]
    computed_run(analysis, tmp_path, walk(), steps)
    rows = analysis.rows(
        "SELECT step, irregular, status, step_first, step_centre FROM windows WHERE scope = 'all' AND window_size = 5"
    )
    assert len(rows) == N - SIZE
    for step, irregular, status, step_first, step_centre in rows:
        end = steps.index(step)
        uneven = len(set(np.diff(steps[end - SIZE : end + 1]))) > 1
        assert (irregular, status) == (uneven, "irregular" if uneven else "ok")
        assert (step_first, step_centre) == (steps[end - SIZE], (steps[end - SIZE] + step) / 2)
    assert {irregular for _, irregular, *_ in rows} == {True, False}
    assert_same_sigmas_as_even(analysis)


def assert_same_sigmas_as_even(analysis):
    """Windows count checkpoints, so that spacing changes no singular value."""
    rows = analysis.rows("SELECT sigma FROM window_sigmas WHERE scope = 'all' AND window_size = 5 ORDER BY step, k")
    wanted = dense_sigmas(walk(), tuple(walk()[0])).ravel()
    np.testing.assert_allclose([sigma for (sigma,) in rows], wanted, rtol=1e-9)
