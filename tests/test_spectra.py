import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.matrix.spectra import MatrixSpectrum, matrix_sigmas, matrix_stats
from sedarchive.matrix.tails import alpha_top_half, alpha_weighted


def planted(m, n, sigma, seed=0):
    """A matrix with these singular values (up to rounding)."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((m, len(sigma))))[0]
    right = np.linalg.qr(rng.standard_normal((n, len(sigma))))[0]
    return (left * sigma) @ right.T


def spectrum_of(sigma):
    sigma = np.asarray(sigma, dtype=np.float64)
    return MatrixSpectrum(sigma, 0.0, len(sigma), "lapack", "ok")


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 30),
    n=st.integers(1, 30),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
    order=st.sampled_from(["C", "F"]),
)
def test_singular_values_are_those_of_the_svd(m, n, dtype, seed, order):
    matrix = np.asarray(np.random.default_rng(seed).standard_normal((m, n)), dtype=dtype, order=order)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    for exact in (False, True):
        found = matrix_sigmas(matrix, exact)
        assert found.status == "ok"
        assert found.sigma.dtype == np.float64
        np.testing.assert_allclose(found.sigma, expected, rtol=0, atol=1e-9 * expected[0])
        np.testing.assert_allclose(matrix_sigmas(matrix.T, exact).sigma, found.sigma, rtol=0, atol=1e-9 * expected[0])


@pytest.mark.parametrize("shape", [(200, 200), (400, 100), (100, 400)])
@pytest.mark.parametrize("smallest", [-3, -5.9, -6.1, -8, -12])
def test_a_wide_range_of_singular_values_is_exact_above_the_resolution(shape, smallest):
    sigma = np.logspace(0, smallest, 100)
    found = matrix_sigmas(planted(*shape, sigma))
    assert found.resolution <= 1.1e-6
    resolved = sigma >= found.resolution
    np.testing.assert_allclose(found.sigma[: len(sigma)][resolved], sigma[resolved], rtol=0, atol=1e-9)
    if shape != (200, 200):
        assert found.method == ("gram" if smallest > -6 else "lapack")


@pytest.mark.parametrize("shape", [(120, 120), (600, 90), (90, 600)])
def test_a_low_rank_matrix_is_done_by_lapack_and_counts_its_rank(shape):
    sigma = np.linspace(3, 1, 12)
    matrix = planted(*shape, sigma)
    found = matrix_sigmas(matrix)
    assert found.method == "lapack"
    assert found.n_resolved == 12
    np.testing.assert_allclose(found.sigma[:12], sigma, rtol=1e-12)
    assert found.sigma[12] < found.resolution < 1e-10
    assert len(found.sigma) == min(shape)


@pytest.mark.parametrize("shape", [(5, 900), (900, 5), (70, 70)])
@pytest.mark.parametrize("exact", [False, True])
def test_blocks_do_not_change_the_singular_values(shape, exact, monkeypatch):
    matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    monkeypatch.setattr("sedarchive.matrix.spectra._BLOCK_NUMBERS", 150)
    np.testing.assert_allclose(matrix_sigmas(matrix, exact).sigma, expected, rtol=1e-9)


@pytest.mark.parametrize("exponent", [-1000, -400, -50, 50, 400, 900])
def test_singular_values_scale_exactly_with_powers_of_two(exponent):
    matrix = np.random.default_rng(1).standard_normal((20, 30))
    one, scaled = matrix_sigmas(matrix), matrix_sigmas(np.ldexp(matrix, exponent))
    np.testing.assert_allclose(np.ldexp(scaled.sigma, -exponent), one.sigma, rtol=1e-12)
    assert scaled.method == one.method == "gram"


def test_rows_and_columns_may_be_permuted():
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((25, 40)).astype(np.float32)
    moved = matrix[rng.permutation(25)][:, rng.permutation(40)]
    np.testing.assert_allclose(matrix_sigmas(moved).sigma, matrix_sigmas(matrix).sigma, rtol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_matrix_has_a_status_and_no_values(bad):
    matrix = np.ones((6, 4), dtype=np.float32)
    matrix[3, 2] = bad
    found = matrix_sigmas(matrix)
    assert (found.status, found.method, found.sigma.size, found.n_resolved) == ("nonfinite", "none", 0, 0)
    assert matrix_stats(found).status == "nonfinite"
    assert np.isnan(matrix_stats(found).frobenius_norm)
    assert alpha_weighted(found).status == "nonfinite"


def test_a_zero_matrix_has_zero_singular_values():
    found = matrix_sigmas(np.zeros((4, 7), dtype=np.float32))
    assert (found.status, found.n_resolved, found.sigma.tolist()) == ("zero", 0, [0.0] * 4)
    stats = matrix_stats(found)
    assert (stats.status, stats.frobenius_norm, stats.spectral_norm) == ("zero", 0.0, 0.0)
    assert np.isnan([stats.stable_rank, stats.entropy, stats.effective_rank, stats.sigma_ratio]).all()
    assert alpha_top_half(found).status == "zero"


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_an_empty_matrix_has_a_status(shape):
    assert matrix_sigmas(np.zeros(shape)).status == "empty"


def test_an_iteration_that_fails_gives_a_status_and_not_an_exception(monkeypatch):
    def fail(*args, **options):
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(np.linalg, "eigvalsh", fail)
    assert matrix_sigmas(np.eye(3)).status == "failed"
    assert matrix_stats(matrix_sigmas(np.eye(3))).status == "failed"


@settings(max_examples=30, deadline=None)
@given(sigma=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=20).map(lambda s: sorted(s, reverse=True)))
def test_statistics_follow_their_definitions(sigma):
    stats = matrix_stats(spectrum_of(sigma))
    energy = [s * s for s in sigma]
    share = [e / sum(energy) for e in energy]
    entropy = -sum(p * np.log(p) for p in share)
    assert stats.frobenius_norm == pytest.approx(np.sqrt(sum(energy)))
    assert stats.spectral_norm == sigma[0]
    assert stats.stable_rank == pytest.approx(sum(energy) / energy[0])
    assert stats.entropy == pytest.approx(entropy, abs=1e-12)
    assert stats.effective_rank == pytest.approx(np.exp(entropy))
    assert stats.sigma_ratio == pytest.approx(sigma[0] / sigma[1])
    assert stats.status == "ok"


def test_statistics_of_an_orthogonal_matrix_are_its_size():
    stats = matrix_stats(matrix_sigmas(np.linalg.qr(np.random.default_rng(3).standard_normal((16, 16)))[0]))
    assert stats.stable_rank == pytest.approx(16)
    assert stats.effective_rank == pytest.approx(16)
    assert stats.sigma_ratio == pytest.approx(1)


def test_a_matrix_of_rank_one_has_no_ratio_and_says_so():
    stats = matrix_stats(matrix_sigmas(np.outer(np.arange(1, 9.0), np.ones(5))))
    assert np.isnan(stats.sigma_ratio)
    assert stats.status == "rank_one"
    assert stats.stable_rank == pytest.approx(1)
    assert stats.entropy == pytest.approx(0, abs=1e-12)


def test_statistics_of_huge_matrices_do_not_overflow():
    stats = matrix_stats(matrix_sigmas(np.ldexp(np.eye(4), 900)))
    assert stats.frobenius_norm == pytest.approx(2 * 2.0**900)
    assert stats.stable_rank == pytest.approx(4)


@pytest.mark.parametrize(
    ("shape", "weighted", "top_half"),
    [((512, 512), 0.251, 0.225), ((1024, 1024), 0.243, 0.22), ((2048, 512), 0.177, 0.114)],
)
def test_exponents_of_gaussian_matrices_are_the_reference_values(shape, weighted, top_half):
    found = matrix_sigmas(np.random.default_rng(4).standard_normal(shape).astype(np.float32))
    assert alpha_weighted(found).alpha == pytest.approx(weighted, abs=0.004)
    assert alpha_top_half(found).alpha == pytest.approx(top_half, abs=0.004)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.5])
def test_a_power_law_gives_back_its_exponent(alpha):
    spectrum = spectrum_of(7 * np.arange(1, 101.0) ** -alpha)
    assert alpha_weighted(spectrum).alpha == pytest.approx(alpha, abs=1e-10)
    assert alpha_top_half(spectrum).alpha == pytest.approx(alpha, abs=1e-10)
    assert (alpha_weighted(spectrum).n, alpha_top_half(spectrum).n) == (100, 50)


@settings(max_examples=30, deadline=None)
@given(sigma=st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=30).map(lambda s: sorted(s, reverse=True)))
def test_exponents_are_least_squares_slopes(sigma):
    sigma = np.array(sigma)
    k = np.arange(1, len(sigma) + 1)
    above = sigma > 1e-6 * sigma[0]
    slope = oracles.weighted_slope(np.log(k[above]), np.log(sigma[above]), sigma[above] ** 2 / sigma[0] ** 2)
    assert alpha_weighted(spectrum_of(sigma)).alpha == pytest.approx(-slope, rel=1e-5, abs=1e-7)
    half = len(sigma) // 2
    slope = oracles.weighted_slope(np.log(k[:half]), np.log(sigma[:half]), np.ones(half))
    assert alpha_top_half(spectrum_of(sigma)).alpha == pytest.approx(-slope, rel=1e-7, abs=1e-9)


def test_values_that_are_not_resolved_or_tiny_take_no_part_in_the_fit():
    clean = 2 * np.arange(1, 21.0) ** -0.5
    noisy = np.concatenate([clean, [1e-7, 1e-8]])
    assert alpha_weighted(spectrum_of(noisy)).alpha == pytest.approx(0.5, abs=1e-10)
    assert alpha_weighted(spectrum_of(noisy)).n == 20
    spectrum = MatrixSpectrum(np.concatenate([clean, [0.01] * 30]), 0.02, 20, "lapack", "ok")
    assert alpha_weighted(spectrum).n == 20
    assert alpha_top_half(spectrum).n == 20


@pytest.mark.parametrize("sigma", [[1.0], [2.0, 1.0], [3.0, 2.0, 1.0, 0.5, 0.2]])
def test_too_few_values_have_no_exponent(sigma):
    fit = alpha_top_half(spectrum_of(sigma))
    assert (fit.status, fit.n) == ("too_short", len(sigma) // 2)
    assert np.isnan(fit.alpha)
