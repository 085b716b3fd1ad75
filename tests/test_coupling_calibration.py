"""How often the tests of couplings reject what is noise, and find what is planted: counts in tests/RESULTS.md."""

import numpy as np
import pytest
from series import (
    FEATURES_A_METRIC,
    autoregressive,
    cosine_rate,
    coverage_trial,
    decaying_loss,
    pair_trial,
    power_trial,
    rejections,
    window_trial,
)

LENGTHS, RHOS = (60, 120, 400), (0.0, 0.5, 0.9)
T = 160
AUTHORS = ("authors", "n_eff", "no test")
"""Parts of the names of what is shown, and not held to any bound."""


def trials_of(trial, trials, seed):
    """Name -> (share that rejects at 5 %, share that gives a p-value)."""
    found = [trial(np.random.default_rng([seed, at])) for at in range(trials)]
    return {name: rejections(np.hstack([one[name] for one in found])) for name in found[0]}


def show(title, table):
    print(f"\n{title}")
    for name, (share, given) in table.items():
        print(f"  {name:28s} {100 * share:5.1f} %   (p in {100 * given:5.1f} %)")


def outside(table, trials, low=0.03):
    """Defaults whose share of rejections is not between ``low`` and 7 %, chance in the number of trials allowed for."""
    slack = 3 * np.sqrt(0.05 * 0.95 / trials) if trials < 2000 else 0.0
    shares = {name: share for name, (share, _) in table.items() if not any(part in name for part in AUTHORS)}
    return {name: share for name, share in shares.items() if not low - slack <= share <= 0.07 + slack}


def check_pairs(n, trials):
    strays = {}
    for rho in RHOS:
        table = trials_of(lambda rng, rho=rho: pair_trial(rng, n, rho), trials // FEATURES_A_METRIC, n)
        show(f"unrelated pairs of {n} points, autocorrelation {rho}, {trials} trials", table)
        strays[rho] = outside(table, trials, low=0.03 if rho <= 0.5 else 0.0)
    assert strays == {rho: {} for rho in RHOS}


@pytest.mark.slow
def test_unrelated_pairs_are_seldom_called_coupled():
    check_pairs(60, 200)


@pytest.mark.campaign
@pytest.mark.parametrize("n", LENGTHS)
def test_unrelated_pairs_are_called_coupled_in_a_twentieth(n):
    check_pairs(n, 2000)


SCENES = {
    "decaying loss, cubic, end": {"detrend": "cubic"},
    "decaying loss, linear, centre": {"detrend": "linear", "stamp": "centre"},
    "learning rate drives both, taken out": {"detrend": "linear", "kind": "partial_lr"},
}


def scene_trial(rng, scene):
    """Noise windows, and a loss that decays or follows the learning rate."""
    if SCENES[scene].get("kind") != "partial_lr":
        return window_trial(rng, decaying_loss(rng, T), n_checkpoints=T, **SCENES[scene])
    lr = cosine_rate(T)
    loss = 3 - 0.5 * lr + 0.05 * autoregressive(rng, T, 0.5)[0]
    return window_trial(rng, loss, n_checkpoints=T, lr=lr, **SCENES[scene])


def check_scene(scene, trials):
    table = trials_of(lambda rng: scene_trial(rng, scene), trials, 7)
    show(f"noise windows: {scene}, {trials} trials", table)
    assert outside(table, trials, low=0.0) == {}


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_noise_windows_are_seldom_coupled_to_a_loss(scene):
    check_scene(scene, 100)


@pytest.mark.campaign
@pytest.mark.parametrize("scene", SCENES)
def test_noise_windows_are_coupled_to_a_loss_in_a_twentieth(scene):
    check_scene(scene, 1000)


def check_power(trials):
    table = {}
    for n in LENGTHS:
        for rho in (0.0, 0.5, 0.9):
            for effect in (0.4, 0.7):
                found = trials_of(lambda rng, a=(n, rho, effect): power_trial(rng, *a), trials, n)
                table[n, rho, effect] = found["peak over lags"][0], 1 - found["lag wrong"][0]
    print(f"\npower of the peak (linear), and share of trials that find the lag, {trials} trials")
    for (n, rho, effect), (power, right) in table.items():
        print(f"  {n:4d} points, autocorrelation {rho}, correlation {effect}: {power:6.3f} {right:6.3f}")
    assert table[120, 0.5, 0.7][0] > 0.95
    assert table[400, 0.5, 0.4][0] > 0.95
    assert table[400, 0.9, 0.7][0] > 0.8


@pytest.mark.slow
def test_a_planted_coupling_is_found():
    check_power(40)


@pytest.mark.campaign
def test_a_planted_coupling_is_found_in_many_trials():
    check_power(200)


def check_coverage(trials):
    strays = {}
    print(f"\ncoverage of the 95 % interval at lag 0, {trials} trials")
    for n in LENGTHS:
        for rho_x, rho_y in ((0.0, 0.0), (0.5, 0.5), (0.9, 0.9), (0.9, 0.3)):
            for share in (0.0, 0.5, 0.9):
                seeds = (np.random.default_rng([n, at]) for at in range(trials))
                held = [coverage_trial(rng, n, rho_x, rho_y, share) for rng in seeds]
                given = np.isfinite(held).mean()
                covered = np.nanmean(held) if given else np.nan
                print(f"  {n:4d} points, {rho_x} and {rho_y}, {share}: {covered:6.3f} (given in {given:5.3f})")
                slack = 3 * np.sqrt(0.05 * 0.95 / max(given * trials, 1)) if trials < 2000 else 0.0
                # the effective size is too small for strong correlations of series of unlike smoothness
                high = 0.99 if rho_x == rho_y else 1.0
                if given and not 0.90 - slack <= covered <= high + slack:
                    strays[n, rho_x, rho_y, share] = covered
    assert strays == {}


@pytest.mark.slow
def test_intervals_cover():
    check_coverage(100)


@pytest.mark.campaign
def test_intervals_cover_in_many_trials():
    check_coverage(2000)
