from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.gram import Gram, RoundingUnit, gram_sums
from sedarchive.nulls.bands import (
    EDGE_TOLERANCE,
    NullCache,
    effective_dimension,
    is_closed_form,
    null_bands,
    sampled_null,
)
from sedarchive.nulls.leaders import leader_dimension, leader_profiles
from sedarchive.rolling.windows import window_series

FLOAT64 = RoundingUnit(52, -1022)


def gram_of(deltas, band=None):
    theta = np.concatenate([np.zeros((1, deltas.shape[1])), np.cumsum(deltas, axis=0)])
    return Gram.of(gram_sums(theta, FLOAT64, band))


def jittered_norms(n_windows, size, seed=0, jitter=0.05):
    """Norms of a cosine learning rate with jitter, in rolling windows."""
    n = n_windows + size - 1
    rate = 0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(n) / n))
    norms = rate * np.exp(jitter * np.random.default_rng(seed).standard_normal(n))
    return np.lib.stride_tricks.sliding_window_view(norms, size).copy()


@pytest.mark.parametrize("dimension", [20, 100])
def test_random_walks_give_back_the_dimension_they_live_in(dimension):
    deltas = np.random.default_rng(1).standard_normal((200, dimension)) * np.linspace(1, 3, 200)[:, None]
    assert effective_dimension(gram_of(deltas), dimension * 100) == pytest.approx(dimension, rel=0.05)


def test_the_correlation_of_neighbouring_updates_does_not_count():
    noise = np.random.default_rng(2).standard_normal((201, 300))
    momentum = noise[1:] + noise[:-1]
    assert effective_dimension(gram_of(momentum), 300) == pytest.approx(300, rel=0.05)


def test_a_common_drift_lowers_the_effective_dimension():
    rng = np.random.default_rng(3)
    deltas = rng.standard_normal((60, 1000)) + rng.standard_normal(1000)
    assert effective_dimension(gram_of(deltas), 1000) == pytest.approx(4, rel=0.1)


def test_the_effective_dimension_of_a_band_uses_the_distant_half_of_the_band():
    deltas = np.random.default_rng(4).standard_normal((300, 50))
    assert effective_dimension(gram_of(deltas, 20), 50 * 100) == pytest.approx(50, rel=0.05)


@pytest.mark.parametrize("n_updates", [0, 1, 2, 5])
def test_too_few_distant_pairs_leave_the_number_of_parameters(n_updates):
    deltas = np.random.default_rng(5).standard_normal((n_updates, 10))
    assert effective_dimension(gram_of(deltas), 777) == 777


def test_the_effective_dimension_lies_between_two_and_the_number_of_parameters():
    rng = np.random.default_rng(6)
    assert effective_dimension(gram_of(np.tile(rng.standard_normal(30), (20, 1))), 30) == 2
    assert effective_dimension(gram_of(np.eye(20, 30)), 30) == 30
    assert effective_dimension(gram_of(rng.standard_normal((40, 8))), 6) == 6


def test_updates_that_are_zero_or_not_finite_are_left_out_of_the_dimension():
    deltas = np.random.default_rng(7).standard_normal((120, 40))
    deltas[5] = 0
    gram = gram_of(deltas)
    gram.full[60], gram.full[:, 60] = np.nan, np.nan
    assert effective_dimension(gram, 4000) == pytest.approx(40, rel=0.05)


def test_ten_equal_norms_in_64_dimensions_have_the_published_largest_ratios():
    null = sampled_null(np.ones(10), 64, draws=4000)
    assert null.edge_ratios.mean() == pytest.approx(1.17, abs=0.006)
    assert np.quantile(null.edge_ratios, 0.95) == pytest.approx(1.27, abs=0.012)


@pytest.mark.parametrize(("dimension", "size"), [(64, 6), (8, 6), (6, 6), (4, 6), (300, 10)])
def test_the_sampled_null_is_that_of_explicit_random_vectors(dimension, size):
    norms = np.linspace(1, 1.4, size)
    draws = 3000
    null = sampled_null(np.random.default_rng(0).permutation(norms), dimension, draws, seed=3)
    sigma = oracles.gaussian_null(norms, dimension, draws, seed=8)
    kept = min(dimension, size)
    ratio = sigma[:, :-1] / sigma[:, 1:]
    spread = ratio.std(axis=0).max() + sigma.std(axis=0).max()
    np.testing.assert_allclose(null.sigma_median[:kept], np.median(sigma, axis=0), atol=0.06 * spread, rtol=1e-3)
    for found, quantile in ((null.ratio_low, 0.025), (null.ratio_median, 0.5), (null.ratio_high, 0.975)):
        expected = np.quantile(ratio, quantile, axis=0)
        share = np.array([(ratio[:, k] < found[k]).mean() for k in range(kept - 1)])
        assert np.all(np.abs(share - quantile) < 0.035), (found, expected)
    edge = ratio.max(axis=1)
    assert abs((edge < np.quantile(null.edge_ratios, 0.95)).mean() - 0.95) < 0.015
    assert np.isnan(null.sigma_median[kept:]).all()
    assert np.isnan(null.ratio_high[max(kept - 1, 0) :]).all()


def test_every_draw_keeps_the_norms():
    norms = np.array([3.0, 1.0, 2.0, 0.5])
    null = sampled_null(norms, 1e5, draws=99)
    np.testing.assert_allclose(np.sum(null.sigma_median**2), np.sum(norms**2), rtol=1e-3)


@settings(max_examples=10, deadline=None)
@given(norms=st.lists(st.floats(0.1, 10), min_size=2, max_size=6), seed=st.integers(0, 5))
def test_the_null_does_not_depend_on_the_order_of_norms_and_scales_with_them(norms, seed):
    norms = np.array(norms)
    null = sampled_null(norms, 30, 99, seed)
    moved = sampled_null(4 * norms[::-1], 30, 99, seed)
    np.testing.assert_allclose(moved.sigma_median, 4 * null.sigma_median, rtol=1e-9)
    np.testing.assert_allclose(moved.edge_ratios, null.edge_ratios, rtol=1e-9)


def test_where_the_closed_form_stands_sampling_differs_by_less_than_its_bound(monkeypatch):
    size, p_eff = 8, 5.1e7
    norms = np.linspace(1, 1.05, size)
    assert is_closed_form(size, p_eff)
    assert not is_closed_form(size, 4.9e7)
    closed = sampled_null(norms, p_eff)
    np.testing.assert_allclose(closed.sigma_median, norms[::-1], rtol=1e-12)
    np.testing.assert_array_equal(closed.ratio_low, closed.ratio_high)
    monkeypatch.setattr("sedarchive.nulls.bands.CLOSED_FORM_ERROR", 0.0)
    for values in (norms, np.ones(size)):
        sampled = sampled_null(values, p_eff)
        ordered = np.sort(values)[::-1]
        np.testing.assert_allclose(sampled.ratio_high, ordered[:-1] / ordered[1:], rtol=1e-3)
        assert sampled.edge_ratios[-1] / np.max(ordered[:-1] / ordered[1:]) < 1 + 1e-3


def errors_of_sharing(norms, p_eff):
    """Largest relative error of median sigma, low and high ratios, median and bound of the largest ratio (n, 5)."""
    bands = null_bands(norms, np.full(len(norms), 1.2), p_eff)
    errors = []
    for i, own in enumerate(norms):
        null = sampled_null(own, p_eff)
        pairs = (
            (bands.sigma_null[i], null.sigma_median),
            (bands.ratio_null_low[i], null.ratio_low),
            (bands.ratio_null_high[i], null.ratio_high),
            (bands.edge_ratio_null[i], np.median(null.edge_ratios)),
            (bands.edge_ratio_null_high[i], np.quantile(null.edge_ratios, 0.95)),
        )
        errors.append([np.abs(found / expected - 1).max() for found, expected in pairs])
    return np.array(errors)


@pytest.mark.parametrize("p_eff", [40, 370, 1000, 1e5])
@pytest.mark.parametrize("size", [5, 12])
def test_windows_that_share_draws_have_nearly_the_null_of_their_own(size, p_eff):
    errors = errors_of_sharing(jittered_norms(60, size)[::3], p_eff)
    assert np.all(np.quantile(errors, 0.9, axis=0) <= [0.02, 0.03, 0.03, 0.01, 0.02])
    assert np.all(errors.max(axis=0) <= [0.04, 0.07, 0.07, 0.03, 0.03])


def test_the_null_follows_the_dimension_between_those_of_the_leaders():
    norms = np.linspace(1, 1.2, 8)[None]
    for p_eff in (140, 181, 230):
        assert np.all(errors_of_sharing(norms, p_eff)[:, [0, 3]] <= 0.01)


@pytest.mark.parametrize("p_eff", [8, 8.3, 11])
def test_the_null_of_nearly_as_many_updates_as_dimensions_errs_by_no_more_than_its_sampling(p_eff):
    errors = errors_of_sharing(jittered_norms(12, 8)[::4], p_eff)
    assert np.all(errors[:, 3] <= 0.03)
    assert np.all(errors[:, 4] <= 0.15)


def test_one_outlying_norm_keeps_its_own_null():
    norms = jittered_norms(3, 10, jitter=0.02)
    norms[1, 4] *= 5
    bands = null_bands(norms, np.full(3, 1.2), 64)
    null = sampled_null(norms[1], 64)
    assert bands.edge_ratio_null[1] == pytest.approx(np.median(null.edge_ratios), rel=0.02)
    assert bands.ratio_null_low[1, 0] > 3


def test_a_window_has_the_same_null_whatever_else_is_asked_and_in_whatever_order():
    norms = jittered_norms(20, 6)
    observed = np.linspace(1.05, 1.4, 20)
    cache = NullCache()
    all_at_once = null_bands(norms, observed, 50, draws=199, cache=cache)
    order = np.random.default_rng(0).permutation(20)
    again = null_bands(norms[order], observed[order], 50, draws=199, cache=cache)
    for name in ("sigma_null", "ratio_null_low", "ratio_null_high", "edge_ratio_null", "edge_ratio_p"):
        together = getattr(all_at_once, name)
        np.testing.assert_array_equal(getattr(again, name), together[order], err_msg=name)
        for i in (0, 13):
            alone = getattr(null_bands(norms[i : i + 1], observed[i : i + 1], 50, draws=199), name)
            np.testing.assert_array_equal(alone[0], together[i], err_msg=name)


def test_equal_seeds_give_equal_bands_and_other_seeds_others():
    norms = jittered_norms(5, 6)
    bands = [null_bands(norms, np.full(5, 1.2), 50, draws=199, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(bands[0].ratio_null_high, bands[1].ratio_null_high)
    assert not np.array_equal(bands[0].ratio_null_high, bands[2].ratio_null_high)


def test_pure_noise_is_called_an_excess_at_about_the_nominal_rate():
    rng = np.random.default_rng(12)
    size, dimension, trials = 6, 40, 400
    windows = [rng.standard_normal((size, dimension)) for _ in range(trials)]
    sigma = np.array([np.linalg.svd(window, compute_uv=False) for window in windows])
    norms = np.array([np.linalg.norm(window, axis=1) for window in windows])
    edge = (sigma[:, :-1] / sigma[:, 1:]).max(axis=1)
    bands = null_bands(norms, edge, dimension)
    assert 0.02 <= np.mean(bands.edge_ratio_p <= 0.05) <= 0.075
    assert 0.4 <= np.mean(bands.edge_ratio_p <= 0.5) <= 0.6
    ratio = sigma[:, :-1] / sigma[:, 1:]
    outside = (ratio < bands.ratio_null_low) | (ratio > bands.ratio_null_high)
    assert 0.03 <= outside.mean() <= 0.07


@pytest.mark.parametrize("p_eff", [3000.0, 1e9])
def test_pure_noise_in_many_dimensions_is_not_called_an_excess_more_often(p_eff):
    rng = np.random.default_rng(13)
    edges, norms = [], []
    for _ in range(100):
        window = rng.standard_normal((5, 3000))
        sigma = np.linalg.svd(window, compute_uv=False)
        edges.append((sigma[:-1] / sigma[1:]).max())
        norms.append(np.linalg.norm(window, axis=1))
    if p_eff > 3000:
        edges = [np.max(np.sort(n)[1:] / np.sort(n)[:-1]) * (1 + 1e-5) for n in norms]
    assert np.mean(null_bands(np.array(norms), np.array(edges), p_eff).edge_ratio_p <= 0.05) <= 0.1


def test_a_planted_mode_is_an_excess_with_the_smallest_p():
    rng = np.random.default_rng(14)
    deltas = rng.standard_normal((30, 500)) + 3 * rng.standard_normal((30, 1)) * rng.standard_normal(500) / 5
    gram = gram_of(deltas)
    series = window_series(gram, 10, 500)
    norms = np.lib.stride_tricks.sliding_window_view(np.linalg.norm(deltas, axis=1), 10)
    assert (null_bands(norms, series.edge_ratio, 500).edge_ratio_p == 1 / 1000).all()


@pytest.mark.parametrize("p_eff", [50.0, 1e9])
def test_p_counts_null_ratios_within_the_tolerance_above(p_eff):
    norms = jittered_norms(1, 5)
    null = sampled_null(norms[0], p_eff)
    high, low = null.edge_ratios[-1] * 1.05, null.edge_ratios[0] * 0.99
    assert null_bands(norms, np.array([high]), p_eff).edge_ratio_p[0] == pytest.approx(1 / 1000)
    assert null_bands(norms, np.array([low]), p_eff).edge_ratio_p[0] == pytest.approx(1)
    edge = null_bands(norms, np.array([1.2]), p_eff).edge_ratio_null[0] * (1 + EDGE_TOLERANCE / 2)
    assert null_bands(norms, np.array([edge]), p_eff).edge_ratio_p[0] > 0.5


@pytest.mark.parametrize("p_eff", [50.0, 1e9])
def test_the_smallest_p_follows_the_number_of_draws(p_eff):
    assert null_bands(jittered_norms(1, 5), np.array([9.0]), p_eff, draws=199).edge_ratio_p[0] == pytest.approx(1 / 200)


def test_windows_without_a_null_have_none():
    norms = np.array([[1.0, np.nan, 2, 3], [0, 0, 0, 0], [1, 0, 0, 0], [1, 2, 0, 0], [1, 2, 3, 4]])
    bands = null_bands(norms, np.array([1.5, np.nan, np.nan, 1.5, np.nan]), 50, draws=199)
    assert np.isnan(bands.edge_ratio_null).tolist() == [True, True, True, False, False]
    assert np.isnan(bands.edge_ratio_p).tolist() == [True, True, True, False, True]
    two = sampled_null(np.array([1.0, 2.0]), 50, 199)
    np.testing.assert_allclose(bands.sigma_null[3, :2], two.sigma_median, rtol=0.02)
    assert np.isnan(bands.sigma_null[3, 2:]).all()
    assert np.isnan(bands.ratio_null_high[3, 1:]).all()


def test_no_windows_have_no_nulls():
    assert null_bands(np.empty((0, 5)), np.empty(0), 50).edge_ratio_p.shape == (0,)


@settings(max_examples=40, deadline=None)
@given(p_eff=st.floats(2, 1e9), size=st.integers(2, 40))
def test_the_dimension_of_the_leaders_is_near_and_on_the_same_side_of_the_window_size(p_eff, size):
    dimension = leader_dimension(p_eff, size)
    octaves = abs(np.log2(dimension / p_eff))
    assert octaves <= 1 / 2 + 1e-9
    if size <= p_eff < 2 * size:
        assert abs(np.log2((dimension - size + 1) / (p_eff - size + 1))) <= 1 / 8 + 1e-9
    assert (dimension < size) == (round(p_eff) < size and p_eff < size)


@settings(max_examples=40, deadline=None)
@given(logs=st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_a_leader_is_descending_and_as_steep_as_its_profile(logs):
    profile = np.sort(np.array(logs))[::-1]
    profile = profile - profile.mean()
    leader = leader_profiles(profile[None])[0]
    assert (np.diff(leader) <= 0).all()
    assert abs(leader.mean()) < 1e-9
    assert np.sqrt(np.mean((leader - profile) ** 2)) <= 0.2 + 0.5 * np.sqrt(np.mean(profile**2))


@pytest.mark.parametrize("at", [1, 3, 7, 11])
def test_a_leader_keeps_a_step_of_the_learning_rate(at):
    profile = np.where(np.arange(12) < at, np.log(10), 0.0) - 0.002 * np.arange(12)
    leader = leader_profiles((profile - profile.mean())[None])[0]
    assert -np.diff(leader)[at - 1] == pytest.approx(np.log(10), abs=0.3)
    assert np.delete(-np.diff(leader), at - 1).max() < 0.1


def test_windows_of_a_schedule_with_jitter_share_few_leaders():
    profiles = -np.sort(-np.log(jittered_norms(400, 15)), axis=1)
    leaders = leader_profiles(profiles - profiles.mean(axis=1, keepdims=True))
    assert 1 < len(np.unique(leaders, axis=0)) <= 8


def test_threads_that_share_a_cache_get_the_bands_of_one():
    windows = [(jittered_norms(12, size, seed), p_eff) for seed in range(3) for size, p_eff in ((5, 60), (7, 900))]

    def bands(task, cache):
        return null_bands(task[0], np.full(12, 1.2), task[1], draws=99, cache=cache)

    cache = NullCache()
    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(lambda task: bands(task, cache), windows))
    for task, found in zip(windows, shared, strict=True):
        alone = bands(task, NullCache())
        np.testing.assert_array_equal(found.ratio_null_high, alone.ratio_null_high)
        np.testing.assert_array_equal(found.edge_ratio_p, alone.edge_ratio_p)
