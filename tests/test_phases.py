"""Phases and events of planted series, against rules written out in loops; and what the rules find in noise."""

import math
from itertools import pairwise

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.gram import Gram, RoundingUnit, gram_sums
from sedarchive.inference.eventstudy import TAUS, SettlingOptions, find_collapse, find_settling
from sedarchive.inference.phases import METHODS, PhaseOptions, find_phases, modal_rank, patterns, running_mean
from sedarchive.inference.walks import ratio_series, walk_sigmas
from sedarchive.rolling.windows import window_series

FLOAT64 = RoundingUnit(52, -1022)
RATIOS = st.lists(st.floats(1.0, 3.0), min_size=8, max_size=40).map(np.array)


def trapezoid(n=60, rise_to=20, fall_from=35, base=1.05, top=1.9):
    """A series that rises to a plateau and falls to its base by the end."""
    return np.interp(np.arange(n), [0, rise_to, fall_from, n - 1], [base, top, top, base])


def mirrored(values, i):
    return values[-i - 1] if i < 0 else values[2 * len(values) - i - 1] if i >= len(values) else values[i]


def naive_plateau(r, method, options):
    n, peak = len(r), max(range(len(r)), key=lambda i: (r[i], -i))
    if method == "peak":
        first = last = peak
        while first > 0 and r[first - 1] >= options.plateau_share * r[peak]:
            first -= 1
        while last < n - 1 and r[last + 1] >= options.plateau_share * r[peak]:
            last += 1
        return first, last
    if method == "threshold":
        above = [i for i in range(n) if r[i] >= options.level]
        return (above[0], above[-1]) if above else None
    smooth = [sum(mirrored(r, i + j) for j in range(-2, 3)) / 5 for i in range(n)]
    for i in range(peak, n):
        low, high = max(i - 1, 0), min(i + 1, n - 1)
        if (smooth[high] - smooth[low]) / (high - low) < options.slope:
            return peak, i
    return peak, n - 1


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(ratio=RATIOS)
def test_every_method_agrees_with_its_rule_in_loops(method, ratio):
    found, expected = find_phases(ratio, method), naive_plateau(list(ratio), method, PhaseOptions())
    if expected is None or expected == (0, len(ratio) - 1):
        assert found.status == "no_pattern"
        return
    assert found.plateau == expected
    assert found.rise == ((0, expected[0]) if expected[0] > 0 else None)
    assert found.collapse == ((expected[1], len(ratio) - 1) if expected[1] < len(ratio) - 1 else None)
    assert (found.status == "ok") == (None not in found.spans().values())


def test_the_running_mean_mirrors_the_series_beyond_its_ends():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    np.testing.assert_allclose(running_mean(values, 3), [4 / 3, 7 / 3, 14 / 3, 20 / 3])


@pytest.mark.parametrize(
    ("method", "boundaries"),
    # where the ramps cross 0.85 of the top and 1.30; where the top begins and ends
    [("peak", (13.3, 43.0)), ("threshold", (5.9, 52.0)), ("derivative", (20, 35))],
)
def test_planted_boundaries_are_found_within_a_checkpoint(method, boundaries):
    found = find_phases(trapezoid() + 1e-9 * (np.arange(60) == 20), method)
    assert found.status == "ok"
    assert np.abs(np.array(found.plateau) - boundaries).max() <= 1
    assert found.rise == (0, found.plateau[0])
    assert found.collapse == (found.plateau[1], 59)


def signal_updates(amplitude, dimension=3000, seed=3):
    """Unit noise and a signal along one direction."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((len(amplitude), dimension)) / math.sqrt(dimension)
    direction = np.zeros(dimension)
    direction[0] = 1
    return noise + amplitude[:, None] * direction


def ratios_of(deltas, size, k):
    theta = np.concatenate([np.zeros((1, deltas.shape[1])), np.cumsum(deltas, axis=0)])
    return window_series(Gram.of(gram_sums(theta, FLOAT64)), size, deltas.shape[1]).ratio[:, k - 1]


def test_phases_planted_in_updates_are_found_within_a_checkpoint():
    amplitude = np.interp(np.arange(80), [0, 10, 30, 45, 60, 79], [0, 0, 1.5, 1.5, 0, 0])
    size = 5
    energy = np.lib.stride_tricks.sliding_window_view(amplitude**2, size).sum(axis=1)
    found = find_phases(ratios_of(signal_updates(amplitude), size, 1))
    expected = naive_plateau(list(np.sqrt(energy + 1)), "peak", PhaseOptions())
    assert found.status == "ok"
    assert np.abs(np.array(found.plateau) - expected).max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_series_without_a_pattern_has_none(method):
    assert find_phases(np.full(30, 1.2), method).status == "no_pattern"
    assert find_phases(np.full(7, 1.2), method).status == "too_few"
    rising = find_phases(np.linspace(1.0, 2.0, 30), method)
    assert (rising.status, rising.collapse) == ("plateau_at_border", None)
    falling = find_phases(np.linspace(2.0, 1.0, 30), method)
    assert (falling.status, falling.rise) == ("plateau_at_border", None)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_ratios_are_left_out(method):
    ratio = trapezoid()
    ratio[[0, 4, 11, 30, 58]] = np.nan
    found, known = find_phases(ratio, method), np.flatnonzero(np.isfinite(ratio))
    compact = find_phases(ratio[known], method)
    assert found.plateau == (known[compact.plateau[0]], known[compact.plateau[1]])
    assert (found.rise[0], found.collapse[1]) == (1, 59)
    assert find_phases(np.full(30, np.nan), method).status == "too_few"


def test_there_is_no_fourth_method():
    with pytest.raises(ValueError, match="take one of peak, derivative, threshold"):
        find_phases(trapezoid(), "eye")


def test_the_modal_rank_counts_no_windows_without_one():
    assert modal_rank(np.array([0, 0, 0, 2, 3, 3, 2, 1])) == 2
    assert modal_rank(np.array([0, 0])) == 0
    assert modal_rank(np.array([], dtype=np.int64)) == 0


@pytest.mark.parametrize("p_eff", [6, 40, 4000])
def test_walks_have_the_singular_values_of_explicit_random_updates(p_eff):
    norms, size = np.linspace(1, 1.3, 9), 6
    drawn = np.array([sigma[2] for sigma in walk_sigmas(norms, p_eff, size, 400, seed=1)])
    expected = oracles.gaussian_null(norms[2:8], p_eff, 400, seed=2)
    error = np.abs(drawn.mean(axis=0) - expected.mean(axis=0)) / (drawn.std(axis=0) + 1e-3)
    assert error.max() < 0.25
    np.testing.assert_allclose(drawn.std(axis=0), expected.std(axis=0), rtol=0.2, atol=1e-3)


def test_consecutive_windows_of_a_walk_share_their_updates():
    sigma = next(walk_sigmas(np.ones(3000), 200, 10, 1))
    energy = np.log(sigma[:, 0])
    correlation = [np.corrcoef(energy[lag:], energy[: len(energy) - lag])[0, 1] for lag in (1, 20)]
    assert correlation[0] > 0.7
    assert abs(correlation[1]) < 0.1


def test_a_walk_knows_no_window_with_an_unknown_norm_and_no_mode_beyond_its_dimension():
    norms = np.ones(12)
    norms[3] = np.nan
    sigma = next(walk_sigmas(norms, 3, 4, 1))
    assert np.isnan(sigma).all(axis=1).tolist() == [True] * 4 + [False] * 5
    assert np.isnan(sigma[4:, 3]).all()
    assert np.isnan(ratio_series(sigma, 3)).all()
    assert (ratio_series(sigma[4:], 1) >= 1).all()
    assert next(walk_sigmas(np.ones(3), 50, 4, 1)).shape == (0, 4)


@pytest.mark.parametrize("n", [5, 7, 8, 60])
def test_a_pattern_is_all_three_phases(n):
    found = set()
    for seed in range(40):
        ratio = 1.2 + 0.1 * np.random.default_rng(seed).standard_normal(n).cumsum() / np.sqrt(n) * (1 + seed % 4)
        ratio[:: 7 - seed % 3] = np.nan if seed % 2 else ratio[:: 7 - seed % 3]
        assert patterns(ratio) == {method: find_phases(ratio, method).status == "ok" for method in METHODS}
        found.update(patterns(ratio).items())
    assert found >= {(method, False) for method in METHODS}
    assert n < 60 or len(found) == 2 * len(METHODS)


def share_of(noise, method, *options):
    return np.mean([patterns(ratio, *options)[method] for ratio in noise])


def test_noise_shows_the_full_pattern_often_by_the_peak_and_rarely_by_the_threshold():
    norms = np.ones(60)
    noise = [ratio_series(sigma, 1) for sigma in walk_sigmas(norms, 300, 10, 60)]
    shares = {method: share_of(noise, method) for method in METHODS}
    assert shares["threshold"] <= 0.1
    loose = PhaseOptions(plateau_share=0.97)
    assert share_of(noise, "peak", loose) >= 0.5
    assert shares["peak"] <= share_of(noise, "peak", loose)


@settings(max_examples=60, deadline=None)
@given(ratio=RATIOS, tau=st.sampled_from(TAUS))
def test_the_collapse_is_the_first_ratio_below_the_threshold_after_the_peak(ratio, tau):
    found, peak = find_collapse(ratio, tau), max(range(len(ratio)), key=lambda i: (ratio[i], -i))
    after = [i for i in range(peak + 1, len(ratio)) if ratio[i] < tau]
    if ratio[peak] < tau:
        assert (found.index, found.status) == (None, "no_pattern")
    else:
        assert (found.index, found.status) == ((after[0], "ok") if after else (None, "no_collapse"))


@settings(max_examples=60, deadline=None)
@given(ratio=RATIOS, cut=st.integers(3, 40))
def test_the_causal_collapse_does_not_change_with_what_comes_later(ratio, cut):
    whole, begun = find_collapse(ratio, causal=True), find_collapse(ratio[:cut], causal=True)
    if begun.index is not None:
        assert whole == begun
    elif whole.index is not None:
        assert whole.index >= cut


def test_a_planted_collapse_is_dated_by_both_rules():
    ratio = trapezoid()
    below = next(i for i in range(35, 60) if ratio[i] < 1.2)
    assert find_collapse(ratio).index == find_collapse(ratio, causal=True).index == below
    ratio[3:5] = np.nan
    assert find_collapse(ratio).index == below
    assert find_collapse(np.full(9, np.nan)).status == "too_few"
    assert find_collapse(np.linspace(1, 2, 9)).status == "no_collapse"


def naive_settling(values, after, causal):
    change = [abs(b - a) for a, b in pairwise(values)]
    if causal:
        smooth = [np.mean(change[max(i - 2, 0) : i + 1]) for i in range(len(change))]
        first = 10 if after is None else max(after, 10)
    else:
        smooth = [np.mean([mirrored(change, i + j) for j in (-1, 0, 1)]) for i in range(len(change))]
        first = 10 if after is None else after
    limit = 0.3 * np.median(smooth[:10])
    return next((i + 1 for i in range(len(change)) if i + 1 > first and smooth[i] < limit), None)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("after", [None, 5, 25])
@pytest.mark.parametrize("seed", range(5))
def test_the_settling_agrees_with_its_rule_in_loops(seed, after, causal):
    generator = np.random.default_rng(seed)
    loss = 2 * np.exp(-np.arange(60) / 12) + 0.02 * generator.standard_normal(60)
    assert find_settling(loss, after, causal).index == naive_settling(list(loss), after, causal)


def test_the_causal_settling_does_not_change_with_what_comes_later():
    loss = 2 * np.exp(-np.arange(60) / 8)
    settled = find_settling(loss, causal=True).index
    assert settled is not None
    assert find_settling(loss[: settled + 1], causal=True).index == settled
    assert find_settling(loss[:settled], causal=True).index is None


def test_losses_that_cannot_settle_say_why():
    assert find_settling(np.linspace(1, 0, 11)).status == "too_few"
    assert find_settling(np.ones(40)).status == "constant"
    assert find_settling(np.linspace(1, 0, 40)).status == "no_settling"
    assert find_settling(np.where(np.arange(40) == 7, np.nan, 1.0)).status == "nonfinite"
    assert find_settling(np.linspace(1, 0, 40), options=SettlingOptions(share=1.1)).index == 11


@pytest.mark.campaign
def test_how_often_noise_shows_the_full_pattern():
    """A table of the share of random walks in which each method finds rise, plateau and collapse."""
    print("\nn_windows  W  p_eff  k   peak  derivative  threshold")
    for n_windows, size in ((41, 10), (51, 10), (190, 10), (180, 20), (395, 5)):
        for p_eff in (30, 300, 10_000):
            walks = list(walk_sigmas(np.ones(n_windows + size - 1), p_eff, size, 300))
            for k in (1, 2, 3):
                noise = [ratio_series(sigma, k) for sigma in walks]
                peak, derivative, threshold = (share_of(noise, method) for method in METHODS)
                print(f"{n_windows:9d} {size:2d} {p_eff:6d} {k:2d} {peak:6.3f} {derivative:11.3f} {threshold:10.3f}")
                assert threshold <= 1
