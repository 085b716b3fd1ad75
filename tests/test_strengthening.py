"""Trends of autocorrelated series, and the dissociation of compression and alpha: truths found, noise left alone."""

import numpy as np
import pytest
from scipy import stats
from series import autoregressive, rejections

from sedarchive.compute.lifecycle.dissociation_rows import dissociation_rows
from sedarchive.compute.lifecycle.gradient_rows import depth_series
from sedarchive.compute.lifecycle.lifecycle_rows import ALPHAS, LayerMetrics
from sedarchive.compute.lifecycle.trend_rows import trend_rows
from sedarchive.lifecycle.dissociation import decisive_turn, kept_spread
from sedarchive.lifecycle.ranks import mann_kendall
from sedarchive.lifecycle.strengthening import LONGEST, noise_correlation, slow_trend
from sedarchive.recipes import find_recipes, run_recipe
from sedarchive.tables import Database

N_TRIALS = 300
STEPS = 25.0 * np.arange(60)


def trends(rows):
    return [slow_trend(25.0 * np.arange(rows.shape[1]), row) for row in rows]


# trend


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n", [20, 60, 200])
def test_noise_is_called_a_trend_in_at_most_a_twentieth(n, rho):
    rng = np.random.default_rng([n, int(10 * rho)])
    rows = rng.standard_normal((N_TRIALS, n)).cumsum(axis=1) if rho == 1 else autoregressive(rng, n, rho, N_TRIALS)
    rejected, _ = rejections([one.p for one in trends(rows)])
    assert rejected <= 0.07


def test_the_test_of_independent_values_rejects_half_of_slow_noise():
    rows = autoregressive(np.random.default_rng(0), 60, 0.9, N_TRIALS)
    assert rejections([mann_kendall(row).p for row in rows])[0] > 0.4


@pytest.mark.parametrize(("n", "rho", "least"), [(60, 0.3, 0.9), (200, 0.7, 0.95)])
def test_a_planted_trend_is_found_straight_or_bent(n, rho, least):
    rng, time = np.random.default_rng(n), np.arange(n) / n
    for shape in (time, 1 - np.exp(-4 * time)):
        rows = 4 * shape + autoregressive(rng, n, rho, 100)
        assert rejections([one.p for one in trends(rows)])[0] >= least


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_interval_of_a_rate_covers_it(rho):
    rate = 0.01
    rows = rate * 25 * np.arange(120) + autoregressive(np.random.default_rng(3), 120, rho, N_TRIALS)
    found = [one for one in trends(rows) if one.status == "ok"]
    assert len(found) > 100
    assert np.mean([one.rate_low <= rate <= one.rate_high for one in found]) >= 0.9
    assert np.mean([one.rate for one in found]) == pytest.approx(rate, rel=0.01)


def test_the_interval_holds_zero_where_the_test_does_not_reject():
    rows = 0.01 * np.arange(60) + autoregressive(np.random.default_rng(4), 60, 0.4, 60)
    found = [one for one in trends(rows) if one.status == "ok"]
    assert {one.p <= 0.05 for one in found} == {True, False}
    assert all((one.p > 0.05) == (one.rate_low <= 0 <= one.rate_high) for one in found)


def test_tau_and_rate_are_kendalls_and_sens():
    series = autoregressive(np.random.default_rng(5), 60, 0.3)[0]
    found = slow_trend(STEPS, series)
    assert found.tau == pytest.approx(stats.kendalltau(STEPS, series).statistic)
    assert found.rate == pytest.approx(stats.theilslopes(series, STEPS).slope)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_correlation_of_the_noise_survives_the_cubic(rho):
    n = 120
    rows = autoregressive(np.random.default_rng(6), n, rho, N_TRIALS)
    found = np.array([noise_correlation(row + 3 * (np.arange(n) / n) ** 3) for row in rows])
    with_error = rho + np.sqrt((1 - rho**2) / n)
    assert np.median(found) == pytest.approx(with_error, abs=0.03)


def test_a_series_that_cannot_be_judged_says_why():
    smooth = slow_trend(STEPS, 1 - np.exp(-STEPS / 200))
    assert (smooth.status, smooth.tau) == ("few_effective", 1.0)
    assert np.isnan([smooth.p, smooth.rate_low]).all()
    assert smooth.rate > 0
    assert slow_trend(STEPS, STEPS**2).status == "few_effective"  # without noise nothing is known of it
    assert slow_trend(STEPS, np.full(60, 0.3)).status == "constant"
    assert slow_trend(STEPS[:9], STEPS[:9]).status == "too_few"


def test_a_long_series_is_thinned():
    series = 0.01 * np.arange(3000) + np.random.default_rng(7).standard_normal(3000)
    found = slow_trend(np.arange(3000.0), series)
    assert found.n <= LONGEST
    assert found.rate == pytest.approx(0.01, rel=0.05)


# reversal


def test_a_turn_needs_both_sides_beyond_the_noise():
    steps = np.arange(0.0, 60.0, 10.0)
    turned = decisive_turn(steps, np.array([0.0, -0.2, -0.3, 0.01, 0.2, 0.1]), 0.05)
    assert turned.step == pytest.approx(20 + 10 * 0.3 / 0.31)
    assert (turned.before, turned.after) == (-0.3, 0.2)
    for gradient in ([0.0, -0.2, -0.3, -0.1, 0.04, 0.03], [0.01, -0.02, 0.01, -0.02, 0.03, -0.01]):
        assert np.isnan(decisive_turn(steps, np.array(gradient), 0.05).step)


def test_the_last_turn_counts():
    steps = np.arange(5.0)
    turned = decisive_turn(steps, np.array([1.0, -1.0, 2.0, -0.01, -3.0]), 0.05)
    assert turned.step == pytest.approx(2 + 2 / 2.01)
    assert (turned.before, turned.after) == (2.0, -3.0)


# spread


@pytest.mark.parametrize("n_layers", [6, 12, 24])
def test_metrics_that_keep_as_much_differ_in_a_twentieth(n_layers):
    rng = np.random.default_rng(n_layers)
    pairs = [autoregressive(rng, 40, 0.9, 2 * n_layers) for _ in range(300)]
    found = [kept_spread(pair[:n_layers], 5 * pair[n_layers:], draws=199) for pair in pairs]
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.08
    assert np.mean([one.low <= 1 <= one.high for one in found]) >= 0.9


def test_the_spread_is_the_last_over_the_largest():
    rng = np.random.default_rng(8)
    compression, alpha = rng.standard_normal((2, 9, 30))
    found = kept_spread(compression, alpha, draws=99)
    assert found.alpha == pytest.approx(alpha.std(axis=0)[-1] / alpha.std(axis=0).max())
    assert found.ratio == pytest.approx(found.alpha / found.compression)
    back = kept_spread(alpha, compression, draws=99)
    assert (back.ratio, back.p) == (pytest.approx(1 / found.ratio), found.p)


def test_layers_that_are_alike_have_no_ratio():
    alike, apart = np.ones((8, 20)), np.random.default_rng(9).standard_normal((8, 20))
    assert np.isnan(kept_spread(alike, apart).ratio)
    assert np.isnan(kept_spread(apart[:2], apart[:2]).ratio)


# dissociation


def histories(rng, n_layers=12, n=80, apart=True, rho=0.5):
    """Layers whose compression passes as a wave, and alphas whose gradient grows; or noise around a level."""
    noise = autoregressive(rng, n, rho, 2 * n_layers)
    steps, layers = 50 * np.arange(n), np.arange(n_layers)
    depth = layers[:, None] / (n_layers - 1)
    ranks, alpha = 80 + noise[:n_layers], 0.3 + 0.01 * noise[n_layers:]
    if apart:
        compressed = (0.5 + 0.12 * depth) / (1 + np.exp(-(steps - 600 - 900 * depth) / 120))
        ranks = ranks * (1 - compressed)
        alpha = alpha + 0.15 * depth * (1 - np.exp(-steps / 2000))
    values = {"stable_rank": ranks, "alpha": alpha, "entropy": alpha}
    known = {**dict.fromkeys(ALPHAS, np.full_like(alpha, np.nan)), **values}
    return LayerMetrics("trunk", steps, layers, known, np.full(n_layers, 0.01))


def dissociation(metrics):
    series = depth_series(metrics)
    [row] = dissociation_rows(metrics, series, trend_rows(series))
    return row


def test_a_planted_dissociation_is_found_with_all_its_parts():
    rows = [dissociation(histories(np.random.default_rng([10, at]))) for at in range(20)]
    assert np.mean([row["dissociated"] is True for row in rows]) >= 0.9
    row = rows[0]
    assert row["gradient_before"] < -row["gradient_null"] < row["gradient_null"] < row["gradient_after"]
    assert 1200 < row["reversal_step"] < 2600
    assert row["spread_compression"] < 0.5 < row["spread_alpha"]
    assert row["alpha_slope"] > 0.1
    assert row["p"] == max(row["spread_p"], row["alpha_p"]) <= 0.05


def test_noise_is_not_dissociated():
    rows = [dissociation(histories(np.random.default_rng([11, at]), apart=False, rho=0.8)) for at in range(60)]
    assert not any(row["dissociated"] for row in rows)
    assert rejections([row["p"] for row in rows])[0] <= 0.05


def test_a_dissociation_that_cannot_be_judged_says_why():
    rng = np.random.default_rng(12)
    whole = histories(rng)
    later = LayerMetrics("trunk", whole.steps + 50, whole.layers, whole.values, whole.spread)
    assert dissociation(later)["status"] == "no_start"
    assert dissociation(histories(rng, n=9))["status"] == "too_few"
    assert dissociation(histories(rng, n_layers=6))["status"] == "few"
    assert dissociation(histories(rng, n_layers=2))["status"] == "too_few"


# over runs


@pytest.mark.parametrize(("n", "n_growing"), [(7, 7), (9, 1), (12, 7), (6, 3)])
def test_runs_that_grow_are_counted_by_the_exact_sign_test(n, n_growing):
    with Database.in_memory() as db:
        for at in range(n):
            row = {"scope": "trunk", "metric": "alpha", "gradient": "slope", "tau": 0.5 if at < n_growing else -0.5}
            db.replace(
                "depth_trends", {"run": f"s{at}"}, {name: [value] for name, value in (row | {"last": 1.0}).items()}
            )
            db.replace("runs", {"run": f"s{at}"}, {"family": ["seeds"]})
        [found] = run_recipe(db.connection, find_recipes()["strengthening_runs"], {}).dicts()
    assert (found["family"], found["n"], found["n_growing"]) == ("seeds", n, n_growing)
    assert found["n_strengthening"] == n_growing
    assert found["p"] == pytest.approx(stats.binomtest(n_growing, n).pvalue)
