import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.matrix import spectra
from sedarchive.matrix.lapack import eigenvalues
from sedarchive.matrix.spectra import matrix_sigmas


def planted(m, n, sigma, seed=0):
    """A matrix with these singular values (up to rounding)."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((m, len(sigma))))[0]
    right = np.linalg.qr(rng.standard_normal((n, len(sigma))))[0]
    return (left * sigma) @ right.T


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


def test_a_zero_matrix_has_zero_singular_values():
    found = matrix_sigmas(np.zeros((4, 7), dtype=np.float32))
    assert (found.status, found.n_resolved, found.sigma.tolist()) == ("zero", 0, [0.0] * 4)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_an_empty_matrix_has_a_status(shape):
    assert matrix_sigmas(np.zeros(shape)).status == "empty"


def test_an_iteration_that_fails_gives_a_status_and_not_an_exception(monkeypatch):
    def fail(half):
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(spectra, "eigenvalues", fail)
    assert matrix_sigmas(np.eye(3)).status == "failed"


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 200])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_singular_values_of_any_size_and_scale_are_those_of_lapack(n, scale):
    matrix = np.random.default_rng(n).standard_normal((3 * n, n)) * scale
    found = matrix_sigmas(matrix)
    assert found.method == "gram"
    np.testing.assert_allclose(found.sigma, np.linalg.svd(matrix, compute_uv=False), rtol=1e-11)
    np.testing.assert_allclose(matrix_sigmas(matrix.T).sigma, found.sigma, rtol=1e-13)


def test_other_threads_run_while_a_matrix_is_decomposed():
    """A library that held Python's lock would make of many workers one."""
    ticks, done = 0, threading.Event()

    def tick():
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0)

    half = np.asfortranarray(np.eye(1200) + 0.01)
    other = threading.Thread(target=tick)
    other.start()
    before = ticks
    eigenvalues(half)
    after = ticks
    done.set()
    other.join()
    assert after - before > 100  # before and after the call alone there are a few
