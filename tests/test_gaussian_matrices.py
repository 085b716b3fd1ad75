"""Spectra of random matrices without the matrices, and the null of every metric."""

import numpy as np
import pytest
from scipy import stats

from sedarchive.compute.matrix import matrix_nulls, matrix_rows
from sedarchive.compute.matrix.matrix_rows import TRUNCATED, WITH_NULL, null_columns, stats_columns
from sedarchive.matrix.gaussian import bulk_of, gaussian_sigmas, marchenko_pastur_median
from sedarchive.matrix.stack import SpectraStack

SHAPES = [(24, 24), (16, 64), (96, 12)]
DENSITIES = {"alpha_hill", "alpha_mle", "alpha_weighted_unit"}
"""Exponents that are smaller the heavier the tail."""


@pytest.fixture(autouse=True)
def all_draws(monkeypatch):
    """As many draws as anybody's compute makes; the other tests do with few."""
    for name in ("MOST_DRAWS", "FEWEST_DRAWS"):
        monkeypatch.setattr(matrix_rows, name, getattr(matrix_nulls, name))


def dense(n_rows, n_cols, draws, seed, scale=1.0):
    matrices = scale * np.random.default_rng(seed).standard_normal((draws, n_rows, n_cols))
    return np.linalg.svd(matrices, compute_uv=False)


def stack_of(sigma):
    return SpectraStack(sigma, np.full(len(sigma), sigma.shape[1]))


@pytest.mark.parametrize("shape", [*SHAPES, (5, 1), (1, 7), (2, 2)])
def test_drawn_spectra_have_the_law_of_dense_gaussian_matrices(shape):
    drawn, reference = gaussian_sigmas(*shape, 1000), dense(*shape, 1000, 1)
    assert drawn.shape == reference.shape
    assert (np.diff(drawn, axis=1) <= 0).all()
    for k in {0, drawn.shape[1] // 2, drawn.shape[1] - 1}:
        assert stats.ks_2samp(drawn[:, k], reference[:, k]).pvalue > 1e-3
    energy = np.einsum("dk,dk->d", drawn, drawn)
    assert energy.mean() == pytest.approx(shape[0] * shape[1], abs=4 * np.sqrt(2 * shape[0] * shape[1] / 1000))


def test_draws_depend_on_shape_and_seed_alone():
    assert (gaussian_sigmas(8, 5, 3) == gaussian_sigmas(5, 8, 3)).all()
    assert (gaussian_sigmas(8, 5, 2) == gaussian_sigmas(8, 5, 3)[:2]).all()
    assert (gaussian_sigmas(8, 5, 3, seed=1) != gaussian_sigmas(8, 5, 3)).any()


def test_the_median_of_the_marchenko_pastur_law_is_that_of_large_matrices():
    assert marchenko_pastur_median(1.0) == pytest.approx(0.6528, abs=1e-4)  # Gavish and Donoho: 2.858² = (4/sqrt 3)²/mu
    for ratio in (1.0, 0.5, 0.1):
        sigma = gaussian_sigmas(1000, round(1000 * ratio), 2)
        assert np.median(sigma**2 / 1000) == pytest.approx(marchenko_pastur_median(ratio), rel=0.01)


def test_the_edge_of_noise_is_passed_in_a_twentieth_of_matrices():
    bulk = bulk_of(stack_of(dense(120, 200, 1500, 5, scale=0.02)), 120, 200)
    assert bulk.scale.mean() == pytest.approx(0.02, rel=0.01)
    assert np.mean(bulk.n_outliers > 0) == pytest.approx(0.05, abs=0.02)
    assert bulk.edge.mean() == pytest.approx(0.02 * (np.sqrt(120) + np.sqrt(200)), rel=0.01)


def test_planted_outliers_are_counted_and_leave_the_scale_alone():
    rng = np.random.default_rng(6)
    noise = 0.1 * rng.standard_normal((150, 90))
    left, right = (np.linalg.qr(rng.standard_normal((n, 3)))[0] for n in (150, 90))
    sigma = np.linalg.svd(noise + (left * [9.0, 7.0, 5.0]) @ right.T, compute_uv=False)
    bulk = bulk_of(stack_of(sigma[None]), 150, 90)
    assert bulk.n_outliers.tolist() == [3]
    assert bulk.scale == pytest.approx([0.1], rel=0.03)
    assert bulk.outlier_share == pytest.approx([(sigma[:3] ** 2).sum() / (sigma**2).sum()])


@pytest.mark.parametrize("shape", SHAPES)
def test_fresh_gaussian_matrices_show_no_excess_in_any_metric(shape):
    null = null_columns(*shape, truncated=True)
    fresh = stats_columns(stack_of(dense(*shape, 300, 7, scale=3.0)), *shape, truncated=True)
    for at, name in enumerate(null["metric"]):
        values = fresh[name].astype(np.float64)
        values = values[np.isfinite(values)]  # a tail of fewer than ten values has no truncated power law
        error = np.hypot(values.std(ddof=1) / np.sqrt(len(values)), null["sd"][at] / np.sqrt(null["draws"][at]))
        assert abs(values.mean() - null["mean"][at]) <= 3.5 * error, name
        if name != TRUNCATED:  # 0 in nearly every draw
            assert null["sd"][at] == pytest.approx(values.std(ddof=1), rel=0.6), name
    assert tuple(null["metric"]) == (*WITH_NULL, TRUNCATED)


@pytest.mark.parametrize("shape", [(64, 64), (48, 160)])
def test_planted_power_laws_exceed_their_null_by_every_exponent(shape):
    """Entries of noise beneath singular values that decay like k^-1.2."""
    null = null_columns(*shape, truncated=True)
    shorter = min(shape)
    rng = np.random.default_rng(8)
    profile = 12 * np.arange(1, shorter + 1.0) ** -1.2
    matrices = []
    for _ in range(60):
        left, right = (np.linalg.qr(rng.standard_normal((n, shorter)))[0] for n in shape)
        matrices.append((left * profile) @ right.T + 0.002 * rng.standard_normal(shape))
    found = stats_columns(stack_of(np.linalg.svd(np.array(matrices), compute_uv=False)), *shape, truncated=True)
    for at, name in enumerate(null["metric"]):
        if name.startswith("alpha"):
            low, high = null["low"][at], null["high"][at]
            beyond = found[name] < low if name in DENSITIES else found[name] > high
            assert np.mean(beyond) >= 0.95, name


def test_the_weighted_exponent_is_that_of_weightwatcher_at_unit_variance_and_has_no_scale():
    matrix = np.random.default_rng(9).standard_normal((40, 70))
    matrix /= np.sqrt(np.mean(matrix**2))
    for scale in (1.0, 0.02):
        found = stats_columns(stack_of(np.linalg.svd(scale * matrix, compute_uv=False)[None]), 40, 70)
        largest = np.linalg.norm(matrix, 2) ** 2
        assert found["alpha_weighted_unit"] == pytest.approx(found["alpha_mle"] * np.log10(largest))
        assert found["alpha_weighted_unit_se"] == pytest.approx(found["alpha_mle_se"] * np.log10(largest))
