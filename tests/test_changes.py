"""Shifts planted in series of windows, against statistics written out in loops; and how often noise shows one."""

import math

import numpy as np
import pytest

from sedarchive.gram import Gram, RoundingUnit, gram_sums
from sedarchive.inference.changes import Shift, ShiftOptions, find_shift
from sedarchive.inference.cusum import cusum_statistic, window_noise
from sedarchive.inference.ramps import Prepared, Ramps, kinds_of_ramps, prepared_for
from sedarchive.inference.replicas import Planted, best_jumps, draw_replicas
from sedarchive.inference.walks import walk_sigmas
from sedarchive.rolling.windows import window_series

FLOAT64 = RoundingUnit(52, -1022)
QUICK = ShiftOptions(draws=499, replicas=199)


def naive_cusum(x, trim):
    """Shao and Zhang's statistic from its definition."""
    n, best = len(x), 0.0
    for split in range(max(trim, 2), n - max(trim, 2) + 1):
        before, after = x[:split], x[split:]
        numerator = n * (sum(before) - split / n * sum(x)) ** 2
        spread = sum((sum(before[:t]) - t / split * sum(before)) ** 2 for t in range(1, split + 1))
        spread += sum((sum(after[t:]) - (len(after) - t) / len(after) * sum(after)) ** 2 for t in range(len(after)))
        best = max(best, numerator / spread)
    return best


@pytest.mark.parametrize("trim", [1, 4, 10])
def test_the_cusum_statistic_is_that_of_its_definition(trim):
    x = np.cumsum(np.random.default_rng(trim).standard_normal(31)) + 7
    assert cusum_statistic(x[None], trim)[0] == pytest.approx(naive_cusum(list(x), trim), rel=1e-9)


def test_the_statistic_depends_neither_on_the_scale_nor_on_the_direction_of_time():
    x = np.random.default_rng(5).standard_normal((3, 40))
    np.testing.assert_allclose(cusum_statistic(1e6 + 1e-3 * x, 5), cusum_statistic(x, 5), rtol=1e-5)
    np.testing.assert_allclose(cusum_statistic(x[:, ::-1], 5), cusum_statistic(x, 5), rtol=1e-9)


def seen_by_windows(values, size):
    return np.lib.stride_tricks.sliding_window_view(np.asarray(values, dtype=float), size).mean(axis=-1)


@pytest.mark.parametrize(("n", "size", "spread"), [(60, 10, 0), (60, 10, 7), (61, 9, 20), (40, 5, 25), (200, 6, 100)])
def test_the_residuals_are_those_of_explicit_least_squares(n, size, spread):
    ramps = Ramps(n, size, spread)
    series = np.random.default_rng(n).standard_normal((2, n)).cumsum(axis=1)
    found = ramps.residuals(Prepared.of(series, size + spread + 1))
    assert found.shape == (2, len(ramps.first_updates))
    allowed = 1e-3 * np.sum((series - series.mean(axis=1, keepdims=True)) ** 2, axis=1)
    for at, first in enumerate(ramps.first_updates):
        updates = [min(max((u - first + 1) / (spread + 1), 0), 1) for u in range(n + size - 1)]
        ramp = seen_by_windows(updates, size)
        design = np.column_stack([np.ones(n), ramp, ramp * (1 - ramp)][: 3 if spread == 0 else 2])
        for row in (0, 1):
            solution, left, *_ = np.linalg.lstsq(design, series[row], rcond=None)
            assert found[row, at] == pytest.approx(left[0] + allowed[row], rel=1e-9)
            fitted, height = ramps.fitted(series[row], first)
            np.testing.assert_allclose(fitted, design @ solution, atol=1e-9)
            assert height == pytest.approx(solution[1], rel=1e-9)


def test_noise_of_windows_is_that_of_averaged_updates():
    noise = window_noise(50, 8, 4000, np.random.default_rng(0))
    correlation = (noise[:, 10, None] * noise[:, 10:20]).mean(axis=0)
    np.testing.assert_allclose(correlation, np.maximum(1 - np.arange(10) / 8, 0), atol=0.06)


@pytest.mark.parametrize("size", [5, 10])
@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_a_jump_of_the_updates_is_dated_to_the_checkpoint(size, at):
    n_updates = 120
    first = round(at * n_updates)
    generator = np.random.default_rng(first)
    updates = np.where(np.arange(n_updates) >= first, 1.0, 0.0) + 0.02 * generator.standard_normal(n_updates)
    shift = find_shift(seen_by_windows(updates, size), size, QUICK)
    assert shift.status == "ok"
    assert abs(shift.update - first) <= 1
    assert shift.low <= first <= shift.high
    assert shift.high - shift.low <= size
    assert shift.p == 1 / 500
    assert shift.size == pytest.approx(1, abs=0.1)


def log_edge_ratios(deltas, size):
    theta = np.concatenate([np.zeros((1, deltas.shape[1])), np.cumsum(deltas, axis=0)])
    return np.log(window_series(Gram.of(gram_sums(theta, FLOAT64)), size, deltas.shape[1]).edge_ratio)


@pytest.mark.parametrize("size", [5, 10])
@pytest.mark.parametrize("first", [40, 61, 80])
def test_a_jump_of_the_spectral_edge_is_dated_to_the_checkpoint(first, size):
    generator = np.random.default_rng(first)
    deltas = generator.standard_normal((120, 400)) / 20
    deltas[:, 0] += np.where(np.arange(120) < first, 1.0, 2.0)
    shift = find_shift(log_edge_ratios(deltas, size), size, QUICK)
    assert shift.status == "ok"
    assert abs(shift.update - first) <= 1
    assert shift.low <= first <= shift.high


def test_a_jump_without_noise_is_dated_exactly():
    updates = np.where(np.arange(100) >= 37, -2.0, 5.0)
    shift = find_shift(seen_by_windows(updates, 10), 10, QUICK)
    assert (shift.status, shift.update, shift.low, shift.high) == ("ok", 37, 37, 37)
    assert shift.size == pytest.approx(-7)


@pytest.mark.parametrize(("n", "size", "replicas"), [(60, 10, 40), (200, 6, 500)])  # 500 x 200: in two parts
def test_replicas_share_their_noise_and_are_fitted_as_if_each_stood_alone(n, size, replicas):
    kinds = kinds_of_ramps(n, size)
    at = len(kinds[0].first_updates) // 3
    model = 5 - 3 * kinds[0].shape(int(kinds[0].first_updates[at]))
    found, first = (
        draw(Planted(kinds, at, model, variance), replicas, 3)
        for draw, variance in ((draw_replicas, 0.04), (best_jumps, 0.25))
    )
    parts = [(2 + part, min(replicas - part, 2**16 // n)) for part in range(0, replicas, 2**16 // n)]
    noise = np.concatenate([window_noise(n, size, more, np.random.default_rng([3, at])) for at, more in parts])
    for row in (0, 17, replicas - 1):
        series = model + 0.2 * noise[row]
        residuals = [kind.residuals(prepared_for(kinds, series)) for kind in kinds]
        assert found.true[row] == pytest.approx(residuals[0][at], rel=1e-11)
        assert found.jump[row] == pytest.approx(residuals[0].min(), rel=1e-11)
        assert found.any_kind[row] == pytest.approx(min(one.min() for one in residuals), rel=1e-11)
        assert found.statistic[row] == pytest.approx(cusum_statistic(series, size), rel=1e-11)
    pilots = model + 0.5 * window_noise(n, size, replicas, np.random.default_rng([3, 1]))
    np.testing.assert_allclose(first, kinds[0].residuals(prepared_for(kinds, pilots)).min(axis=1), rtol=1e-11)


def test_a_smooth_change_says_so_and_its_interval_holds_it():
    updates = np.interp(np.arange(200), [60, 140], [0.0, 1.0]) + 0.02 * np.random.default_rng(1).standard_normal(200)
    shift = find_shift(seen_by_windows(updates, 10), 10, QUICK)
    assert shift.status == "smooth"
    assert abs(shift.update - 100) <= 5
    assert shift.low <= 70
    assert shift.high >= 130


def test_noise_has_no_date():
    noise = window_noise(80, 10, 30, np.random.default_rng(3))
    found = [find_shift(one, 10, QUICK) for one in noise]
    undated = [shift for shift in found if shift.status == "no_shift"]
    assert len(undated) >= 24
    assert all((shift.update, shift.low, shift.high) == (None, None, None) for shift in undated)


def test_series_that_can_show_no_shift_say_why():
    assert find_shift(np.arange(39.0), 10) == Shift("few_effective", 39)
    assert find_shift(np.full(60, np.nan), 10) == Shift("few_effective", 0)
    assert find_shift(np.full(60, 0.1), 10) == Shift("constant", 60)
    assert math.isnan(find_shift(np.full(60, 0.1), 10).p)


@pytest.mark.parametrize(("n", "size", "least"), [(51, 10, 0.7), (190, 10, 0.95), (96, 5, 0.6)])
def test_averages_of_strongly_autocorrelated_updates_have_no_p_value(n, size, least):
    generator = np.random.default_rng(n)
    found = [find_shift(seen_by_windows(_ar1(n + size - 1, 0.9, generator), size), size, QUICK) for _ in range(60)]
    persistent = [shift for shift in found if shift.status == "persistent"]
    assert len(persistent) >= least * len(found)
    assert all(math.isnan(shift.p) and shift.update is None for shift in persistent)
    assert sum(shift.p <= 0.05 for shift in found) <= 8


def test_neither_noise_nor_a_jump_is_taken_for_autocorrelation():
    noise = window_noise(96, 5, 60, np.random.default_rng(4))
    jump = seen_by_windows(np.where(np.arange(100) >= 40, 30.0, 0.0), 5)
    found = [find_shift(one + height * jump, 5, QUICK) for one in noise[:20] for height in (0, 1)]
    assert "persistent" not in {shift.status for shift in found}
    walks = noise_kinds(96, 5, 20, 3)
    found = [find_shift(one, 5, QUICK) for name, series in walks if "edge ratio" in name for one in series]
    assert "persistent" not in {shift.status for shift in found}


def test_of_a_series_with_unknown_values_the_longest_stretch_is_used():
    updates = np.where(np.arange(150) >= 90, 1.0, 0.0) + 0.01 * np.random.default_rng(2).standard_normal(150)
    series = seen_by_windows(updates, 10)
    series[[3, 20, 139]] = np.nan
    shift = find_shift(series, 10, QUICK)
    assert shift.n == 118
    assert abs(shift.update - 90) <= 1
    assert shift == find_shift(series, 10, QUICK)


def noise_kinds(n, size, trials, seed):
    """Series of noise windows by name: averages, and log ratios of random walks with several norms."""
    generator = np.random.default_rng(seed)
    n_updates = n + size - 1
    yield "averages of white noise", iter(window_noise(n, size, trials, generator))
    for p_eff in (40, 1000):
        walks = walk_sigmas(np.ones(n_updates), p_eff, size, trials, seed)
        yield f"edge ratio, equal norms, p_eff {p_eff}", (_log_edge(sigma) for sigma in walks)
    for name, k in (("edge ratio", 0), ("sigma_1/sigma_2", 1), ("sigma_2/sigma_3", 2)):
        yield f"{name}, norms with 10 % jitter, p_eff 300", _jittered(n_updates, size, trials, k, generator)
    yield (
        "averages of AR(1) 0.5 updates",
        (seen_by_windows(_ar1(n_updates, 0.5, generator), size) for _ in range(trials)),
    )
    yield (
        "averages of AR(1) 0.9 updates",
        (seen_by_windows(_ar1(n_updates, 0.9, generator), size) for _ in range(trials)),
    )


def _log_edge(sigma):
    return np.log(np.nanmax(sigma[:, :-1] / sigma[:, 1:], axis=1))


def _jittered(n_updates, size, trials, k, generator):
    for trial in range(trials):
        norms = np.exp(0.1 * generator.standard_normal(n_updates))
        sigma = next(walk_sigmas(norms, 300, size, 1, trial))
        yield _log_edge(sigma) if k == 0 else np.log(sigma[:, k - 1] / sigma[:, k])


def _ar1(n, rho, generator):
    shocks = generator.standard_normal(n + 50)
    for i in range(1, n + 50):
        shocks[i] += rho * shocks[i - 1]
    return shocks[50:]


def rejections(series, size, options):
    p = np.array([find_p(one, size, options) for one in series])
    return np.mean(p <= options.alpha)


def find_p(series, size, options):
    return find_shift(series, size, ShiftOptions(0.0, options.draws, options.replicas, options.seed)).p


@pytest.mark.slow
@pytest.mark.parametrize(("n", "size"), [(51, 10), (190, 10)])
def test_noise_windows_are_called_shifts_at_about_the_nominal_rate(n, size):
    for name, series in noise_kinds(n, size, 600, 6):
        if "AR(1)" not in name:
            assert 0.005 <= rejections(series, size, ShiftOptions()) <= 0.08, name


@pytest.mark.campaign
@pytest.mark.parametrize(("n", "size"), [(41, 10), (51, 10), (96, 5), (190, 10), (180, 20)])
def test_how_often_noise_windows_are_called_shifts(n, size):
    """A table of rejections at 5 %, 2,000 trials."""
    print(f"\nn_windows {n}, W {size}: rejections at 5 %")
    for name, series in noise_kinds(n, size, 2000, n):
        share = rejections(series, size, ShiftOptions())
        print(f"  {name:50s} {share:.3f}")
        assert share <= 0.07, name
        if "AR(1)" not in name:
            assert share >= 0.03 or n < 10 * size or "equal norms" in name, name


@pytest.mark.campaign
def test_how_well_planted_jumps_are_dated():
    """A table of power, error and coverage of jumps of several sizes, 300 trials."""
    print("\nn_windows  W  jump/sd  power  within 1  median error  coverage  width  smooth")
    for n, size in ((51, 10), (190, 10), (180, 20)):
        for height in (1.0, 2.0, 4.0, 8.0):
            rows = [_planted_jump(n, size, height, trial) for trial in range(300)]
            dated = [(first, shift) for first, shift in rows if shift.status == "ok"]
            error = np.array([abs(shift.update - first) for first, shift in dated])
            covered = np.mean([shift.low <= first <= shift.high for first, shift in dated])
            width = np.median([shift.high - shift.low for _, shift in dated])
            smooth = np.mean([shift.status == "smooth" for _, shift in rows])
            power = np.mean([shift.status in ("ok", "smooth") for _, shift in rows])
            print(
                f"{n:9d} {size:2d} {height:8.0f} {power:6.2f} {np.mean(error <= 1):9.2f} {np.median(error):13.1f} "
                f"{covered:9.3f} {width:6.0f} {smooth:7.3f}"
            )


def _planted_jump(n, size, height, trial):
    """A jump of `height` standard deviations of the windows' noise."""
    generator = np.random.default_rng([n, size, trial])
    first = int(generator.integers(2 * size, n - size))
    series = window_noise(n, size, 1, generator)[0]
    series += height * seen_by_windows(np.arange(n + size - 1) >= first, size)
    return first, find_shift(series, size, ShiftOptions(draws=999, replicas=199))
