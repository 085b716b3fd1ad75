"""Closed-form metrics and decay exponents of spectra, against sums and least squares written out."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.matrix.metrics import metrics_of
from sedarchive.matrix.slopes import slopes_of
from sedarchive.matrix.spectra import matrix_sigmas
from sedarchive.matrix.stack import SpectraStack

SPECTRA = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=20).map(lambda s: sorted(s, reverse=True))
RULES = {
    "alpha": lambda k, sigma: sigma**2,
    "alpha_sigma_weighted": lambda k, sigma: sigma,
    "alpha_inverse_k": lambda k, sigma: 1 / k,
    "alpha_ols": lambda k, sigma: np.ones(len(k)),
    "alpha_top_half": lambda k, sigma: np.where(k <= len(k) // 2, 1.0, 0.0),
    "alpha_top_50": lambda k, sigma: np.where(k <= 50, 1.0, 0.0),
}


def stacked(*spectra, n_resolved=None):
    sigma = np.array(spectra, dtype=np.float64)
    return SpectraStack(sigma, np.full(len(sigma), sigma.shape[1]) if n_resolved is None else np.array(n_resolved))


def one(found, name):
    (value,) = getattr(found, name)
    return value


def entropy(weights):
    total = sum(weights)
    return -sum(w / total * np.log(w / total) for w in weights if w)


@settings(max_examples=40, deadline=None)
@given(sigma=SPECTRA)
def test_metrics_follow_their_definitions(sigma):
    found = metrics_of(stacked(sigma), 40)
    energy = [s * s for s in sigma]
    expected = {
        "frobenius_norm": np.sqrt(sum(energy)),
        "spectral_norm": sigma[0],
        "nuclear_norm": sum(sigma),
        "stable_rank": sum(energy) / energy[0],
        "entropy": entropy(energy),
        "effective_rank": np.exp(entropy(energy)),
        "entropy_sigma": entropy(sigma),
        "effective_rank_sigma": np.exp(entropy(sigma)),
        "participation": sum(energy) ** 2 / sum(e * e for e in energy),
        "numerical_rank": sum(s > 40 * 2.0**-23 * sigma[0] for s in sigma),
        "sigma_ratio": sigma[0] / sigma[1],
        "condition_number": sigma[0] / sigma[-1],
    }
    for name, value in expected.items():
        assert one(found, name) == pytest.approx(value, rel=1e-10, abs=1e-12), name


def test_metrics_of_many_spectra_are_those_of_each():
    rng = np.random.default_rng(0)
    sigma = np.sort(rng.random((5, 12)), axis=1)[:, ::-1]
    together = metrics_of(stacked(*sigma), 12)
    for at, alone in enumerate(sigma):
        for name in ("stable_rank", "entropy_sigma", "participation", "condition_number"):
            assert getattr(together, name)[at] == one(metrics_of(stacked(alone), 12), name)


def test_the_ranks_of_an_orthogonal_matrix_are_its_size():
    matrix = np.linalg.qr(np.random.default_rng(3).standard_normal((16, 16)))[0]
    found = metrics_of(stacked(matrix_sigmas(matrix).sigma), 16)
    for name in ("stable_rank", "effective_rank", "effective_rank_sigma", "participation", "numerical_rank"):
        assert one(found, name) == pytest.approx(16)
    assert one(found, "sigma_ratio") == pytest.approx(1)


def test_numerical_rank_is_that_of_numpy_for_float32_weights():
    rng = np.random.default_rng(1)
    matrix = (rng.standard_normal((60, 7)) @ rng.standard_normal((7, 30))).astype(np.float32)
    found = matrix_sigmas(matrix)
    rank = one(metrics_of(stacked(found.sigma, n_resolved=[found.n_resolved]), 60), "numerical_rank")
    assert rank == np.linalg.matrix_rank(matrix) == 7


def test_ratios_to_values_that_are_not_resolved_are_unknown():
    found = metrics_of(stacked([3.0, 1e-9, 1e-10], n_resolved=[1]), 3)
    assert np.isnan(one(found, "sigma_ratio"))
    assert np.isnan(one(found, "condition_number"))
    assert one(found, "stable_rank") == pytest.approx(1)
    found = metrics_of(stacked([3.0, 1.0, 1e-10], n_resolved=[2]), 3)
    assert (one(found, "sigma_ratio"), np.isnan(one(found, "condition_number"))) == (pytest.approx(3), True)


def test_a_single_singular_value_has_no_ratio():
    assert np.isnan(one(metrics_of(stacked([2.0]), 9), "sigma_ratio"))


def test_metrics_of_huge_matrices_do_not_overflow():
    found = metrics_of(stacked(np.full(4, 2.0**900)), 4)
    assert one(found, "frobenius_norm") == pytest.approx(2 * 2.0**900)
    assert one(found, "participation") == pytest.approx(4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((512, 512), {"alpha": 0.251, "alpha_sigma_weighted": 0.37, "alpha_inverse_k": 0.21, "alpha_top_half": 0.225}),
        ((1024, 1024), {"alpha": 0.243, "alpha_sigma_weighted": 0.36, "alpha_inverse_k": 0.18, "alpha_top_half": 0.22}),
        ((2048, 512), {"alpha": 0.177, "alpha_sigma_weighted": 0.21, "alpha_inverse_k": 0.09, "alpha_ols": 0.24}),
    ],
)
def test_exponents_of_gaussian_matrices_are_the_reference_values(shape, expected):
    sigma = matrix_sigmas(np.random.default_rng(4).standard_normal(shape).astype(np.float32)).sigma
    found = slopes_of(stacked(sigma))
    for name, alpha in expected.items():
        assert one(found[name], "alpha") == pytest.approx(alpha, abs=0.006), name


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.5])
def test_a_power_law_gives_back_its_exponent_by_every_rule(alpha):
    found = slopes_of(stacked(7 * np.arange(1, 101.0) ** -alpha))
    assert set(RULES) == set(found)
    for slopes in found.values():
        assert one(slopes, "alpha") == pytest.approx(alpha, abs=1e-10)
        assert one(slopes, "se") == pytest.approx(0, abs=1e-10)
    assert {name: one(slopes, "n") for name, slopes in found.items()} == dict.fromkeys(RULES, 100) | {
        "alpha_top_half": 50,
        "alpha_top_50": 50,
    }


@settings(max_examples=30, deadline=None)
@given(sigma=st.lists(st.floats(1e-3, 1e3), min_size=8, max_size=70).map(lambda s: sorted(s, reverse=True)))
def test_exponents_are_weighted_least_squares_slopes_with_their_robust_error(sigma):
    sigma = np.array(sigma)
    k = np.arange(1, len(sigma) + 1)
    found = slopes_of(stacked(sigma))
    for name, rule in RULES.items():
        weight = np.where(sigma > 1e-6 * sigma[0], rule(k, sigma / sigma[0]), 0.0)
        used = weight > 0
        x, y, w = np.log(k[used]), np.log(sigma[used]), weight[used]
        slope = oracles.weighted_slope(x, y, w)
        assert one(found[name], "alpha") == pytest.approx(-slope, rel=1e-5, abs=1e-7), name
        design = np.stack([np.ones_like(x), x], axis=1)
        bread = np.linalg.inv(design.T @ (w[:, None] * design))
        residual = y - design @ (bread @ design.T @ (w * y))
        meat = design.T @ ((w * residual)[:, None] ** 2 * design)
        robust = np.sqrt((bread @ meat @ bread)[1, 1] * len(x) / (len(x) - 2))
        assert one(found[name], "se") == pytest.approx(robust, rel=1e-4, abs=1e-7), name


def test_values_that_are_not_resolved_or_tiny_take_no_part_in_the_fit():
    clean = 2 * np.arange(1, 21.0) ** -0.5
    found = slopes_of(stacked(np.concatenate([clean, [1e-7, 1e-8]])))["alpha_ols"]
    assert (one(found, "alpha"), one(found, "n")) == (pytest.approx(0.5, abs=1e-10), 20)
    found = slopes_of(stacked(np.concatenate([clean, [0.01] * 30]), n_resolved=[20]))
    assert [one(found[name], "n") for name in ("alpha", "alpha_top_half", "alpha_top_50")] == [20, 20, 20]


@pytest.mark.parametrize("sigma", [[1.0], [2.0, 1.0], [3.0, 2.0, 1.0, 0.5, 0.2]])
def test_too_few_values_have_no_exponent(sigma):
    found = slopes_of(stacked(sigma))["alpha_top_half"]
    assert one(found, "n") == len(sigma) // 2
    assert np.isnan(one(found, "alpha"))
    assert np.isnan(one(found, "se"))
