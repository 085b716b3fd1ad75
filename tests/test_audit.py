"""The checks of the audit on planted cases, and their silence on what training does by right."""

import numpy as np
import pytest

from sedarchive.audit import (
    RunDigests,
    change_evidence,
    digest_evidence,
    duplicate_evidence,
    marked,
    repeat_evidence,
    runs_alike,
    spacing_evidence,
)
from sedarchive.audit.motion import leaps, misplaced, motion_of, returns
from sedarchive.audit.numbers import Broken, Part, Rounding, motion_evidence, nonfinite_evidence, rounding_evidence
from sedarchive.audit.tracks import Track, Tracks
from sedarchive.gram import Gram, RoundingUnit, gram_sums
from sedarchive.history import TensorSpec

LETTERS = "abcdefghijkl"
FLOAT32 = RoundingUnit(23, -126)


def track(name, letters, dtype="float32", shape=(16, 16)):
    """A tensor whose bytes are one letter a checkpoint; a point where it is absent."""
    digests = tuple(None if letter == "." else f"{name}:{letter}" for letter in letters)
    specs = tuple(None if letter == "." else TensorSpec(name, dtype, shape) for letter in letters)
    return Track(name, digests, specs)


def history(*tracks, steps=None):
    n_steps = len(tracks[0].digests)
    steps = tuple(range(0, 10 * n_steps, 10)) if steps is None else tuple(steps)
    return Tracks(steps, tuple(range(n_steps)), tuple(tracks), ())


def shown(evidence):
    """(check, severity, step) of each finding."""
    return sorted((one.finding.check_name, one.finding.severity, one.finding.step) for one in evidence)


def moving(letters, n=4):
    return [track(f"layer.{at}.weight", letters) for at in range(n)]


# Repeats


def test_a_history_that_moves_has_no_finding():
    assert digest_evidence(history(*moving(LETTERS))) == []


def test_copies_of_a_distant_checkpoint_are_one_error_that_names_all_steps():
    (found,) = repeat_evidence(history(*moving("abcjkfghijkl")))
    assert shown([found]) == [("identical_checkpoints", "error", 30)]
    assert "steps 30 and 90; steps 40 and 100 hold the same weights each (4 of 12 checkpoints)" in found.finding.detail
    assert (found.mark, found.positions, found.tensors) == ("duplicate", {3, 4, 9, 10}, None)


def test_one_checkpoint_between_two_equal_ones_is_a_jump_and_return():
    (found,) = repeat_evidence(history(*moving("abcdcfghijkl")))
    assert shown([found]) == [("jump_and_return", "error", 20)]
    assert found.positions == {2, 3, 4}


def test_two_equal_neighbours_are_a_zero_update():
    (found,) = repeat_evidence(history(*moving("abcddfghijkl")))
    assert shown([found]) == [("zero_update", "warning", 30)]
    assert "steps 30 and 40" in found.finding.detail


def test_a_first_update_of_learning_rate_zero_is_no_warning():
    (found,) = repeat_evidence(history(*moving("aacdefghijkl")))
    assert shown([found]) == [("zero_update", "info", 10)]
    assert found.mark is None


def test_checkpoints_that_are_all_equal_are_an_error():
    (found,) = repeat_evidence(history(*moving("aaaaa")))
    assert shown([found]) == [("identical_checkpoints", "error", 0)]
    assert found.positions == {0, 1, 2, 3, 4}


def test_a_shard_of_another_step_is_one_finding_with_a_count_and_two_examples():
    shard = [track(f"b.{at:02}.weight", "abclefghijkl") for at in range(40)]
    (found,) = repeat_evidence(history(*moving(LETTERS, 40), *shard))
    assert shown([found]) == [("identical_tensors", "error", 30)]
    assert found.finding.detail.startswith("40 tensors (b.00.weight, b.01.weight, ...), 50 % of the trained elements")
    assert (found.mark, found.positions, len(found.tensors)) == ("duplicate", {3, 11}, 40)


def test_shards_and_whole_copies_are_told_apart():
    evidence = repeat_evidence(history(*moving("abcdebghijkl", 2), track("shard", "abjdebghijkl")))
    assert shown(evidence) == [("identical_checkpoints", "error", 10), ("identical_tensors", "error", 20)]


def test_a_part_that_stands_still_for_one_update_is_a_warning():
    (found,) = repeat_evidence(history(*moving(LETTERS), track("shard", "abcddfghijkl")))
    assert shown([found]) == [("partial_zero_update", "warning", 30)]
    assert found.finding.tensor == "shard"


@pytest.mark.parametrize(
    "letters",
    [
        pytest.param("aaaaefghijkl", id="unfrozen late"),
        pytest.param("aacdefghijkl", id="no gradient at first"),
        pytest.param("abcdefggggg" + "g", id="frozen in the end"),
        pytest.param("abcddddddjkl", id="frozen in the middle"),
        pytest.param("aaccee" + "ggiikk", id="trained by turns"),
    ],
)
def test_phases_in_which_a_part_is_frozen_are_told_and_no_warning(letters):
    (found,) = repeat_evidence(history(*moving(LETTERS), track("part", letters)))
    assert (found.finding.check_name, found.finding.severity, found.mark) == ("frozen_at_times", "info", None)


def test_tensors_that_never_move_are_one_info():
    still = [track(f"h.{at}.mask", "a" * 12) for at in range(3)]
    (found,) = repeat_evidence(history(*moving(LETTERS), *still))
    assert shown([found]) == [("frozen_tensors", "info", None)]
    assert "3 tensors (h.0.mask, h.1.mask, ...)" in found.finding.detail


@pytest.mark.parametrize(
    ("dtype", "shape"), [("bfloat16", (300,)), ("float32", (1,))], ids=["norms of few bits", "a clamped scalar"]
)
def test_small_tensors_that_come_back_by_chance_are_no_warning(dtype, shape):
    norms = track("norm.weight", "abcbbfgbijkl", dtype, shape)
    assert {one.finding.severity for one in repeat_evidence(history(*moving(LETTERS), norms))} == {"info"}


def test_a_frozen_matrix_that_differs_at_one_step_is_of_another_run_there():
    (found,) = repeat_evidence(history(*moving(LETTERS), track("frozen", "aaaaaxaaaaaa")))
    assert shown([found]) == [("jump_and_return", "error", 50)]
    assert found.positions == {5}


# Changes


def test_tensors_that_change_alike_are_one_finding():
    def both(name):
        specs = [TensorSpec(name, "float32" if at < 4 else "bfloat16", (4, 4)) for at in range(8)]
        return Track(name, tuple(f"{name}{at}" for at in range(8)), tuple(specs))

    (found,) = change_evidence(history(*(both(f"w.{at}") for at in range(5))))
    assert shown([found]) == [("dtype_changed", "warning", 40)]
    assert "5 tensors (w.0, w.1, ...): stored as float32 then bfloat16" in found.finding.detail


def test_a_change_of_shape_names_the_new_one():
    specs = tuple(TensorSpec("w", "float32", (4, 4) if at < 2 else (5, 4)) for at in range(4))
    (found,) = change_evidence(history(Track("w", tuple("abcd"), specs)))
    assert shown([found]) == [("shape_changed", "warning", 20)]
    assert "from step 20 on its shape is 5x4" in found.finding.detail


@pytest.mark.parametrize(
    ("letters", "check", "step"),
    [
        ("..cdef", "tensor_appeared", 20),
        ("abc...", "tensor_vanished", 30),
        ("ab.def", "tensor_absent", 20),
        ("a.c.ef", "tensor_absent", None),
    ],
)
def test_tensors_that_come_and_go(letters, check, step):
    (found,) = change_evidence(history(*moving("abcdef"), track("guest", letters)))
    assert shown([found]) == [(check, "warning", step)]
    assert found.finding.tensor == "guest"


@pytest.mark.parametrize(
    ("steps", "check"),
    [
        (range(0, 120, 10), None),
        ([0, 10, 20, 40, 50, 60, 70, 80], "gap_in_steps"),
        ([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000], "irregular_spacing"),
        ([5], None),
    ],
)
def test_spacing_is_info_at_most(steps, check):
    evidence = spacing_evidence(history(*moving(LETTERS[: len(steps)] + "m" * (len(steps) - 12)), steps=steps))
    assert [(one.finding.check_name, one.finding.severity) for one in evidence] == ([(check, "info")] if check else [])


def test_a_gap_names_the_missing_steps():
    (found,) = spacing_evidence(history(*moving("abcdef"), steps=[0, 10, 20, 50, 60, 70]))
    assert "none at steps 30 and 40" in found.finding.detail


def test_steps_that_came_late_are_named():
    tracks = Tracks((0, 10, 20, 30), (0, 3, 1, 2), tuple(moving("abcd")), ())
    (found,) = spacing_evidence(tracks)
    assert shown([found]) == [("steps_out_of_order", "info", 10)]


def test_equal_tensors_that_nothing_ties_are_a_warning():
    one, other = track("wte", LETTERS), Track("head", track("wte", LETTERS).digests, track("wte", LETTERS).specs)
    (found,) = duplicate_evidence(history(one, other), {})
    assert shown([found]) == [("duplicate_parameters", "warning", None)]
    assert "wte and head" in found.finding.detail
    assert duplicate_evidence(history(one, other), {"head": "wte"}) == []
    assert duplicate_evidence(history(*moving(LETTERS)), {}) == []


# Runs


def run(name, letters, steps=None):
    return RunDigests(name, tuple(steps or range(len(letters))), tuple(letters))


def kinds(*runs):
    return {name: [found.check_name for found in findings] for name, findings in runs_alike(runs).items() if findings}


def test_runs_with_the_same_bytes_are_found_in_both():
    assert kinds(run("a", "xyz"), run("b", "xyz"), run("c", "uvw")) == {
        "a": ["identical_runs"],
        "b": ["identical_runs"],
    }


def test_every_second_checkpoint_of_a_run_is_a_copy_too():
    assert kinds(run("a", "uvwxyz"), run("b", "uwy")) == {"a": ["identical_runs"], "b": ["identical_runs"]}


def test_a_fork_is_no_warning_and_a_common_start_is_nothing():
    found = runs_alike([run("a", "wxyz"), run("b", "wxst")])
    assert {(one.check_name, one.severity) for findings in found.values() for one in findings} == {
        ("shared_history", "info")
    }
    assert "up to step 1" in found["a"][0].detail
    assert kinds(run("a", "xyz"), run("b", "xst"), run("c", "zab")) == {}


def test_a_checkpoint_of_another_run_is_a_warning_in_both():
    assert kinds(run("a", "uvwxyz"), run("b", "abcxde")) == {"a": ["shared_checkpoints"], "b": ["shared_checkpoints"]}


# Motion


def walk(n_steps=30, n=400, seed=0, scale=None):
    """Random walk (n_steps, n), its updates of norm about 1 times ``scale``."""
    steps = np.random.default_rng(seed).standard_normal((n_steps - 1, n)) / np.sqrt(n)
    steps *= np.ones((n_steps - 1, 1)) if scale is None else np.asarray(scale)[:, None]
    start = np.random.default_rng(seed + 1).standard_normal(n)
    return start + np.concatenate([np.zeros((1, n)), np.cumsum(steps, axis=0)])


def motion(theta, band=None):
    return motion_of(Gram.of(gram_sums(theta, FLOAT32, band)))


def test_motion_is_that_of_the_weights():
    theta = walk()
    updates = np.diff(theta, axis=0)
    found = motion(theta)
    np.testing.assert_allclose(found.norm, np.linalg.norm(updates, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.distance, np.linalg.norm(theta - theta[0], axis=1), rtol=1e-12)
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(updates[1:], updates, strict=False)]
    np.testing.assert_allclose(found.cosine[1:], cosine, rtol=1e-9)
    banded = motion(theta, band=2)
    np.testing.assert_allclose(banded.norm, found.norm, rtol=1e-12)
    assert np.isnan(banded.distance).all()


def flagged(theta, steps=None):
    """What each look shows: (updates that leap, checkpoints of a return, checkpoints out of line)."""
    found = motion(theta)
    steps = np.arange(len(theta), dtype=float) if steps is None else np.asarray(steps, dtype=float)
    looks = (leaps(found.norm, np.diff(steps)), returns(found.norm, found.cosine), misplaced(found))
    return tuple(np.flatnonzero(look).tolist() for look in looks)


def test_a_checkpoint_of_another_run_leaps_returns_and_lies_out_of_line():
    theta = walk()
    theta[12] += 3 * np.random.default_rng(9).standard_normal(400)
    assert flagged(theta) == ([11, 12], [12], [12])


@pytest.mark.parametrize("at", [2, 5, 20])
def test_a_later_step_under_an_earlier_name_lies_out_of_line(at):
    theta = walk(60)
    theta[at] = theta[55]
    assert flagged(theta)[2] == [at]


def test_an_earlier_step_under_a_later_name_lies_out_of_line():
    theta = walk(60)
    theta[40] = theta[3]
    assert flagged(theta)[2] == [40]


@pytest.mark.parametrize(("at", "source"), [(10, 35), (30, 5)])
def test_another_step_of_a_straight_course_is_seen_too(at, source):
    theta = np.outer(np.arange(40), np.ones(400)) + walk(40)
    theta[at] = theta[source]
    assert flagged(theta)[1:] == ([at], [at])


def test_an_update_that_leaps_once_and_stays_is_a_leap_only():
    theta = walk()
    theta[15:] += 0.6 * np.random.default_rng(9).standard_normal(400)
    assert flagged(theta) == ([14], [], [])


N = 40
T = np.arange(N - 1)
SCHEDULES = {
    "constant": np.ones(N - 1),
    "warm-up and cosine": np.minimum(1, (T + 1) / 8) * (0.5 + 0.5 * np.cos(np.pi * T / N)),
    "decay by ten": np.where(T < 20, 1.0, 0.1),
    "two decays": np.where(T < 15, 1.0, np.where(T < 30, 0.1, 0.01)),
    "a restart": 0.5 + 0.5 * np.cos(np.pi * (T % 13) / 13) + 1e-3,
    "a hot start": np.where(T < 1, 30.0, 1.0),
    "growing": 1.2**T,
    "noisy": np.exp(0.6 * np.random.default_rng(3).standard_normal(N - 1)),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("seed", range(3))
def test_schedules_of_the_learning_rate_are_silent(name, seed):
    assert flagged(walk(N, seed=seed, scale=SCHEDULES[name])) == ([], [], [])


def test_log_spaced_steps_and_gaps_are_silent():
    steps = [0, *(2**power for power in range(10)), *range(1000, 20_000, 1000)]
    assert flagged(walk(len(steps), scale=np.sqrt(np.diff(steps))), steps) == ([], [], [])
    steps = [*range(0, 100, 10), *range(1000, 1100, 10)]
    assert flagged(walk(len(steps), scale=np.sqrt(np.diff(steps))), steps)[0] == []


def test_going_to_and_fro_and_going_straight_are_silent():
    generator = np.random.default_rng(0)
    line, noise = generator.standard_normal(400), 0.05 * generator.standard_normal((N, 400))
    straight = np.outer(np.arange(N), line)
    to_and_fro = np.outer((-1.0) ** np.arange(N), line) + 0.1 * straight
    spiral = np.outer(np.sin(np.arange(N)), line) + np.outer(np.cos(np.arange(N)), generator.standard_normal(400))
    settling = np.outer(1 - 0.8 ** np.arange(N), line)
    for theta in (straight, to_and_fro, spiral, settling):
        assert flagged(theta + noise) == ([], [], [])


def test_a_history_too_short_to_judge_is_silent():
    for n_steps in (1, 2, 3, 4):
        assert flagged(walk(n_steps)) == ([], [], [])


def parts(*thetas, names=None):
    return [Part((names or LETTERS)[at], theta.shape[1], motion(theta)) for at, theta in enumerate(thetas)]


def test_each_step_is_told_once_by_the_clearest_sign():
    thetas = [walk(seed=seed) for seed in range(3)]
    for theta in thetas:
        theta[12] += 3 * np.random.default_rng(9).standard_normal(400)
    (found,) = motion_evidence(range(30), parts(*thetas), [])
    assert shown([found]) == [("jump_and_return", "warning", 12)]
    assert (found.mark, found.positions, found.tensors) == ("suspect", {12}, None)


def test_a_shard_from_elsewhere_is_seen_though_the_rest_is_larger():
    big = walk(n=40_000, scale=np.full(29, 40.0))
    shard = [walk(seed=seed, n=3000) for seed in range(2)]
    for theta in shard:
        theta[12] += np.random.default_rng(9).standard_normal(3000) / 5
    (found,) = motion_evidence(range(30), parts(big, *shard), [])
    assert (found.finding.step, found.tensors) == (12, {"b", "c"})
    one = walk(seed=3, n=300)
    one[12] += 3
    assert motion_evidence(range(30), parts(big, one), []) == []


def test_copies_that_the_digests_show_are_not_told_again_but_which_of_them_is_wrong():
    theta = walk(60)
    theta[20] = theta[55]
    known = repeat_evidence(history(track("w", [f"{at if at != 20 else 55}" for at in range(60)])))
    (found,) = motion_evidence(range(60), parts(theta), known)
    assert shown([found]) == [("distance_out_of_line", "info", 20)]
    assert found.mark is None


def test_rounding_is_a_warning_where_it_is_material():
    steps, zeros = range(0, 110, 10), np.full(10, 0.6)
    (found,) = rounding_evidence(steps, Rounding(np.full(10, 0.4), zeros, ("bfloat16",)))
    assert shown([found]) == [("quantization", "warning", 10)]
    assert (
        "rounding to bfloat16 is more than 10 % of the energy of 10 of 10 updates (median 40 %" in found.finding.detail
    )
    assert "60 % of the entries do not change" in found.finding.detail
    few = np.full(10, 0.02)
    few[-1] = 0.4
    assert shown(rounding_evidence(steps, Rounding(few, zeros, ("bfloat16",)))) == [("quantization", "info", 100)]
    assert rounding_evidence(steps, Rounding(np.full(10, 0.05), zeros, ("bfloat16",))) == []
    assert rounding_evidence(steps, Rounding(np.full(10, np.nan), zeros, ("float32",))) == []


def test_values_that_are_not_finite_are_one_finding_for_the_step_where_they_begin():
    count = np.array([0, 0, 3, 5.0])
    found = nonfinite_evidence([0, 10, 20, 30], [Broken("a:key", "a", 9, count), Broken("b", "b", 9, 2 * count)])
    assert shown(found) == [("nonfinite", "error", 20)]
    assert (
        "9 of 18 values of 2 tensors (a:key, b) are NaN or infinite at step 20 and 1 later ones"
        in found[0].finding.detail
    )
    assert nonfinite_evidence([0, 10], [Broken("a", "a", 9, np.zeros(2))]) == []


def test_marks_reach_the_scopes_that_hold_the_tensors():
    evidence = repeat_evidence(history(*moving(LETTERS), track("shard", "abclefghijkl")))
    assert marked(evidence, "duplicate", frozenset({"shard"}), 12).nonzero()[0].tolist() == [3, 11]
    assert not marked(evidence, "duplicate", frozenset({"layer.0.weight"}), 12).any()
    assert not marked(evidence, "suspect", frozenset({"shard"}), 12).any()
