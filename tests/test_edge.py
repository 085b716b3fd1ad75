import numpy as np
import oracles
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sedarchive.errors import BandError
from sedarchive.gram import Gram, RoundingUnit, gram_sums
from sedarchive.rolling.edge import detection_threshold, edge_scalars
from sedarchive.rolling.windows import update_series, window_series

FLOAT64 = RoundingUnit(52, -1022)
FIGURE_1A = np.array([198.58, 169.08, 122.47, 110.73, 106.22, 92.66, 78.30, 61.27, 44.58, 22.79])
FIGURE_1A_PARAMETERS = 163_150_848


def gram_of(deltas, band=None):
    """The Gram matrix of a history with these updates; numpy only, as the starting point is 0."""
    theta = np.concatenate([np.zeros((1, deltas.shape[1])), np.cumsum(deltas, axis=0)])
    return Gram.of(gram_sums(theta, FLOAT64, band)), np.diff(theta, axis=0)


def spectrum_case(name, n, p, rng):
    noise = rng.standard_normal((n, p))
    if name == "independent":
        return noise
    if name == "nearly collinear":
        return np.outer(1 + 0.1 * rng.random(n), rng.standard_normal(p)) + 1e-4 * noise
    if name == "decaying":
        return noise * np.logspace(0, -5, n)[:, None]
    if name == "low rank":
        return rng.standard_normal((n, 3)) @ rng.standard_normal((3, p))
    assert name == "momentum"
    rows = [noise[0]]
    for row in noise[1:]:
        rows.append(0.95 * rows[-1] + 0.05 * row)
    return np.array(rows)


def test_the_published_figure_1a_is_reproduced_from_its_singular_values():
    scalars = edge_scalars(FIGURE_1A, FIGURE_1A_PARAMETERS)
    assert scalars.edge_k == 9
    assert scalars.signal_rank_argmax == 9
    assert scalars.signal_rank == 2
    assert scalars.signal_rank_weighted == 2
    assert scalars.edge_ratio == pytest.approx(1.956, abs=5e-4)
    assert scalars.mp_edge == pytest.approx(64.79, abs=5e-3)
    assert scalars.mp_edge**2 == pytest.approx(4197.6, abs=0.2)
    assert detection_threshold(FIGURE_1A, FIGURE_1A_PARAMETERS) == pytest.approx(0.993, abs=5e-4)
    assert scalars.bbp_ratio == pytest.approx(23.0, abs=0.05)
    assert scalars.gap == pytest.approx(169.08 - 122.47)


@settings(max_examples=60, deadline=None)
@given(
    sigma=st.lists(st.floats(0.01, 100), min_size=2, max_size=12).map(lambda s: sorted(s, reverse=True)),
    p=st.integers(2, 10**9),
)
def test_scalars_follow_their_definitions(sigma, p):
    expected = oracles.edge_numbers(sigma, p)
    assume(np.min(np.abs(np.array(sigma) / expected["mp_edge"] - 1)) > 1e-12)
    scalars = edge_scalars(np.array(sigma), p)
    for name, value in expected.items():
        if name == "k95":
            share = np.cumsum(np.square(sigma)) / np.sum(np.square(sigma))
            assert scalars.k95 == value or abs(share[min(scalars.k95, value) - 1] - 0.95) < 1e-9
        elif name == "signal_rank_weighted":
            score = np.array(sigma[:-1]) ** 2 / np.array(sigma[1:])
            assert score[scalars.signal_rank_weighted - 1] == pytest.approx(score[value - 1])
        else:
            assert getattr(scalars, name) == pytest.approx(value, rel=1e-11, nan_ok=True), name


def test_unresolved_values_count_as_zero_in_sums_and_have_no_ratio():
    sigma = np.array([4.0, 2.0, np.nan, np.nan])
    scalars = edge_scalars(sigma, 100)
    assert scalars.edge_ratio == 2
    assert scalars.edge_k == 1
    assert scalars.pc1_share == pytest.approx(0.8)
    assert scalars.k95 == 2
    assert scalars.mp_edge == 0
    assert scalars.signal_rank == 1
    assert np.isnan(scalars.bbp_ratio)


def test_a_window_without_a_value_has_no_scalars():
    scalars = edge_scalars(np.full((1, 4), np.nan), 100)
    assert np.isnan([scalars.edge_ratio, scalars.gap, scalars.noise, scalars.mp_edge, scalars.pc1_share]).all()
    assert (scalars.edge_k, scalars.signal_rank, scalars.signal_rank_mp, scalars.k95) == (0, 0, 0, 0)


@pytest.mark.parametrize(("sigma", "p"), [(np.ones(1), 10), (np.ones(3), 0)])
def test_scalars_of_nothing_are_refused(sigma, p):
    with pytest.raises(ValueError, match="no edge"):
        edge_scalars(sigma, p)


@pytest.mark.parametrize("size", [2, 5, 10])
@pytest.mark.parametrize("case", ["independent", "nearly collinear", "decaying", "low rank", "momentum"])
def test_window_singular_values_are_those_of_the_dense_matrix(case, size):
    rng = np.random.default_rng(7)
    gram, deltas = gram_of(spectrum_case(case, 16, 400, rng))
    series = window_series(gram, size, 400)
    assert len(series) == 16 - size + 1
    for found, status, dense in zip(
        series.sigma, series.sigma_status, oracles.dense_windows(deltas, size), strict=True
    ):
        sigma = np.linalg.svd(dense, compute_uv=False)
        for k in range(size):
            if status[k] == "ok":
                assert abs(found[k] / sigma[k] - 1) <= 1e-9 + 1e-14 * (sigma[0] / sigma[k]) ** 2
                assert sigma[k] > 0.9e-7 * sigma[0]
            else:
                assert status[k] == "unresolved"
                assert np.isnan(found[k])
                assert sigma[k] < 1.1e-7 * sigma[0]


def test_eigenvalues_of_a_low_rank_window_at_rounding_level_are_unresolved():
    rng = np.random.default_rng(3)
    for p in (50, 20_000):
        series = window_series(gram_of(spectrum_case("low rank", 30, p, rng))[0], 20, p)
        assert (series.sigma_status[:, :3] == "ok").all()
        assert (series.sigma_status[:, 3:] == "unresolved").all()
        assert (series.status == "unresolved").all()
        assert (series.k95 <= 3).all()


def test_identical_updates_leave_one_resolved_value():
    gram, _ = gram_of(np.tile(np.random.default_rng(0).standard_normal(300), (12, 1)))
    series = window_series(gram, 6, 300)
    assert (series.sigma_status[:, 0] == "ok").all()
    assert (series.sigma_status[:, 1:] == "unresolved").all()
    assert np.isnan(series.edge_ratio).all()
    assert (series.signal_rank == 0).all()
    np.testing.assert_allclose(series.overlap_previous[1:, 0], 1, rtol=1e-9)


def dense_modes(dense):
    _, sigma, right = np.linalg.svd(dense, full_matrices=False)
    return sigma, right


@pytest.mark.parametrize("case", ["momentum", "periodic"])
def test_comparisons_with_the_window_before_follow_the_dense_matrices(case):
    rng = np.random.default_rng(11)
    size, p = 5, 60
    updates = spectrum_case("momentum", 12, p, rng) * rng.uniform(0.5, 2, (12, 1))
    if case == "periodic":  # what leaves a window is nearly what enters it: the bound lies strictly between 0 and 1
        orthogonal = np.arange(1, 6)[:, None] * np.eye(5, p)
        updates = np.tile(orthogonal, (3, 1))[:12] + 3e-3 * rng.standard_normal((12, p))
    gram, deltas = gram_of(updates)
    series = window_series(gram, size, p)
    windows = oracles.dense_windows(deltas, size)
    for t in range(1, len(windows)):
        new, old = windows[t], windows[t - 1]
        (sigma, v), (sigma_old, v_old) = dense_modes(new), dense_modes(old)
        np.testing.assert_allclose(series.overlap_previous[t], np.abs(np.sum(v * v_old, axis=1)), atol=1e-9)
        change = np.linalg.norm(new.T @ new - old.T @ old)
        assert series.gram_change_operator[t] == pytest.approx(change, rel=1e-9)
        assert series.gram_change_positional[t] == pytest.approx(np.linalg.norm(new @ new.T - old @ old.T), rel=1e-9)
        assert series.gram_change_proxy[t] == pytest.approx(np.linalg.norm(sigma**2 - sigma_old**2), rel=1e-9)
        energy = [*(sigma**2), 0.0]
        for k in range(size):
            gap = min(abs(energy[k] - energy[j]) for j in (k - 1, k + 1) if j >= 0)
            bound = np.sqrt(max(0.0, 1 - (2 * change / gap) ** 2))
            assert series.stability_dk[t, k] == pytest.approx(bound, abs=1e-7)
        assert series.drift_speed[t] == pytest.approx(np.linalg.norm(new.mean(axis=0)), rel=1e-9)
        assert case == "momentum" or (series.stability_dk[t] > 0).all()
        if series.signal_rank[t]:
            assert series.adiabatic_free[t] == pytest.approx(change / series.gap[t] ** 2, rel=1e-9)
    first = [
        series.gram_change_operator,
        series.gram_change_positional,
        series.gram_change_proxy,
        series.adiabatic_free,
    ]
    assert all(np.isnan(values[0]) for values in first)
    assert np.isnan(series.overlap_previous[0]).all()
    assert np.isnan(series.stability_dk[0]).all()


@pytest.mark.parametrize("case", ["nearly collinear", "momentum", "independent", "planted"])
def test_the_stability_bound_is_never_above_the_overlap_and_sometimes_says_something(case):
    rng = np.random.default_rng(5)
    if case == "planted":
        coefficients = rng.choice([-1.0, 1.0], (40, 1)) * [[10.0, 0.0]] + rng.standard_normal((40, 2))
        deltas = coefficients @ np.eye(2, 80) + 0.01 * rng.standard_normal((40, 80))
    else:
        deltas = spectrum_case(case, 40, 80, rng)
    series = window_series(gram_of(deltas)[0], 20, 80)
    known = ~np.isnan(series.stability_dk) & ~np.isnan(series.overlap_previous)
    assert known.any()
    assert (series.overlap_previous[known] >= series.stability_dk[known] - 1e-9).all()
    if case == "planted":
        assert (series.stability_dk[1:, 0] > 0.9).all()


@pytest.mark.parametrize("size", [4, 5, 8])
def test_split_stability_compares_the_halves_of_a_window(size):
    rng = np.random.default_rng(2)
    gram, deltas = gram_of(spectrum_case("nearly collinear", 11, 50, rng) + rng.standard_normal((11, 50)))
    series = window_series(gram, size, 50)
    half = size // 2
    for found, dense in zip(series.stability_split, oracles.dense_windows(deltas, size), strict=True):
        _, first = dense_modes(dense[:half])
        _, second = dense_modes(dense[-half:])
        np.testing.assert_allclose(found[:half], np.abs(np.sum(first * second, axis=1)), atol=1e-9)
        assert np.isnan(found[half:]).all()


def test_windows_of_three_updates_have_no_halves():
    gram, _ = gram_of(np.random.default_rng(0).standard_normal((6, 20)))
    assert np.isnan(window_series(gram, 3, 20).stability_split).all()


@pytest.mark.parametrize("bad", [0, 7, 14])
def test_a_non_finite_update_spoils_its_own_windows_only(bad):
    rng = np.random.default_rng(0)
    clean, _ = gram_of(rng.standard_normal((15, 40)))
    full = clean.full.copy()
    full[bad + 1], full[:, bad + 1] = np.nan, np.nan
    series = window_series(Gram(full, None, full[0]), 4, 40)
    expected = window_series(clean, 4, 40)
    for i, last in enumerate(series.last_update):
        holds = last - 3 <= bad <= last
        assert (series.status[i] == "nonfinite") == holds
        assert np.isnan(series.sigma[i]).all() == holds
        if holds:
            assert np.isnan([series.edge_ratio[i], series.drift_speed[i], series.gram_change_operator[i]]).all()
            assert np.isnan(series.resolution[i])
            assert series.signal_rank[i] == 0
            continue
        np.testing.assert_array_equal(series.sigma[i], expected.sigma[i])
        np.testing.assert_array_equal(series.stability_split[i], expected.stability_split[i])
        compared = i > 0 and not last - 4 <= bad <= last
        assert np.isfinite(series.gram_change_operator[i]) == compared
        assert np.isfinite(series.overlap_previous[i]).all() == compared


def test_a_window_of_zero_updates_is_zero_and_not_an_error():
    deltas = np.random.default_rng(0).standard_normal((12, 30))
    deltas[3:8] = 0
    series = window_series(gram_of(deltas)[0], 4, 30)
    zero = [3, 4]
    assert series.status[zero].tolist() == ["zero", "zero"]
    assert (series.sigma[zero] == 0).all()
    assert (series.sigma_status[zero] == "zero").all()
    assert np.isnan(series.ratio[zero]).all()
    assert np.isnan(series.pc1_share[zero]).all()
    assert (series.k95[zero] == 0).all()
    assert series.status[2] == "unresolved"
    assert series.sigma_status[2].tolist() == ["ok", "unresolved", "unresolved", "unresolved"]


@settings(max_examples=20, deadline=None)
@given(size=st.integers(2, 7), seed=st.integers(0, 50), exponent=st.integers(-40, 40))
def test_windows_do_not_depend_on_the_order_of_elements_and_scale_with_the_updates(size, seed, exponent):
    rng = np.random.default_rng(seed)
    deltas = rng.standard_normal((10, 30))
    series = window_series(gram_of(deltas)[0], size, 30)
    moved = window_series(gram_of(2.0**exponent * deltas[:, rng.permutation(30)])[0], size, 30)
    np.testing.assert_allclose(moved.sigma, 2.0**exponent * series.sigma, rtol=1e-9)
    np.testing.assert_allclose(moved.ratio, series.ratio, rtol=1e-9)
    np.testing.assert_allclose(moved.overlap_previous, series.overlap_previous, atol=1e-7)
    np.testing.assert_array_equal(moved.edge_k, series.edge_k)


@pytest.mark.parametrize("size", [2, 5])
def test_a_band_of_the_window_size_gives_the_same_windows_and_a_narrower_one_says_so(size):
    deltas = np.random.default_rng(0).standard_normal((12, 30))
    full = window_series(gram_of(deltas)[0], size, 30)
    banded = window_series(gram_of(deltas, size)[0], size, 30)
    np.testing.assert_allclose(banded.sigma, full.sigma, rtol=1e-9)
    np.testing.assert_allclose(banded.overlap_previous, full.overlap_previous, atol=1e-9)
    with pytest.raises(BandError, match=f"--band {size}"):
        window_series(gram_of(deltas, size - 1)[0], size, 30)


def test_many_windows_in_several_batches_are_the_same_as_in_one(monkeypatch):
    gram, _ = gram_of(np.random.default_rng(0).standard_normal((30, 20)))
    one = window_series(gram, 5, 20)
    monkeypatch.setattr("sedarchive.rolling.windows._BATCH_ENTRIES", 4 * 36)
    several = window_series(gram, 5, 20)
    np.testing.assert_array_equal(one.sigma, several.sigma)
    np.testing.assert_array_equal(one.gram_change_operator, several.gram_change_operator)
    np.testing.assert_array_equal(one.overlap_previous, several.overlap_previous)
    np.testing.assert_array_equal(one.last_update, several.last_update)


@pytest.mark.parametrize("n_updates", [0, 1, 4])
def test_a_history_shorter_than_the_window_has_no_windows(n_updates):
    full = np.eye(n_updates + 1)
    series = window_series(Gram(full, None, full[0]), 5, 10)
    assert len(series) == 0
    assert series.sigma.shape == (0, 5)


def test_a_window_of_one_update_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        window_series(Gram(np.eye(4), None, np.eye(4)[0]), 1, 10)


def test_update_series_follow_their_definitions():
    rng = np.random.default_rng(4)
    deltas = rng.standard_normal((6, 25))
    deltas[3] = 0
    gram, deltas = gram_of(deltas)
    zeros, rounding = np.arange(7), rng.random(7)
    series = update_series(gram, zeros, rounding, 25)
    np.testing.assert_allclose(series.norm, np.linalg.norm(deltas, axis=1), rtol=1e-12, atol=1e-12)
    cosines = [d @ e / (np.linalg.norm(d) * np.linalg.norm(e)) for d, e in [(deltas[0], deltas[1])]]
    assert series.cos_previous[1] == pytest.approx(cosines[0], rel=1e-9)
    assert np.isnan(series.cos_previous[[0, 3, 4]]).all()
    assert series.status.tolist() == ["ok", "ok", "ok", "zero", "ok", "ok"]
    np.testing.assert_allclose(series.zero_fraction, np.arange(1, 7) / 25)
    energy = np.sum(deltas**2, axis=1)
    for i in (0, 1, 2, 4, 5):
        assert series.quantization_noise[i] == pytest.approx((rounding[i] + rounding[i + 1]) / energy[i], rel=1e-9)
    assert np.isnan(series.quantization_noise[3])


def test_an_update_that_is_not_finite_is_marked_and_its_neighbour_loses_the_cosine():
    full = np.eye(6)
    full[3], full[:, 3] = np.nan, np.nan
    series = update_series(Gram(full, None, full[0]), np.zeros(6, dtype=int), np.zeros(6), 25)
    assert series.status.tolist() == ["ok", "ok", "nonfinite", "ok", "ok"]
    assert np.isnan(series.cos_previous).tolist() == [True, False, True, True, False]


def test_quantisation_noise_of_stored_bfloat16_is_that_of_the_rounding():
    rng = np.random.default_rng(9)
    exact = rng.standard_normal(200_000) + 1e-3 * np.cumsum(rng.standard_normal((2, 200_000)), axis=0)
    bits = exact.astype(np.float32).view(np.uint32)
    stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    sums = gram_sums(stored, RoundingUnit(7, -126))
    series = update_series(Gram.of(sums), sums.zeros, sums.rounding, 200_000)
    error = np.sum((np.diff(stored, axis=0) - np.diff(exact, axis=0)) ** 2)
    independent = np.sum((stored - exact) ** 2)
    assert series.quantization_noise[0] * series.norm[0] ** 2 == pytest.approx(independent, rel=0.02)
    assert error < 1.1 * independent
