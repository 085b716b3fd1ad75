"""Directions of windows, how they turn, and what pure noise and random walks give: against dense algebra and draws."""

from itertools import pairwise

import numpy as np
import oracles
import pytest

from sedarchive.compute.rolling.window_rows import adiabatic_columns, noise_columns, turning_columns
from sedarchive.gram import Gram
from sedarchive.nulls.leaders import draw_cosines
from sedarchive.nulls.noise import noise_levels, noise_overlaps, overlap_dimension
from sedarchive.rolling.edge import edge_scalars
from sedarchive.rolling.logged import Logged
from sedarchive.rolling.schedule import Schedule
from sedarchive.rolling.turning import turning
from sedarchive.rolling.windows import window_series

FIGURE_1A = np.array([198.58, 169.08, 122.47, 110.73, 106.22, 92.66, 78.30, 61.27, 44.58, 22.79])
FIGURE_1A_PARAMETERS = 163_150_848
P = 60


def gram_of(deltas):
    rows = np.concatenate([np.ones((1, deltas.shape[1])), deltas])
    full = rows @ rows.T
    return Gram(full, None, full[0])


def updates_of(case, n=14, p=P, seed=3):
    """Updates (n, p) of unequal norms: with momentum, in few directions, or each nearly that of a period before."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n, p))
    if case == "momentum":
        for i in range(1, n):
            noise[i] = 0.7 * noise[i - 1] + 0.3 * noise[i]
        return noise * rng.uniform(0.5, 2, (n, 1))
    if case == "planted":
        coefficients = rng.choice([-1.0, 1.0], (n, 1)) * [[9.0, 3.0, 0.0]] * rng.uniform(0.9, 1.1, (n, 3))
        return coefficients @ np.eye(3, p) + 0.05 * noise
    assert case == "periodic"
    return np.tile(np.arange(1, 6)[:, None] * np.eye(5, p), (3, 1))[:n] + 3e-3 * noise


def dense_of(deltas, size):
    """Windows (W, p), their sigmas and right singular vectors as rows."""
    return [(x, *np.linalg.svd(x, full_matrices=False)[1:]) for x in oracles.dense_windows(deltas, size)]


CASES = pytest.mark.parametrize("case", ["momentum", "planted", "periodic"])
SIZES = pytest.mark.parametrize("size", [2, 5, 8])


@CASES
@SIZES
def test_the_last_and_the_mean_update_lie_to_v1_as_in_the_dense_matrices(case, size):
    deltas = updates_of(case)
    series = window_series(gram_of(deltas), size, P)
    for t, (x, _, v) in enumerate(dense_of(deltas, size)):
        mean = x.mean(axis=0)
        along = abs(mean @ v[0])
        assert series.align_last[t] == pytest.approx(abs(x[-1] @ v[0]) / np.linalg.norm(x[-1]), abs=1e-9)
        assert series.drift_along[t] == pytest.approx(along, abs=1e-9 * np.linalg.norm(x))
        residual = np.linalg.norm(mean - (mean @ v[0]) * v[0])
        assert series.residual_speed[t] == pytest.approx(residual, abs=1e-9 * np.linalg.norm(x))


def test_a_mean_update_along_v1_keeps_the_precision_of_its_small_rest():
    deltas = np.tile(np.eye(1, P), (6, 1))
    deltas[:, 1] = 1e-5 * np.array([1, -1, 1, -1, 1, 1])
    series = window_series(gram_of(deltas), 6, P)
    [(x, _, v)] = dense_of(deltas, 6)
    rest = x.mean(axis=0) - (x.mean(axis=0) @ v[0]) * v[0]
    assert series.residual_speed[0] == pytest.approx(np.linalg.norm(rest), rel=1e-4)


@CASES
@SIZES
def test_v1_turns_by_the_angle_between_dense_vectors_and_the_angles_add_up(case, size):
    deltas = updates_of(case)
    series = window_series(gram_of(deltas), size, P)
    columns = turning_columns(series)
    first = [v[0] for _, _, v in dense_of(deltas, size)]
    angles = [np.arccos(min(abs(a @ b), 1)) for a, b in zip(first[1:], first, strict=False)]
    np.testing.assert_allclose(columns["turning"][1:], angles, atol=2e-7)
    np.testing.assert_allclose(columns["kappa"][1:], [1 - np.cos(angle) for angle in angles], atol=1e-9)
    np.testing.assert_allclose(columns["turning_total"], np.append(0, np.cumsum(angles)), atol=1e-6)
    assert np.isnan(columns["gamma"][0])


def test_an_unknown_angle_is_left_out_of_the_total():
    angle, total = turning(np.array([np.nan, 0.0, np.nan, 0.5]))
    np.testing.assert_allclose(angle, [np.nan, np.pi / 2, np.nan, np.pi / 3])
    np.testing.assert_allclose(total, [0, np.pi / 2, np.nan, np.pi / 2 + np.pi / 3])


@CASES
@SIZES
def test_the_subspaces_of_the_signal_turn_as_the_dense_ones_and_never_beyond_the_bound(case, size):
    deltas = updates_of(case)
    series = window_series(gram_of(deltas), size, P)
    dense, said = dense_of(deltas, size), 0
    for t in range(1, len(dense)):
        rank = series.signal_rank[t]
        if rank == 0:
            assert np.isnan([series.subspace_angle[t], series.subspace_angle_dk[t]]).all()
            continue
        (new, sigma, v), (old, _, w) = dense[t], dense[t - 1]
        outside = v[:rank] - v[:rank] @ w[:rank].T @ w[:rank]
        sine = np.linalg.svd(outside, compute_uv=False)[0]
        assert np.sin(series.subspace_angle[t]) == pytest.approx(min(sine, 1), abs=1e-7)
        gap = sigma[rank - 1] ** 2 - sigma[rank] ** 2
        wanted = 2 * np.linalg.norm(new.T @ new - old.T @ old) / gap
        assert np.sin(series.subspace_angle_dk[t]) == pytest.approx(min(wanted, 1), rel=1e-6)
        assert series.subspace_angle[t] <= series.subspace_angle_dk[t] + 1e-7
        said += wanted < 1
    assert np.isnan([series.subspace_angle[0], series.subspace_angle_dk[0]]).all()
    assert said > 0 or case != "periodic" or size != 5


@CASES
@SIZES
def test_the_terms_of_perturbation_are_those_of_the_whole_dense_operator(case, size):
    deltas = updates_of(case)
    series = window_series(gram_of(deltas), size, P)
    dense = oracles.dense_windows(deltas, size)
    for t in range(1, len(dense)):
        old, new = dense[t - 1].T @ dense[t - 1], dense[t].T @ dense[t]
        energy, vectors = np.linalg.eigh(old)
        energy, vectors = energy[::-1], vectors[:, ::-1]
        inner = vectors.T @ (new - old) @ vectors
        scale = np.linalg.norm(new - old)
        for j in range(size):
            others = [i for i in range(P) if i != j]
            gap = min(abs(energy[j] - energy[i]) for i in others)
            repulsion = sum(inner[i, j] ** 2 / (energy[j] - energy[i]) for i in others)
            assert series.energy_drive[t, j] == pytest.approx(inner[j, j], abs=1e-8 * max(scale, energy[0]))
            bound = 1e-8 * (scale + scale**2 / gap) * (1 + energy[0] / gap)
            assert series.energy_repulsion[t, j] == pytest.approx(repulsion, abs=bound)
    assert np.isnan(series.energy_drive[0]).all()
    assert np.isnan(series.energy_repulsion[0]).all()


def test_the_repulsion_explains_what_the_drive_leaves_of_a_small_change():
    deltas = updates_of("periodic")
    series = window_series(gram_of(deltas), 5, P)
    change = np.diff(series.sigma**2, axis=0)
    left = np.abs(change - series.energy_drive[1:]).max()
    assert np.abs(change - series.energy_drive[1:] - series.energy_repulsion[1:]).max() < 0.05 * left


@CASES
def test_the_authors_stability_follows_their_formula(case):
    deltas = updates_of(case)
    series = window_series(gram_of(deltas), 5, P)
    sigma = [s for _, s, _ in dense_of(deltas, 5)]
    for t in range(1, len(sigma)):
        energy, before = sigma[t] ** 2, sigma[t - 1] ** 2
        for k in range(5):
            gap = min(abs(energy[k] - energy[j]) for j in range(5) if j != k)
            alpha = max(0.0, 1 - ((energy - before) ** 2).sum() / gap**2)
            assert series.stability_proxy[t, k] == pytest.approx(alpha, abs=1e-8)
    assert case != "periodic" or (series.stability_proxy[1:] > 0.9).all()


@CASES
@SIZES
def test_the_unit_edge_is_that_of_updates_scaled_to_length_one(case, size):
    deltas = updates_of(case) * np.logspace(0, 2, 14)[:, None]
    series = window_series(gram_of(deltas), size, P)
    for t, x in enumerate(oracles.dense_windows(deltas, size)):
        sigma = np.linalg.svd(x / np.linalg.norm(x, axis=1, keepdims=True), compute_uv=False)
        ratio = sigma[:-1] / sigma[1:]
        assert series.edge_ratio_unit[t] == pytest.approx(ratio.max(), rel=1e-7)
        assert series.edge_k_unit[t] == ratio.argmax() + 1


def test_a_learning_rate_makes_a_ratio_but_no_unit_ratio():
    deltas = np.eye(8, P) * np.repeat([10.0, 1.0], 4)[:, None]
    series = window_series(gram_of(deltas), 8, P)
    assert (series.edge_ratio[0], series.edge_k[0]) == (pytest.approx(10), 4)
    assert series.edge_ratio_unit[0] == pytest.approx(1)


def test_a_window_with_a_zero_update_has_no_unit_edge_and_says_where_the_unresolved_begin():
    deltas = updates_of("momentum")
    deltas[4] = 0
    series = window_series(gram_of(deltas), 3, P)
    assert np.isnan(series.edge_ratio_unit).tolist() == [2 <= t <= 4 for t in range(12)]
    assert series.edge_k_unit[3] == 0
    assert series.unresolved_from.tolist() == [3 if 2 <= t <= 4 else 0 for t in range(12)]


def noise_windows(size, dimension, draws=400):
    """Singular values (draws, W) of random rows of norm 1."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((draws, size, dimension))
    return np.linalg.svd(rows / np.linalg.norm(rows, axis=2, keepdims=True), compute_uv=False)


@pytest.mark.parametrize(("size", "dimension"), [(10, 100), (10, 1000), (30, 300), (5, 500)])
@pytest.mark.parametrize("parameters", [1, 10_000])
def test_noise_levels_are_those_of_sampled_noise(size, dimension, parameters):
    p = dimension * parameters
    sampled = edge_scalars(noise_windows(size, dimension), p)
    levels = noise_levels(size, dimension, p)
    above = (noise_windows(size, dimension) >= sampled.mp_edge[:, None]).sum(axis=1)
    assert levels.mp_edge == pytest.approx(sampled.mp_edge.mean(), rel=0.02)
    assert levels.bbp_ratio == pytest.approx(sampled.bbp_ratio.mean(), rel=0.05)
    assert levels.above_mp == pytest.approx(above.mean(), abs=0.6 if size < 30 else 1.2)


def test_the_published_figure_lies_below_the_noise_value_of_its_threshold():
    levels = noise_levels(10, FIGURE_1A_PARAMETERS, FIGURE_1A_PARAMETERS)
    scalars = edge_scalars(FIGURE_1A, FIGURE_1A_PARAMETERS)
    assert levels.bbp_ratio == pytest.approx(65, abs=0.5)
    assert scalars.bbp_ratio == pytest.approx(23.0, abs=0.05)
    assert noise_levels(10, 400, FIGURE_1A_PARAMETERS).above_mp == pytest.approx(7.6, abs=0.1)
    assert (scalars.mp_edge <= FIGURE_1A).sum() == 7
    root_mean_square = np.sqrt((FIGURE_1A**2).mean())
    assert levels.mp_edge * root_mean_square > scalars.mp_edge


def test_there_are_no_noise_levels_below_as_many_dimensions_as_updates():
    levels = noise_levels(10, 5, 1000)
    assert np.isnan([levels.mp_edge, levels.above_mp, levels.bbp_ratio]).all()


@pytest.mark.parametrize("dimension", [16, 100])
def test_the_overlaps_of_noise_are_those_of_explicit_random_updates(dimension):
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((1500, 11, dimension))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    before, after = (np.linalg.svd(part, full_matrices=False)[2] for part in (rows[:, :-1], rows[:, 1:]))
    explicit = np.abs(np.vecdot(before, after))
    found = noise_overlaps(10, dimension, draws=3000)
    np.testing.assert_allclose(found.median, np.median(explicit, axis=0), atol=0.05)
    np.testing.assert_allclose(found.high[0], np.quantile(explicit[:, 0], 0.95), atol=0.02)
    assert 0.75 < explicit[:, 0].mean() < 0.9


def test_halves_that_are_windows_of_a_smaller_size_are_taken_from_there():
    deltas = np.random.default_rng(12).standard_normal((40, 300))
    deltas[17, 3] = np.nan
    gram, known = gram_of(deltas), {}
    for size in (4, 5, 8, 11):
        shared, alone = window_series(gram, size, 300, None, known), window_series(gram, size, 300)
        for name in ("sigma", "overlap_previous", "stability_split", "energy_repulsion"):
            np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name))
    assert sorted(known) == [4, 5, 8, 11]


@pytest.mark.parametrize("dimension", [1100, 1e8])
def test_one_dimension_stands_for_the_overlaps_of_all_that_are_many(dimension):
    assert overlap_dimension(dimension, 10) == pytest.approx(4000)
    products = draw_cosines(11, dimension, 3000, 8).cosines
    (energy, vectors), (old_energy, old) = (
        np.linalg.eigh(part) for part in (products[:, 1:, 1:], products[:, :-1, :-1])
    )
    across = np.swapaxes(vectors, 1, 2) @ products[:, 1:, :-1] @ old / np.sqrt(energy[:, :, None] * old_energy[:, None])
    own = np.abs(np.diagonal(across, axis1=1, axis2=2))[:, ::-1]
    found = noise_overlaps(10, dimension, draws=3000)
    np.testing.assert_allclose(found.median, np.median(own, axis=0), atol=0.03)
    np.testing.assert_allclose(found.high, np.quantile(own, 0.95, axis=0), atol=0.02)


def test_noise_in_fewer_dimensions_than_updates_has_overlaps_where_it_has_directions():
    assert np.isfinite(noise_overlaps(6, 3).median).tolist() == [True] * 3 + [False] * 3


def test_the_noise_edge_of_a_window_has_the_energy_of_its_updates():
    rng = np.random.default_rng(1)
    deltas = 7 * rng.standard_normal((30, 2000))
    series = window_series(gram_of(deltas), 10, 2000)
    columns = noise_columns(series, 2000, 2000)
    np.testing.assert_allclose(columns["mp_edge_noise"], series.mp_edge, rtol=0.03)
    np.testing.assert_allclose(columns["bbp_ratio_noise"], series.bbp_ratio, rtol=0.06)
    assert columns["noise_level"].mean() == pytest.approx(7, rel=0.05)
    assert columns["above_mp"].mean() == pytest.approx(columns["above_mp_noise"][0], abs=1)


def test_a_logged_rate_is_summed_over_the_steps_between_checkpoints():
    steps = np.arange(0, 101, 5)
    schedule = Schedule(steps, 0.1 * np.cos(steps / 40))
    checkpoints = np.array([0, 30, 42, 100])
    each = np.interp(np.arange(101), steps, 0.1 * np.cos(steps / 40))
    wanted = [np.trapezoid(each[a : b + 1]) for a, b in pairwise(checkpoints)]
    np.testing.assert_allclose(schedule.sums(checkpoints), wanted, rtol=1e-12)
    np.testing.assert_allclose(schedule.at_checkpoints(checkpoints), each[checkpoints])


def test_a_rate_reaches_one_interval_beyond_its_log_and_no_further():
    schedule = Schedule(np.array([10, 20]), np.array([1.0, 2.0]))
    checkpoints = np.array([0, 10, 20, 30, 40])
    np.testing.assert_allclose(schedule.at_checkpoints(checkpoints), [1, 1, 2, 2, np.nan])
    np.testing.assert_allclose(schedule.sums(checkpoints), [10, 15, 20, np.nan])
    none = Schedule(np.zeros(0, dtype=int), np.zeros(0))
    assert np.isnan(none.at_checkpoints(checkpoints)).all()
    assert np.isnan(none.sums(checkpoints)).all()


def test_the_adiabatic_parameter_has_both_conventions_and_none_at_a_rate_of_zero():
    series = window_series(gram_of(updates_of("momentum", n=6)), 4, P)
    lr = np.array([0.0, 0.1, 0.1, 0.1, 0.1, 0.0, 0.3])
    logged = Logged(lr, np.full(6, 5.0), np.full(6, np.nan), np.full(7, np.nan))
    columns = adiabatic_columns(series, logged)
    np.testing.assert_allclose(columns["lr"], lr[4:])
    np.testing.assert_allclose(columns["adiabatic_step"], series.adiabatic_free / [0.1, np.nan, 0.3])
    np.testing.assert_allclose(columns["adiabatic_interval"], series.adiabatic_free / 5)
