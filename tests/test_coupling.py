"""Couplings: naive oracles for every number, planted lags found, and p-values that keep their size."""

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
import series
from hypothesis import given, settings
from hypothesis import strategies as st
from series import Search, autoregressive, integrated_tail, lag_test

from sedarchive.inference.correlation import (
    correlation_p,
    effective_size,
    effective_size_xu,
    fisher_interval,
    lag_one,
    peak_interval,
)
from sedarchive.inference.lags import MIN_PAIRS, reach_for, scan_lags
from sedarchive.inference.separate import scan_separately
from sedarchive.inference.significance import lag_flip, largest_null
from sedarchive.inference.standing import Standing, p_values
from sedarchive.inference.surrogates import phase_randomised, surrogates
from sedarchive.inference.trends import DEGREES, trend_basis, without_trend
from sedarchive.presets import LagSearch


def rng(*seed):
    return np.random.default_rng(seed)


# Trends


@pytest.mark.parametrize("detrend", DEGREES)
def test_a_trend_is_that_of_a_polynomial_fit(detrend):
    steps = np.cumsum(rng(1).integers(1, 5, 40)) * 100.0
    values = rng(2).standard_normal((3, 40)) * 5 + 1e-9 * steps**3
    values[1, [0, 7, 39]] = np.nan
    left = without_trend(values, steps, DEGREES[detrend])
    for row, found in zip(values, left, strict=True):
        known = np.isfinite(row)
        time = (steps - steps.mean()) / 1000
        expected = row - np.polyval(np.polyfit(time[known], row[known], DEGREES[detrend]), time)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert (np.isfinite(found) == known).all()


def test_a_learning_rate_is_regressed_out_with_the_trend():
    steps, lr = np.arange(50.0), series.cosine_rate(50)
    values = rng(3).standard_normal((2, 50))
    design = np.column_stack([np.ones(50), steps, lr])
    expected = values - (design @ np.linalg.lstsq(design, values.T, rcond=None)[0]).T
    np.testing.assert_allclose(without_trend(values, steps, 1, [lr]), expected, atol=1e-12)


def test_what_depends_on_the_trend_adds_nothing_to_it():
    steps = np.arange(30.0)
    assert trend_basis(steps, 1, [np.full(30, 3e-4), 2 - 5 * steps]).shape == (30, 2)
    assert trend_basis(steps[:0], 3).shape == (0, 0)


def test_a_straight_line_leaves_exactly_nothing():
    steps = 1e5 + 250.0 * np.arange(60)
    assert (without_trend(3.0 + 1e-4 * steps[None], steps, 1) == 0).all()


# Distributions


# Correlations and their size


def naive_lag_one(values):
    centred = [value - sum(values) / len(values) for value in values]
    return sum(a * b for a, b in pairwise(centred)) / sum(a * a for a in centred)


def test_the_autocorrelation_is_that_of_the_definition():
    rows = autoregressive(rng(4), 30, 0.7, 3)
    np.testing.assert_allclose(lag_one(rows), [naive_lag_one(list(row)) for row in rows])
    assert np.isnan(lag_one(np.ones((1, 5)))).all()


def test_the_effective_size_shrinks_with_the_product_of_the_autocorrelations():
    assert effective_size(100, 0.5, 0.8) == pytest.approx(100 * 0.6 / 1.4)
    assert effective_size(100, 0.9, 0.0) == 100
    assert effective_size(100, 0.9, -0.5) == 100
    assert effective_size_xu(100, 0.5, 0.8) == pytest.approx(100 * 0.2 / 1.8)
    assert effective_size_xu(100, 0.999, 0.0) == 4


def test_the_interval_is_fishers():
    low, high = fisher_interval(0.6, 28.0)
    half = NormalDist().inv_cdf(0.975) / 5
    assert (low, high) == (
        pytest.approx(math.tanh(math.atanh(0.6) - half)),
        pytest.approx(math.tanh(math.atanh(0.6) + half)),
    )
    assert np.isnan(fisher_interval(0.6, 3.0)).all()


def test_the_interval_of_a_peak_is_that_of_its_lag_where_no_other_might_have_been_it():
    z = np.array([[0.1, np.nan, 1.2, 0.3]])
    for found, expected in zip(
        peak_interval(z, np.array([2]), np.array([28.0])), fisher_interval(np.tanh(1.2), 28.0), strict=True
    ):
        assert found[0] == pytest.approx(float(expected))


def test_the_interval_of_a_peak_of_noise_is_that_of_the_largest_of_all():
    z = np.full((1, 21), 0.3)
    low, high = peak_interval(z, np.array([4]), np.array([28.0]))
    half = 0.2 * NormalDist().inv_cdf((1 + 0.95 ** (1 / 21)) / 2)
    assert (low[0], high[0]) == (pytest.approx(np.tanh(0.3 - half)), pytest.approx(np.tanh(0.3 + half)))
    assert np.isnan(peak_interval(z, np.array([4]), np.array([3.0]))).all()


def test_the_p_value_of_one_correlation_is_that_of_the_f_test_of_its_regression():
    x, y = rng(5).standard_normal((2, 40))
    r = np.corrcoef(x, y)[0, 1]
    assert correlation_p(r, 40) == pytest.approx(integrated_tail(r**2 / (1 - r**2) * 38, 1, 38), rel=1e-8)
    assert correlation_p(1.0, 40) == 0
    assert np.isnan(correlation_p(0.5, 2))


# Lags


def naive_scan(feature, metric, offset, lags):
    """Lag -> (r, n), pair by pair."""
    found = {}
    for lag in lags:
        places = [(i, i + offset + lag) for i in range(len(feature)) if np.isfinite(feature[i])]
        pairs = [(feature[i], metric[j]) for i, j in places if 0 <= j < len(metric)]
        if len(pairs) < MIN_PAIRS:
            found[int(lag)] = (None, len(pairs))
            continue
        found[int(lag)] = (np.corrcoef(np.array(pairs).T)[0, 1], len(pairs))
    return found


@pytest.mark.parametrize("offset", [0, 5, -3])
def test_every_lag_agrees_with_explicit_pairs(offset):
    features = 10 + rng(6).standard_normal((3, 30))
    features[1, [0, 3, 4, 29]] = np.nan
    metric = rng(7).standard_normal((4, 36)) * 1e-3 + 7
    scan = scan_lags(features, metric, offset, 32)
    for row, feature in enumerate(features):
        expected = naive_scan(feature, metric[0], offset, scan.lags)
        assert scan.n[row].tolist() == [n for _, n in expected.values()]
        r = [np.nan if r is None else r for r, _ in expected.values()]
        np.testing.assert_allclose(scan.r[row], r, atol=1e-10)
        for version, values in enumerate(metric):
            by_lag = {lag: r for lag, (r, _) in naive_scan(feature, values, offset, scan.lags).items() if r is not None}
            strongest, lowest = max(by_lag, key=lambda lag: abs(by_lag[lag])), min(by_lag, key=by_lag.__getitem__)
            assert scan.peaks["abs"].lag[row, version] == strongest
            assert scan.peaks["abs"].r[row, version] == pytest.approx(
                by_lag[strongest], abs=1e-10 if version == 0 else 1e-5
            )
            assert scan.peaks["negative"].lag[row, version] == lowest
            assert scan.peaks["negative"].r[row, version] == pytest.approx(
                by_lag[lowest], abs=1e-10 if version == 0 else 1e-5
            )


@pytest.mark.parametrize("spike", [1, -2])
def test_a_spike_beside_the_overlap_costs_no_digits_of_correlations_with_surrogates(spike):
    rng = np.random.default_rng(3)
    n, reach = 60, 6
    metric = rng.normal(size=(20, n)).cumsum(axis=1)
    feature = 1.2 + 0.05 * rng.normal(size=n)
    feature[spike] = 3e4  # in no pair at the lags that leave out the first or the last points
    r = np.empty((len(metric), 2 * reach + 1))
    for at, lag in enumerate(range(-reach, reach + 1)):
        inside, places = slice(max(-lag, 0), n - max(lag, 0)), slice(max(lag, 0), n + min(lag, 0))
        r[:, at] = [np.corrcoef(feature[inside], version[places])[0, 1] for version in metric]
    largest = np.take_along_axis(r, np.abs(r).argmax(axis=1)[:, None], axis=1)[:, 0]
    found = scan_lags(feature[None], metric, 0, reach).peaks["abs"].r[0]
    assert np.abs(found - largest)[1:].max() < 1e-6
    assert abs(found[0] - largest[0]) < 1e-7


def test_features_that_are_scanned_together_do_not_meet():
    features, metric = autoregressive(rng(48), 60, 0.7, 40), autoregressive(rng(49), 66, 0.7, 30)
    for row in range(9, 40, 3):  # gaps of several patterns, some shared, in more than one block
        features[row, 5 * (row % 4) : 5 * (row % 4) + 7] = np.nan
    features[20] = 3.0
    together = scan_lags(features, metric, 4, 12)
    for row in range(40):
        alone = scan_lags(features[row : row + 1], metric, 4, 12)
        for name in ("r", "n", "n_eff", "n_eff_xu"):
            np.testing.assert_allclose(getattr(together, name)[row], getattr(alone, name)[0], atol=1e-12)
        for rule, peaks in together.peaks.items():
            np.testing.assert_array_equal(peaks.lag[row], alone.peaks[rule].lag[0])
            np.testing.assert_allclose(peaks.r[row], alone.peaks[rule].r[0], atol=1e-5)


def test_series_that_are_scanned_separately_agree_with_explicit_pairs():
    features, metric = rng(50).standard_normal((3, 30)), rng(51).standard_normal((4, 30))
    features[1, [0, 7, 8]] = np.nan
    features[2, 5:] = np.nan
    steps = np.arange(30.0)
    search = LagSearch("any", "linear", "abs", -9, 9, MIN_PAIRS)
    left = without_trend(features, steps, 1), without_trend(metric, steps, 1)
    scans = scan_separately(features, metric, steps, search)
    for feature, scan in zip(left[0], scans, strict=True):
        expected = [naive_scan(feature, version, 0, scan.lags) for version in left[1]]
        assert scan.n.tolist() == [n for _, n in expected[0].values()]
        r = np.array([[np.nan if r is None else r for r, _ in each.values()] for each in expected])
        np.testing.assert_allclose(scan.r, r[0], atol=1e-12)
        for version, values in enumerate(r):
            strongest = 0 if np.isnan(values).all() else int(scan.lags[np.nanargmax(np.abs(values))])
            assert scan.peaks.lag[0, version] == strongest
    assert [scan.status for scan in scans][2] == "too_few"


def test_the_effective_pairs_of_a_lag_are_those_of_its_own_pairs():
    features, metric = autoregressive(rng(8), 50, 0.8, 2), autoregressive(rng(9), 50, 0.6)
    scan = scan_lags(features, metric, 0, 4)
    at = int(np.flatnonzero(scan.lags == 3)[0])
    own, its = naive_lag_one(list(features[1, :-3])), naive_lag_one(list(metric[0, 3:]))
    assert scan.n_eff[1, at] == pytest.approx(47 * (1 - own * its) / (1 + own * its))
    assert scan.n_eff_xu[1, at] == pytest.approx(47 * (1 - max(own, its)) / (1 + max(own, its)))


@settings(deadline=None, max_examples=30)
@given(st.integers(-6, 6), st.sampled_from([1, -1]), st.integers(0, 2**30))
def test_a_delay_is_found_exactly_and_without_a_sign(delay, sign, seed):
    hidden = np.random.default_rng(seed).standard_normal(80)
    scan = scan_lags(hidden[None, 10:60], sign * hidden[None, 10 - delay : 70 - delay], 0, 8)
    assert scan.peaks["abs"].lag[0, 0] == delay
    assert scan.peaks["abs"].r[0, 0] == pytest.approx(sign)
    assert scan.status("abs") == ["ok"]


def test_of_equal_peaks_the_one_nearest_to_zero_counts():
    wave = np.cos(np.pi * np.arange(40) / 2)
    assert scan_lags(wave[None], wave[None], 0, 8).peaks["abs"].lag[0, 0] == 0


def test_a_peak_that_is_none_says_why():
    hidden = rng(10).standard_normal(60)
    late = scan_lags(hidden[None, :40], hidden[None, :40], 5, 5)
    assert (late.peaks["abs"].lag[0, 0], late.status("abs")) == (-5, ["border"])
    assert scan_lags(np.ones((1, 40)), hidden[None], 0, 5).status("abs") == ["constant"]
    assert scan_lags(hidden[None, :6], hidden[None], 0, 5).status("abs") == ["too_few"]
    same = scan_lags(hidden[None], hidden[None], 0, 0)
    assert same.status("negative") == ["wrong_sign"]
    assert scan_lags(hidden[None], -hidden[None], 0, 3).status("negative") == ["ok"]


def test_the_border_is_the_last_lag_that_has_enough_pairs():
    hidden = rng(11).standard_normal(60)
    scan = scan_lags(hidden[None, :20], hidden[None, :20], 12, 30)
    assert [int(end[0]) for end in scan.first_last()] == [-24, 0]
    assert scan.status("abs") == ["ok"]


@pytest.mark.parametrize(("largest", "reach"), [(10, 10), (11, 11), (30, 20)])
def test_the_search_reaches_half_the_largest_window_and_five_more(largest, reach):
    assert reach_for(largest) == reach


# Surrogates and significance


@pytest.mark.parametrize("n", [40, 41])
def test_a_surrogate_keeps_every_amplitude_and_draws_every_phase(n):
    values = autoregressive(rng(12), n, 0.8)[0] + 5
    drawn = phase_randomised(values, 200, rng(13))
    amplitude = np.abs(np.fft.rfft(values))
    amplitude[0] = 0
    np.testing.assert_allclose(
        np.abs(np.fft.rfft(drawn, axis=1)), np.broadcast_to(amplitude, (200, n // 2 + 1)), atol=1e-9
    )
    turns = np.fft.rfft(drawn, axis=1)[:, 1:] / amplitude[1:]
    assert np.abs(turns.mean(axis=0)).max() < 4 / np.sqrt(200)


def test_a_surrogate_keeps_the_trend_and_the_effect_of_the_learning_rate():
    steps, lr = np.arange(100.0), series.cosine_rate(100)
    kept = 5 - 0.03 * steps + 1e-5 * steps**3 + 2 * lr
    versions = surrogates(kept + 0.1 * rng(14).standard_normal(100), steps, 300, covariates=[lr])
    assert versions.shape == (301, 100)
    assert np.abs(versions[1:].mean(axis=0) - kept).max() < 0.2
    np.testing.assert_allclose(surrogates(kept, steps, 20, covariates=[lr]), np.tile(kept, (21, 1)), atol=1e-9)


def test_equal_seeds_draw_equal_surrogates():
    values, steps = rng(15).standard_normal(50), np.arange(50.0)
    np.testing.assert_array_equal(surrogates(values, steps, 5, seed=3), surrogates(values, steps, 5, seed=3))
    assert (surrogates(values, steps, 5, seed=3)[1:] != surrogates(values, steps, 5, seed=4)[1:]).all()


def test_p_values_count_the_surrogates_that_reach_the_observed():
    merit = rng(16).standard_normal((4, 100)) * np.array([[1.0], [5], [0.1], [1]]) + 3
    merit[3] = np.nan
    stand = Standing.of(merit)
    own = [(1 + sum(value >= row[0] for value in row[1:])) / 100 for row in merit[:3]]
    np.testing.assert_allclose(stand.own_p(), [*own, np.nan])
    units = [[(value - np.mean(row[1:])) / np.std(row[1:]) for value in row] for row in merit[:3]]
    families = [[0, 2], [1]]
    null = largest_null([stand], np.array([0, 1, 0, 0]))
    for family in families:
        largest = [max(units[row][at] for row in family) for at in range(1, 100)]
        for row in family:
            expected = (1 + sum(value >= units[row][0] for value in largest)) / 100
            assert p_values(stand.observed[:, None], null)[row, 0] == pytest.approx(expected)


def test_what_is_searched_at_two_window_sizes_counts_as_one_search():
    first, second = (Standing.of(rng(37, seed).standard_normal((2, 50))) for seed in (0, 1))
    null = largest_null([first, second], np.array([0, 1]))
    np.testing.assert_allclose(null[0], np.sort(np.maximum(first.null[0], second.null[0])))
    np.testing.assert_allclose(null[1], np.sort(np.maximum(first.null[1], second.null[1])))


def test_the_p_value_of_a_lag_is_that_of_a_peak_as_high():
    hidden = autoregressive(rng(36), 80, 0.5, 61)
    scan = scan_lags(hidden[:1], hidden[1:], 0, 6)
    stand = scan.peaks["abs"].standing
    by_lag = stand.own_p(stand.in_units(scan.r))[0]
    null = np.abs(scan.peaks["abs"].r[0, 1:])
    np.testing.assert_allclose(by_lag, [(1 + sum(null >= abs(r))) / 60 for r in scan.r[0]])
    assert by_lag.min() == stand.own_p()[0]


def planted(lead, n=160, noise=0.3, seed=0):
    """A feature and a metric that follows it so many places later, with the other sign."""
    hidden = autoregressive(rng(17, seed), n + 40, 0.5)[0]
    feature = hidden[20 : 20 + n]
    metric = -hidden[20 - lead : 20 - lead + n] + noise * rng(18, seed).standard_normal(n)
    return feature, metric


@pytest.mark.parametrize("lead", [-4, 0, 3])
@pytest.mark.parametrize("detrend", DEGREES)
def test_a_planted_lag_is_recovered_and_significant(lead, detrend):
    feature, metric = planted(lead)
    for rule in ("abs", "negative"):
        p, n_eff, lag = lag_test(feature[None], metric, Search(detrend, rule=rule))
        assert (lag[0], p[0]) == (lead, 1 / 100)
        assert n_eff[0] > 50


def test_what_trends_alone_share_is_not_significant():
    at = np.arange(150)
    noise = rng(19).standard_normal((2, 150))
    feature, metric = 3 - 0.02 * at + 0.1 * noise[0], 5 - 0.03 * at + 0.1 * noise[1]
    scan = scan_lags(feature[None], surrogates(metric, at * 1.0, 199), 0, 10)
    assert scan.peaks["abs"].r[0, 0] > 0.95
    assert scan.peaks["abs"].standing.own_p()[0] > 0.05


def two_scans(first_lead, second_lead, seed=0, noise=0.3, draws=199):
    hidden = autoregressive(rng(20, seed), 220, 0.5)[0]
    metric = -hidden[30:190] + noise * rng(21, seed).standard_normal(160)
    versions = surrogates(metric, np.arange(160.0), draws)
    return [scan_lags(hidden[None, 30 + lead : 190 + lead], versions, 0, 15) for lead in (first_lead, second_lead)]


@pytest.mark.parametrize(("first", "second"), [(-3, 4), (4, -3)])
def test_a_planted_flip_is_found_in_both_directions(first, second):
    one, other = two_scans(first, second)
    flip = lag_flip(one, other, "abs")
    assert [int(scan.peaks["abs"].lag[0, 0]) for scan in (one, other)] == [first, second]
    assert flip.flips.tolist() == [True]
    assert flip.p[0] == 1 / 200


def test_lags_of_one_sign_do_not_flip():
    flip = lag_flip(*two_scans(3, 8), "abs")
    assert flip.flips.tolist() == [False]
    assert np.isnan(flip.p[0])


def test_the_p_value_of_a_flip_counts_surrogates_that_flip_as_strongly():
    one, other = two_scans(-3, 4, noise=2.0)
    r = [np.arctanh(np.abs(scan.peaks["abs"].r[0])) for scan in (one, other)]
    strength = [(values - values[1:].mean()) / values[1:].std() for values in r]
    lags = [scan.peaks["abs"].lag[0] for scan in (one, other)]
    flips = [a * b < 0 and abs(a) < 15 and abs(b) < 15 for a, b in zip(*lags, strict=True)]
    weaker = [min(pair) for pair in zip(*strength, strict=True)]
    flip = lag_flip(one, other, "abs")
    assert flips[0]
    assert flip.flips[0]
    assert 20 < sum(flips) < 180
    expected = (1 + sum(f and w >= weaker[0] for f, w in zip(flips[1:], weaker[1:], strict=True))) / len(flips)
    assert flip.p[0] == pytest.approx(expected)


def smoothed(hidden, size):
    """Mean over the places from 0 to size before each (n - size,), as a window of that many updates sees it."""
    weights = np.full(size + 1, 1.0)
    weights[[0, -1]] = 0.5
    return np.convolve(hidden, weights / size, "valid")


@pytest.mark.parametrize("size", [10, 20, 30])
def test_the_delay_of_a_window_moves_the_peak_of_its_end_and_not_of_its_centre(size):
    hidden = autoregressive(rng(22), 420, 0.7)[0]
    metric = -smoothed(hidden[:-7], size)[None]  # as smooth as the feature; its first place is half a window in
    feature = smoothed(hidden[7:], size)[None]  # leads by 7 checkpoints, seen through a window
    end = scan_lags(feature, metric, size // 2, 20)
    centre = scan_lags(feature, metric, 0, 20)
    assert end.peaks["abs"].lag[0, 0] == {10: 2, 20: -3, 30: -8}[size]
    assert centre.peaks["abs"].lag[0, 0] == 7
