"""Sliding correlations, Granger's test and shared variance: naive oracles, and what cannot be computed."""

import numpy as np
import pytest
from series import autoregressive, integrated_tail

from sedarchive.inference.granger import granger, multiple_r2
from sedarchive.inference.sliding import sliding_bands
from sedarchive.inference.surrogates import surrogates
from sedarchive.inference.trends import trend_basis


def rng(*seed):
    return np.random.default_rng(seed)


# Sliding correlations


def test_sliding_correlations_and_their_bands_agree_with_loops():
    features, metric = rng(23).standard_normal((2, 40)) + 100, rng(24).standard_normal((60, 40))
    features[1, 20] = np.nan
    for row, band in enumerate(sliding_bands(features, metric, 7)):
        r = np.array([[np.corrcoef(features[row, i : i + 7], y[i : i + 7])[0, 1] for i in range(34)] for y in metric])
        low, high = np.nanmin(r, axis=1), np.nanmax(r, axis=1)
        np.testing.assert_allclose(band.r, r[0], atol=1e-9)
        assert (band.lowest, band.highest) == (pytest.approx(low[0]), pytest.approx(high[0]))
        assert band.null_low == pytest.approx(np.quantile(low[1:], 0.025))
        assert band.null_high == pytest.approx(np.quantile(high[1:], 0.975))
        assert band.p_low == (1 + (low[1:] <= low[0]).sum()) / 60
        assert band.p_high == (1 + (high[1:] >= high[0]).sum()) / 60


def test_features_that_slide_together_do_not_meet():
    features, metric = autoregressive(rng(52), 50, 0.7, 30), autoregressive(rng(53), 50, 0.7, 40)
    features[3, 11], features[17, :20], features[29] = np.nan, np.nan, 1.0
    for row, band in enumerate(sliding_bands(features, metric, 11)):
        [alone] = sliding_bands(features[row : row + 1], metric, 11)
        np.testing.assert_allclose(band.r, alone.r, atol=1e-12)
        ends = [[one.null_low, one.null_high, one.p_low, one.p_high] for one in (band, alone)]
        np.testing.assert_allclose(*ends, atol=1e-6)


def test_a_sliding_correlation_without_values_has_no_band():
    [band] = sliding_bands(np.ones((1, 20)), rng(25).standard_normal((30, 20)), 7)
    assert np.isnan([band.lowest, band.highest, band.null_low, band.p_high]).all()
    [short] = sliding_bands(np.ones((1, 5)), rng(26).standard_normal((30, 5)), 7)
    assert short.r.size == 0
    assert np.isnan(short.lowest)


# Granger


def naive_granger(feature, metric, lr):
    """F, order and p, by least squares on explicit designs."""
    best = None
    for order in (1, 2):
        y = metric[order:]
        restricted = [np.ones(len(y)), lr[order:]]
        restricted += [metric[order - lag : len(metric) - lag] for lag in range(1, order + 1)]
        full = restricted + [feature[order - lag : len(feature) - lag] for lag in range(1, order + 1)]
        rss = [np.linalg.lstsq(np.column_stack(x), y, rcond=None)[1][0] for x in (restricted, full)]
        df = len(y) - len(full)
        f = (rss[0] - rss[1]) / order / (rss[1] / df)
        aic = len(y) * np.log(rss[1] / len(y)) + 2 * len(full)
        if best is None or aic < best[0]:
            best = (aic, f, order, integrated_tail(f, order, df))
    return best[1:]


def test_grangers_test_agrees_with_least_squares():
    features, metric, lr = (
        autoregressive(rng(27), 60, 0.7, 6),
        autoregressive(rng(28), 60, 0.8)[0] + 3,
        rng(29).random(60),
    )
    metric[2:] += 0.3 * features[0, :-2]
    versions = np.concatenate([metric[None], autoregressive(rng(30), 60, 0.8, 30)])
    found = granger(features, versions, lr)
    for row, feature in enumerate(features):
        f, order, p = naive_granger(feature, metric, lr)
        assert (found.f[row], found.order[row], found.p_xu[row]) == (
            pytest.approx(f, rel=1e-8),
            order,
            pytest.approx(p, rel=1e-6),
        )
        tails = [naive_granger(feature, version, lr)[2] for version in versions[1:]]
        assert found.p[row] == pytest.approx((1 + sum(tail <= p for tail in tails)) / 31)
        assert found.n[row] == 60 - order


def test_the_past_of_a_feature_that_leads_predicts_and_one_that_follows_does_not():
    hidden = rng(31).standard_normal(202)
    metric = hidden[1:-1] + 0.3 * rng(32).standard_normal(200)
    features = np.stack([hidden[2:], hidden[:-2]])  # the first comes a place earlier, the second a place later
    found = granger(features, surrogates(metric, np.arange(200.0), 199))
    assert found.p[0] == 1 / 200
    assert found.p[1] > 0.05
    assert found.order[0] in (1, 2)


def test_a_feature_that_cannot_be_fitted_gives_no_test():
    metric = autoregressive(rng(33), 40, 0.5, 20)
    features = np.stack([np.ones(40), np.where(np.arange(40) == 7, np.nan, metric[3])])
    found = granger(features, metric)
    assert np.isnan([found.f, found.p, found.p_xu]).all()
    assert found.order.tolist() == [0, 0]
    assert np.isnan(granger(features[:, :9], metric[:, :9]).f).all()


def test_the_share_that_features_explain_together_is_that_of_least_squares():
    features, metric = rng(34).standard_normal((2, 50)), rng(35).standard_normal((3, 50))
    basis = trend_basis(np.arange(50.0), 1)
    design = np.column_stack([np.ones(50), np.arange(50.0)])

    def rss(columns, y):
        return np.linalg.lstsq(columns, y, rcond=None)[1][0]

    expected = [1 - rss(np.column_stack([design, *features]), y) / rss(design, y) for y in metric]
    np.testing.assert_allclose(multiple_r2(features, metric, basis), expected)
    np.testing.assert_allclose(multiple_r2(features[[0, 0]], metric, basis), multiple_r2(features[:1], metric, basis))
