"""How often default p-values reject noise and default intervals hold the truth: the campaign's table in RESULTS.md."""

import calibration
import numpy as np
import pytest
from calibration import FEW_GIVEN, NULLS, STATED, STATED_NAMES
from coverage_cases import INTERVALS
from series import gram_of, power_trial, rejections

from sedarchive.rolling.windows import window_series

WIDE = 4.0
"""Standard errors that the reduced tier allows beyond the bounds: it looks at some two hundred numbers."""


def outcomes(case, trials, seed=0):
    """Name -> share of what is given, number given, share that is given."""
    key = [seed, *case.name.encode()]
    found = case.run(np.random.default_rng(key), trials)
    given = {name: np.isfinite(values) for name, values in found.items()}
    return {
        name: (
            float(values[given[name]].mean()) if given[name].any() else np.nan,
            int(given[name].sum()),
            given[name].mean(),
        )
        for name, values in found.items()
    }


def outside(case, found, errors):
    """What lies outside of the bounds of a case by more than some standard errors."""
    low, high = case.bounds
    strays = {}
    for name, (share, given, part) in found.items():
        if not given or part < FEW_GIVEN or (case.name, name) in STATED_NAMES:
            continue
        below, above = (errors * np.sqrt(max(b * (1 - b), 0.01) / given) for b in (low, high))
        if not low - below <= share <= high + above:
            strays[name] = share
    return strays


def show(case, found):
    low, high = case.bounds
    for name, (share, given, part) in found.items():
        is_shown = (low, high) == calibration.SHOWN or (case.name, name) in STATED_NAMES
        bounds = "shown" if is_shown else f"{100 * low:.0f}-{100 * high:.0f}"
        remark = f", given in {100 * part:.0f} %" if part < 1 else ""
        print(f"{case.name}: {name} | {given} | {100 * share:.1f} | {bounds}{remark}", flush=True)


def test_the_light_windows_are_those_of_the_pipeline():
    updates = calibration.walked_updates(np.random.default_rng(1), True)
    rows = np.concatenate([np.zeros((1, 64)), updates])
    for size in calibration.SIZES:
        windows = window_series(gram_of(rows), size, 64)
        sigma, features = calibration.light_windows(updates, size)
        np.testing.assert_allclose(sigma, windows.sigma, rtol=1e-8)
        np.testing.assert_allclose(features, [getattr(windows, name) for name in calibration.PLAIN], rtol=1e-8)


QUICK = [one for one in (*NULLS, *INTERVALS) if one.quick]
HEAVY = ("noise windows", "gaps of random walks", "projections")


def is_heavy(case):
    return case.name.startswith(HEAVY)


@pytest.mark.parametrize("case", [one for one in QUICK if not is_heavy(one)], ids=lambda case: case.name)
def test_few_trials_stay_within_wide_bounds(case):
    assert outside(case, outcomes(case, case.quick), WIDE) == {}


@pytest.mark.slow
@pytest.mark.parametrize("case", [one for one in QUICK if is_heavy(one)], ids=lambda case: case.name)
def test_few_trials_of_the_pipeline_stay_within_wide_bounds(case):
    assert outside(case, outcomes(case, case.quick), WIDE) == {}


def check_many(case):
    found = outcomes(case, case.trials)
    show(case, found)
    # the bounds are the at 2,000 trials; fewer are allowed their own error
    assert outside(case, found, 0.0 if case.trials >= 2000 else 2.0) == {}


@pytest.mark.campaign
@pytest.mark.parametrize("case", NULLS, ids=lambda case: case.name)
def test_default_p_values_reject_noise_in_a_twentieth(case):
    check_many(case)


@pytest.mark.campaign
@pytest.mark.parametrize("case", STATED, ids=lambda case: case.name)
def test_what_the_other_p_values_reject_is_stated(case):
    check_many(case)


@pytest.mark.campaign
@pytest.mark.parametrize("case", INTERVALS, ids=lambda case: case.name)
def test_default_intervals_hold_the_truth(case):
    check_many(case)


POWER = {(60, 0.5, 0.7): 0.7, (120, 0.5, 0.7): 0.95, (400, 0.5, 0.4): 0.95, (400, 0.9, 0.7): 0.8}
"""(points, autocorrelation, planted correlation) -> least share that finds it."""


def check_power(n, rho, effect, trials):
    rows = [power_trial(np.random.default_rng([n, at]), n, rho, effect) for at in range(trials)]
    power = rejections([row["peak over lags"] for row in rows])[0]
    right = np.mean([row["lag right"] for row in rows])
    planted = f"planted coupling of {effect}, lag 3 [n {n}, rho {rho}]"
    print(f"{planted}: found | {trials} | {100 * power:.1f} | lag right in {100 * right:.1f}")
    assert power >= POWER[n, rho, effect] - 2 * np.sqrt(0.25 / trials)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rho", "effect"), POWER)
def test_a_planted_coupling_is_found(n, rho, effect):
    check_power(n, rho, effect, 40)


@pytest.mark.campaign
@pytest.mark.parametrize(("n", "rho", "effect"), POWER)
def test_a_planted_coupling_is_found_in_many_trials(n, rho, effect):
    check_power(n, rho, effect, 200)
