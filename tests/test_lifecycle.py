"""Waves, gradients and laws over sizes: planted truth inside intervals that cover it as often as they say."""

import itertools

import numpy as np
import pytest
from scipy import stats

from sedarchive.lifecycle.asymmetry import asymmetry
from sedarchive.lifecycle.gradients import gradients_of, hump_of, relative_depth, reversal
from sedarchive.lifecycle.ranks import mann_kendall, theil_sen
from sedarchive.lifecycle.scaling import scaling_law, spread_null
from sedarchive.lifecycle.waves import arrivals, compression, fit_wave

DRAWS = 600


def covered(inside, nominal=0.95):
    """A coverage between 90 and 99 %, as far as the draws can tell."""
    share = np.mean(inside)
    return 0.9 <= share <= 0.99 or abs(share - nominal) < 4 * np.sqrt(nominal * (1 - nominal) / len(inside))


# arrival


def test_arrival_is_the_interpolated_crossing_of_half_of_the_largest_compression():
    steps = np.array([0.0, 10.0, 20.0, 40.0])
    stable_rank = np.array([[100.0, 90.0, 60.0, 20.0], [50.0, 50.0, 49.9, 49.9]])
    found = compression(stable_rank)
    assert found[0] == pytest.approx([0, 0.1, 0.4, 0.8])
    assert arrivals(steps, found, np.array([0.05, 0.05])) == pytest.approx([20.0, np.nan], nan_ok=True)
    assert arrivals(steps, found, np.array([0.05, 0.05]), threshold=0.25)[0] == pytest.approx(10 + 10 * 0.1 / 0.3)


def test_a_layer_that_only_grows_has_no_arrival():
    growing = compression(np.array([[10.0, 11.0, 12.0]]))
    assert np.isnan(arrivals(np.arange(3.0), growing, np.zeros(1))).all()


def test_a_planted_wave_keeps_its_velocity_and_direction():
    layers, steps = np.arange(12.0), np.arange(0.0, 4000.0, 25.0)
    for velocity in (0.01, -0.02):
        start = 900 + (layers if velocity > 0 else layers - 11) / velocity
        front = 1 / (1 + np.exp(-(steps - start[:, None]) / 60))
        ranks = 60 * (1 - 0.7 * (front - front[:, :1]))
        wave = fit_wave(layers, arrivals(steps, compression(ranks), np.full(12, 0.05)))
        assert wave.velocity == pytest.approx(velocity, rel=0.02)
        assert 1 / wave.ranks.slope == pytest.approx(velocity, rel=0.02)
        assert wave.status == "ok"


@pytest.mark.parametrize("n_layers", [4, 8, 24])
def test_the_interval_of_the_velocity_covers_it(n_layers):
    rng = np.random.default_rng(n_layers)
    layers, slowness = np.arange(float(n_layers)), 40.0
    by_line, by_ranks = [], []
    for _ in range(DRAWS):
        wave = fit_wave(layers, 500 + slowness * layers + 15 * rng.standard_normal(n_layers))
        by_line.append(wave.line.slope_low <= slowness <= wave.line.slope_high)
        by_ranks.append(wave.ranks.low <= slowness <= wave.ranks.high)
        if wave.status != "simultaneous":
            assert (wave.velocity_low <= 1 / slowness <= wave.velocity_high) == by_line[-1]
    assert covered(by_line)
    assert np.mean(by_ranks) >= 0.93  # four points cannot exclude anything at 95 %


def test_layers_that_arrive_together_have_no_velocity():
    rng = np.random.default_rng(0)
    found = [fit_wave(np.arange(12.0), 500 + 30 * rng.standard_normal(12)) for _ in range(300)]
    assert np.mean([wave.status == "simultaneous" for wave in found]) == pytest.approx(0.95, abs=0.04)
    assert all(np.isnan(wave.velocity) for wave in found if wave.status == "simultaneous")
    assert fit_wave(np.arange(5.0), np.full(5, 70.0)).status == "simultaneous"


def test_few_arrivals_say_so():
    arrival = np.array([10.0, np.nan, 30.0, 41.0, np.nan])
    assert fit_wave(np.arange(5.0), arrival).status in ("three_points", "simultaneous")
    assert fit_wave(np.arange(5.0), np.where(arrival == 41.0, np.nan, arrival)).status == "too_few"


# ranks


def test_theil_sen_is_that_of_scipy():
    rng = np.random.default_rng(1)
    x, y = np.sort(rng.random(15)), rng.standard_normal(15)
    assert theil_sen(x, y).slope == pytest.approx(stats.theilslopes(y, x).slope)


def test_the_interval_of_theil_sen_inverts_kendalls_exact_test():
    rng = np.random.default_rng(2)
    x, y = np.arange(7.0), rng.standard_normal(7)
    found = theil_sen(x, y)
    inner = np.linspace(found.low, found.high, 9)[1:-1]
    assert all(stats.kendalltau(x, y - slope * x, method="exact").pvalue > 0.05 for slope in inner)
    for slope in (found.low - 1e-6, found.high + 1e-6):
        assert stats.kendalltau(x, y - slope * x, method="exact").pvalue <= 0.05


@pytest.mark.parametrize("n", [3, 4])
def test_few_points_exclude_no_slope(n):
    found = theil_sen(np.arange(float(n)), np.arange(float(n)) ** 2)
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_the_trend_test_counts_all_orders():
    values = (0.3, 0.1, 0.4, 0.9, 0.7)
    scores = [
        sum(np.sign(b - a) for a, b in itertools.combinations(order, 2)) for order in itertools.permutations(range(5))
    ]
    found = mann_kendall(np.array(values))
    score = sum(np.sign(b - a) for a, b in itertools.combinations(values, 2))
    assert found.p == pytest.approx(np.mean(np.abs(scores) >= abs(score)))
    assert found.tau == pytest.approx(score / 10)


@pytest.mark.parametrize("n", [8, 30, 60])
def test_the_trend_test_is_kendalls(n):
    rng = np.random.default_rng(n)
    series = rng.standard_normal(n) + 0.02 * np.arange(n)
    reference = stats.kendalltau(np.arange(n), series, method="exact")
    assert mann_kendall(series).tau == pytest.approx(reference.statistic)
    assert mann_kendall(series).p == pytest.approx(reference.pvalue, rel=0.08)


def test_two_values_have_no_trend():
    assert np.isnan(mann_kendall(np.array([1.0, 2.0])).p)


# gradients


def test_a_gradient_is_its_slope_over_relative_depth():
    values = 3 - 2 * relative_depth(7)
    found = gradients_of(values[:, None])
    assert (found.slope[0], found.first_last[0]) == (pytest.approx(-2), pytest.approx(2))
    assert found.halves[0] == pytest.approx(values[:3].mean() - values[4:].mean())


@pytest.mark.parametrize(("n_layers", "status"), [(3, "three_points"), (7, "few"), (12, "ok")])
def test_gradients_at_many_steps_are_lines_through_each(n_layers, status):
    values = np.random.default_rng(n_layers).standard_normal((n_layers, 5))
    values[:, 4] = 0.1
    found = gradients_of(values)
    for at in range(4):
        line = stats.linregress(relative_depth(n_layers), values[:, at])
        reach = stats.t.ppf(0.975, n_layers - 2) * line.stderr
        assert found.slope[at] == pytest.approx(line.slope)
        assert (found.slope_low[at], found.slope_high[at]) == pytest.approx((line.slope - reach, line.slope + reach))
        assert found.spread[at] == np.ptp(values[:, at])
    assert found.status.tolist() == [status] * 4 + ["constant"]


def test_two_layers_have_ends_and_no_slope():
    found = gradients_of(np.array([[1.0], [4.0]]))
    assert (found.first_last[0], found.halves[0], found.status[0]) == (-3.0, -3.0, "too_few")
    assert np.isnan(found.slope[0])


def test_the_reversal_is_the_last_change_of_sign():
    steps = np.array([0.0, 10.0, 20.0, 30.0, 40.0])
    assert reversal(steps, np.array([-4.0, -2.0, 1.0, 3.0, 2.0])) == pytest.approx(10 + 10 * 2 / 3)
    assert reversal(steps, np.array([-4.0, 2.0, -1.0, 3.0, 2.0])) == pytest.approx(20 + 10 / 4)
    assert np.isnan(reversal(steps, np.array([1.0, 2.0, 1.0, 3.0, 2.0])))
    assert np.isnan(reversal(steps, np.array([-1e-14, 2.0, 1.0, 3.0, 2.0])))  # rounding turns nothing


@pytest.mark.parametrize("n_layers", [8, 12, 24])
def test_the_interval_of_a_peak_covers_it(n_layers):
    rng = np.random.default_rng(n_layers)
    x, peak = relative_depth(n_layers), 0.36
    inside, shapes = [], []
    for _ in range(DRAWS):
        found = hump_of(0.5 - 0.8 * (x - peak) ** 2 + 0.015 * rng.standard_normal(n_layers))
        shapes.append(found.shape)
        if np.isfinite(found.peak_low):
            inside.append(found.peak_low <= peak <= found.peak_high)
    assert np.mean([shape == "inverted_u" for shape in shapes]) > 0.95
    assert covered(inside)


@pytest.mark.parametrize("n_layers", [6, 12, 24])
def test_a_line_is_seldom_taken_for_an_inverted_u(n_layers):
    rng = np.random.default_rng(n_layers)
    shapes = [hump_of(0.3 * relative_depth(n_layers) + 0.1 * rng.standard_normal(n_layers)).shape for _ in range(DRAWS)]
    assert np.mean([shape == "inverted_u" for shape in shapes]) < 0.05


def test_a_valley_is_no_inverted_u_and_few_layers_have_no_shape():
    assert hump_of((relative_depth(10) - 0.5) ** 2).shape == "u"
    assert hump_of(np.arange(4.0)).shape == "too_few"
    assert np.isnan(hump_of(relative_depth(10) ** 2).peak)


# asymmetry


def roles(rng, n_layers, ratio=1.0, tied=0.0):
    """Query, key, value, output over layers; neighbours in a pair share a part."""
    noise = rng.standard_normal((4, n_layers))
    noise[1] = tied * noise[0] + np.sqrt(1 - tied**2) * noise[1]
    noise[3] = tied * noise[2] + np.sqrt(1 - tied**2) * noise[3]
    return np.array([[5.0], [1.0], [2.0], [9.0]]) + noise * np.array([[ratio], [ratio], [1.0], [1.0]])


def test_the_asymmetry_is_a_ratio_of_standard_deviations_within_roles():
    values = roles(np.random.default_rng(0), 9)
    spread = values.std(axis=1) ** 2
    found = asymmetry(values, draws=99)
    assert found.ratio == pytest.approx(np.sqrt((spread[0] + spread[1]) / (spread[2] + spread[3])))
    assert (found.low < found.ratio < found.high, found.n) == (True, 9)
    assert asymmetry(values[[2, 3, 0, 1]], draws=99).ratio == pytest.approx(1 / found.ratio)


@pytest.mark.parametrize("tied", [0.0, 0.9])
def test_roles_that_are_alike_are_called_asymmetric_in_a_twentieth(tied):
    rng = np.random.default_rng(1)
    found = [asymmetry(roles(rng, 12, tied=tied), draws=99) for _ in range(400)]
    rejected = np.mean([one.p <= 0.05 for one in found])
    assert rejected <= 0.08
    assert np.mean([one.low <= 1 <= one.high for one in found]) >= 0.92


def test_a_planted_asymmetry_is_found_and_covered():
    rng = np.random.default_rng(2)
    found = [asymmetry(roles(rng, 12, ratio=3.0, tied=0.5), draws=99) for _ in range(200)]
    assert np.mean([one.p <= 0.05 for one in found]) > 0.9
    assert np.mean([one.low <= 3 <= one.high for one in found]) >= 0.92


def test_two_layers_have_no_asymmetry():
    assert np.isnan(asymmetry(np.ones((4, 2))).ratio)
    assert np.isnan(asymmetry(np.ones((4, 8))).ratio)


# scaling


@pytest.mark.parametrize("n", [3, 4, 8])
def test_the_interval_of_an_exponent_covers_it(n):
    rng = np.random.default_rng(n)
    size = np.geomspace(8, 48, n)
    found = [scaling_law(size, 0.15 * size**0.26 * np.exp(0.03 * rng.standard_normal(n))).line for _ in range(DRAWS)]
    assert covered([line.slope_low <= 0.26 <= line.slope_high for line in found])
    assert {line.status for line in found} == {"three_points" if n == 3 else "few"}


def test_the_best_law_is_named():
    size = np.geomspace(4, 64, 9)
    wobble = 0.004 * np.resize([1.0, -1.0], 9)
    assert scaling_law(size, 0.1 * size**0.9 * (1 + wobble)).best == "power"
    assert scaling_law(size, 1 + 2 * np.log(size) + wobble).best == "logarithm"
    assert scaling_law(size, 3 + wobble).best == "constant"
    assert scaling_law(size[:4], size[:4]).best == "none"


@pytest.mark.parametrize("depths", [(8, 12, 16), (2, 2, 4, 4, 8, 8)])
def test_the_spread_of_unrelated_layers_grows_with_depth_by_chance(depths):
    rng, size = np.random.default_rng(3), np.array(depths, dtype=float)
    spreads = np.array([np.ptp(rng.standard_normal((4000, depth)), axis=1) for depth in depths])
    drawn = np.polyfit(np.log(size), np.log(spreads), 1)[0]
    null = spread_null(size, size, float(np.median(drawn)))
    assert [null.low, null.high] == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.1)
    assert null.p > 0.9
    p = np.array([spread_null(size, size, exponent).p for exponent in drawn[:400]])
    assert 0.02 <= np.mean(p <= 0.05) <= 0.09
    assert max(spread_null(size, size, far).p for far in (-6.0, 6.0)) < 0.01


def test_sizes_and_values_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        scaling_law(np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 2.0]))
