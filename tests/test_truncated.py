"""Truncated power laws, against `powerlaw`, planted samples and the likelihood itself; and as a column on request."""

import warnings

import numpy as np
import pytest
from scipy import optimize, stats

from sedarchive.compute.matrix.matrix_rows import TRUNCATED, stats_columns
from sedarchive.matrix.density import fit_tail
from sedarchive.matrix.gaussian import gaussian_sigmas
from sedarchive.matrix.stack import SpectraStack
from sedarchive.matrix.truncated import fit_truncated

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import powerlaw


def drawn(alpha, rate, n, seed=0):
    """Sample of x^-alpha exp(-rate x) from 1 on, by rejection from the exponential or from the power law."""
    rng = np.random.default_rng(seed)
    found = np.empty(0)
    while len(found) < n:
        y = 1 + rng.exponential(1 / rate, 4 * n) if alpha <= 1 else rng.random(4 * n) ** (-1 / (alpha - 1))
        keep = y**-alpha if alpha <= 1 else np.exp(-rate * (y - 1))
        found = np.append(found, y[rng.random(4 * n) < keep])
    return found[:n]


@pytest.mark.parametrize(("alpha", "rate"), [(2.5, 0.05), (1.5, 0.1), (0.5, 0.2), (3.2, 0.01)])
def test_exponent_rate_and_distance_are_those_of_powerlaw_to_what_its_optimiser_allows(alpha, rate):
    values = 7 * drawn(alpha, rate, 300, seed=1)
    x_min = fit_tail(values).x_min
    found = fit_truncated(values, x_min)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranges = {"alpha": [0, 100], "Lambda": [0, None]}
        reference = powerlaw.Truncated_Power_Law(values, xmin=x_min, parameter_ranges=ranges, verbose=0)
    if found.status == "ok":
        assert found.alpha == pytest.approx(reference.alpha, abs=2e-4)
        assert found.rate == pytest.approx(reference.Lambda, rel=1e-3)
    assert found.ks == pytest.approx(reference.D, abs=1e-4)


def test_p_is_half_of_that_of_powerlaw_for_nested_laws():
    values = drawn(1.5, 0.1, 300, seed=1)
    x_min = fit_tail(values).x_min
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = powerlaw.Fit(values, xmin=x_min, verbose=0)
        _, p = fit.distribution_compare("truncated_power_law", "power_law", nested=True)
    assert fit_truncated(values, x_min).p == pytest.approx(p / 2, rel=1e-3)


def log_likelihood(tail, alpha, rate):
    from mpmath import expint, log

    return float(len(tail) * -log(expint(alpha, rate))) - alpha * np.log(tail).sum() - rate * tail.sum()


@pytest.mark.parametrize("seed", range(6))
def test_no_other_exponent_or_rate_is_likelier(seed):
    rng = np.random.default_rng(seed)
    values = [rng.pareto(2.2, 60) + 1, rng.gamma(2, size=60) + 0.1, np.exp(2 * rng.standard_normal(60))][seed % 3]
    tail = np.sort(values)[20:]
    found = fit_truncated(values, tail[0])
    y = tail / tail[0]
    best = log_likelihood(y, found.alpha, max(found.rate * tail[0], 1e-9))
    for alpha in (0.0, 0.5, 0.99, 1.01, 1.001 + 1e-3, 1.02):
        for rate in (0.5, 0.99, 1.01, 1.5):
            other = log_likelihood(y, alpha * (found.alpha or 0.1), rate * max(found.rate * tail[0], 1e-3))
            assert other <= best + 1e-6
    start = [1.0, 1 / y.mean()]
    reached = optimize.minimize(lambda at: -log_likelihood(y, *np.abs(at)), start, method="Nelder-Mead")
    assert -reached.fun <= best + 1e-6


def test_planted_exponents_lie_within_their_errors():
    """1.96 errors cover 95 %: of 200 samples at least 90 %."""
    found = [fit_truncated(drawn(1.6, 0.02, 400, seed), 1.0) for seed in range(60)]
    covered = [abs(one.alpha - 1.6) < 1.96 * one.se for one in found]
    assert np.mean(covered) >= 0.88
    assert np.mean([one.p < 0.05 for one in found]) > 0.9


def test_p_rejects_pure_power_laws_as_often_as_it_says():
    rng = np.random.default_rng(5)
    p = np.array([fit_truncated(rng.pareto(1.2, 80) + 1, 1.0).p for _ in range(120)])
    assert stats.binomtest(int((p < 0.1).sum()), len(p), 0.1).pvalue > 0.01
    assert ((p == 1) | (p <= 0.5)).all()


def test_the_distance_is_that_of_the_fitted_distribution_function():
    from mpmath import expint

    tail = np.sort(drawn(1.5, 0.3, 40, seed=3))
    found = fit_truncated(tail, tail[0])
    y, z = tail / tail[0], found.rate * tail[0]
    cdf = np.array([1 - float(one ** (1 - found.alpha) * expint(found.alpha, z * one)) for one in y])
    cdf = 1 - (1 - cdf) / float(expint(found.alpha, z))
    assert found.ks == pytest.approx(np.abs(cdf - np.arange(40) / 40).max(), abs=1e-9)


def test_borders_have_their_names():
    rng = np.random.default_rng(6)
    assert fit_truncated(1 + rng.exponential(size=300) ** 0.7, 1.0).status == "exponential"
    heavy = np.append(np.full(50, 1.0), [1.0, 1.1, 1.2, 50.0])
    pure = fit_truncated(heavy, 1.0)
    assert (pure.status, pure.rate, pure.p) == ("pure", 0.0, 1.0)
    assert pure.alpha == pytest.approx(1 + len(heavy) / np.log(heavy).sum())
    for values in (np.arange(1.0, 10), np.full(30, 2.0)):
        found = fit_truncated(values, 1.0)
        assert (found.status, np.isnan(found.alpha), np.isnan(found.p)) == ("too_short", True, True)
    assert fit_truncated(rng.pareto(1, 30) + 1, np.nan).status == "too_short"


def test_samples_over_many_orders_of_magnitude_are_fitted():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = np.exp(rng.uniform(0.01, 12) * rng.standard_normal(40))
        found = fit_truncated(values, values.min())
        assert np.isfinite([found.alpha, found.rate, found.ks, found.p]).all()


def test_the_column_is_made_on_request_and_scales_as_its_unit_says():
    sigma = np.sort(np.random.default_rng(7).pareto(2, (3, 60)) + 1, axis=1)[:, ::-1]
    stack = SpectraStack(sigma, np.full(3, 60))
    assert TRUNCATED not in stats_columns(stack, 60, 60)
    found = stats_columns(stack, 60, 60, truncated=True)
    scaled = stats_columns(SpectraStack(4 * sigma, np.full(3, 60)), 60, 60, truncated=True)
    for at in range(3):
        one = fit_truncated(sigma[at] ** 2, fit_tail(sigma[at] ** 2).x_min)
        assert found[TRUNCATED][at] == pytest.approx(one.alpha, rel=1e-7)
        assert found[f"{TRUNCATED}_rate"][at] == pytest.approx(one.rate, rel=1e-6)
    assert (found[TRUNCATED] == scaled[TRUNCATED]).all()
    assert found[f"{TRUNCATED}_rate"] == pytest.approx(16 * scaled[f"{TRUNCATED}_rate"])
    assert (found[f"{TRUNCATED}_n"] == found["alpha_mle_n"]).all()


def test_the_tail_of_noise_is_an_exponential_in_this_family():
    stack = SpectraStack(gaussian_sigmas(64, 64, 20), np.full(20, 64))
    alpha = stats_columns(stack, 64, 64, truncated=True)[TRUNCATED]
    assert np.nanmax(alpha) < 1
