"""Tail exponents of the density of eigenvalues, against `powerlaw` and against every x_min tried one by one."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sedarchive.matrix.density import fit_tail, hill_of
from sedarchive.matrix.stack import SpectraStack

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import powerlaw


def every_x_min(values):
    """(D, alpha, x_min, n) of the best of all tails, one after another."""
    x = np.sort(values)
    tried = []
    for first in range(len(x) - 1):
        if first and x[first] == x[first - 1]:
            continue
        tail = x[first:]
        n = len(tail)
        logs = np.log1p((tail - tail[0]) / tail[0])  # exact where values are nearly equal
        total = sum(logs)
        if total > 0:
            alpha = 1 + n / total
            fitted = 1 - np.exp(-(alpha - 1) * logs)
            tried.append((max(abs(fitted - np.arange(n) / n)), alpha, tail[0], n))
    return min(tried, key=lambda one: one[0])


def samples():
    rng = np.random.default_rng(0)
    gaussian = np.linalg.svd(rng.standard_normal((120, 120)), compute_uv=False) ** 2
    return {
        "pareto": 3 * (rng.pareto(1.5, 150) + 1),
        "bulk": gaussian,
        "bulk and tail": np.concatenate([gaussian, 400 * (rng.pareto(1.2, 30) + 1)]),
        "log-normal": np.exp(1.5 * rng.standard_normal(150)),
    }


@pytest.mark.parametrize("name", samples())
def test_exponent_and_start_are_those_of_powerlaw(name):
    values = samples()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = powerlaw.Fit(values, parameter_ranges={"alpha": [1, 100]}, verbose=0)
    found = fit_tail(values)
    assert found.x_min == reference.xmin
    assert found.alpha == pytest.approx(reference.power_law.alpha, abs=1e-6 * reference.power_law.alpha)
    assert found.ks == pytest.approx(reference.power_law.D, abs=1e-6)
    assert found.n_tail == np.count_nonzero(values >= reference.xmin)
    assert found.se == pytest.approx((found.alpha - 1) / np.sqrt(found.n_tail))


@settings(max_examples=60, deadline=None)
@example(values=[1.0] * 8 + [1000.0, 999.9999999999999], digits=None)
@example(values=[1.0] * 8 + [1000.0, 999.984375], digits=None)
@given(
    values=st.lists(st.floats(1e-3, 1e3), min_size=10, max_size=120),
    digits=st.sampled_from([None, 1, 2]),
)
def test_the_start_found_is_the_best_of_all(values, digits):
    values = np.array(values) if digits is None else np.round(values, digits) + 0.1
    found = fit_tail(values)
    if len(set(values)) == 1:
        assert np.isnan(found.alpha)
        return
    distance, alpha, _, _ = every_x_min(values)
    assert found.ks == pytest.approx(distance, abs=1e-11)
    if found.n_tail == every_x_min(values)[3]:
        assert found.alpha == pytest.approx(alpha, rel=1e-8)


def test_the_scale_and_the_order_of_the_sample_do_not_matter():
    values = samples()["pareto"]
    found, scaled = fit_tail(values), fit_tail(2.0**40 * values[::-1])
    assert scaled.alpha == pytest.approx(found.alpha, rel=1e-12)
    assert scaled.x_min == 2.0**40 * found.x_min


@pytest.mark.parametrize("alpha", [2.0, 3.5])
def test_a_planted_tail_is_found(alpha):
    values = np.random.default_rng(2).pareto(alpha - 1, 20_000) + 1
    found = fit_tail(values)
    assert abs(found.alpha - alpha) < 4 * found.se


def test_too_few_or_equal_values_have_no_exponent():
    for values in (np.arange(1, 10.0), np.full(30, 2.0)):
        found = fit_tail(values)
        assert (found.n_tail, np.isnan(found.alpha), np.isnan(found.ks)) == (0, True, True)


def test_hill_is_its_definition():
    sigma = np.sort(np.random.default_rng(3).pareto(2, (4, 31)) + 1, axis=1)[:, ::-1]
    n_resolved = np.array([31, 20, 10, 9])
    found = hill_of(SpectraStack(sigma, n_resolved))
    for at, n in enumerate(n_resolved[:3]):
        energy, k = sigma[at] ** 2, n // 2
        expected = 1 + k / sum(np.log(energy[i] / energy[k]) for i in range(k))
        assert found.alpha[at] == pytest.approx(expected, rel=1e-10)
        assert found.se[at] == pytest.approx((expected - 1) / np.sqrt(k))
        assert found.n_tail[at] == k
    assert np.isnan(found.alpha[3])


def test_hill_of_equal_values_is_unknown():
    assert np.isnan(hill_of(SpectraStack(np.ones((1, 12)), np.array([12]))).alpha).all()
