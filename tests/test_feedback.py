"""Correlations with surrogates: planted leads and the one position that matters are found, and noise is not."""

import numpy as np
import pytest

from sedarchive.inference.feedback import correlations, lagged, paired_correlations
from sedarchive.inference.surrogates import phase_randomised


def smooth(n, rho, rng, m=1):
    """m series (m, n) of AR(1) noise."""
    series = rng.standard_normal((m, n))
    for t in range(1, n):
        series[:, t] = rho * series[:, t - 1] + np.sqrt(1 - rho**2) * series[:, t]
    return series


def test_the_correlation_is_that_of_the_residuals_of_lines():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 40)) + np.arange(40), rng.standard_normal(40) - 2 * np.arange(40)
    time = np.arange(40)
    rest = [one - np.polyval(np.polyfit(time, one, 1), time) for one in (*x, y)]
    found = correlations(x, y)
    np.testing.assert_allclose(found.r, [np.corrcoef(one, rest[3])[0, 1] for one in rest[:3]], atol=1e-10)
    assert found.n == 40


def test_the_p_value_counts_explicit_surrogates_of_the_same_spectrum():
    rng = np.random.default_rng(1)
    x, y = smooth(50, 0.8, rng, 3), smooth(50, 0.8, rng)[0]
    found = correlations(x, y, draws=40, seed=3)
    time = np.arange(50)
    x, (y,) = ([one - np.polyval(np.polyfit(time, one, 1), time) for one in part] for part in (x, [y]))
    drawn = phase_randomised(y, 40, 3)
    np.testing.assert_allclose(np.abs(np.fft.rfft(drawn))[:, 1:], [np.abs(np.fft.rfft(y))[1:]] * 40, rtol=1e-9)
    drawn = [one - np.polyval(np.polyfit(time, one, 1), time) for one in drawn]
    largest = [max(abs(np.corrcoef(one, other)[0, 1]) for one in x) for other in drawn]
    for k in range(3):
        reached = sum(value >= abs(found.r[k]) for value in largest)
        assert found.p[k] == pytest.approx((1 + reached) / 41)


@pytest.mark.parametrize("n", [50, 51])
def test_targets_of_their_own_meet_surrogates_by_the_same_phases(n):
    rng = np.random.default_rng(5)
    x, y = smooth(n, 0.8, rng, 4), smooth(n, 0.8, rng, 4)
    y[3] = np.nan  # a target that is not known
    found = paired_correlations(x, y, draws=40, seed=2)
    time = np.arange(n)
    x, y = ([one - np.polyval(np.polyfit(time, one, 1), time) for one in part[:3]] for part in (x, y))
    np.testing.assert_allclose(found.r[:3], [np.corrcoef(one, other)[0, 1] for one, other in zip(x, y, strict=True)])
    drawn = [phase_randomised(one, 40, 2) for one in y]
    drawn = [[one - np.polyval(np.polyfit(time, one, 1), time) for one in of_target] for of_target in drawn]
    largest = [max(abs(np.corrcoef(x[i], drawn[i][d])[0, 1]) for i in range(3)) for d in range(40)]
    for k in range(3):
        assert found.p[k] == pytest.approx((1 + sum(value >= abs(found.r[k]) for value in largest)) / 41)
    assert np.isnan(found.r[3])


@pytest.mark.parametrize("lead", [-3, 0, 4])
def test_a_planted_lead_is_found_with_its_sign(lead):
    rng = np.random.default_rng(2)
    series = smooth(220, 0.5, rng)[0]
    target = np.roll(series, lead)[10:-10] + 0.3 * rng.standard_normal(200)
    found = correlations(lagged(series[10:-10], 8)[:, 8:-8], target[8:-8])
    assert found.strongest - 8 == lead
    assert found.p[found.strongest] < 0.01


def test_the_position_that_matters_is_found_among_those_that_do_not():
    rng = np.random.default_rng(3)
    collapse = smooth(150, 0.5, rng, 9)
    loss = 0.8 * collapse[1] + 0.6 * smooth(150, 0.5, rng)[0]
    found = correlations(collapse, loss)
    assert found.strongest == 1
    assert found.p[1] < 0.02
    assert (np.delete(found.p, 1) > 0.05).all()


@pytest.mark.parametrize("rho", [pytest.param(0.5, marks=pytest.mark.slow), 0.9])
def test_changes_of_unrelated_series_are_called_related_no_more_often_than_stated(rho):
    rng = np.random.default_rng(4)
    n, trials = 200, 400
    found = 0
    for _ in range(trials):
        x, y = np.diff(smooth(n, rho, rng, 9)), np.diff(smooth(n, rho, rng)[0])
        found += np.nanmin(correlations(x, y).p) <= 0.05
    assert found / trials <= 0.085  # 5 % within three standard errors


@pytest.mark.parametrize(
    ("features", "target"),
    [(np.ones((2, 30)), np.arange(30.0) ** 2), (np.full((2, 30), np.nan), np.arange(30.0)), (np.eye(2, 9), np.ones(9))],
)
def test_what_is_constant_unknown_or_short_has_no_correlation(features, target):
    found = correlations(features, target)
    assert np.isnan(found.r).all()
    assert np.isnan(found.p).all()
    assert found.strongest == -1
