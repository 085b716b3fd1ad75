from dataclasses import dataclass, fields

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.errors import BandError
from sedarchive.gram import Gram, GramSums, RoundingUnit, gram_sums, merge, select_part

FLOAT32 = RoundingUnit(23, -126)
BFLOAT16 = RoundingUnit(7, -126)
FLOAT16 = RoundingUnit(10, -14)


@dataclass(frozen=True)
class Part:
    axis: int
    period: int
    start: int
    stop: int
    row: int | None = None


def walk(n_steps, n_elements, seed=0, step=1e-2, dtype=np.float32):
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(n_elements)
    return (start + step * np.cumsum(rng.standard_normal((n_steps, n_elements)), axis=0)).astype(dtype)


def band_of(full, width):
    band = np.zeros((len(full), width + 1))
    for i in range(len(full)):
        for d in range(width + 1):
            band[i, d] = full[i, i + d] if i + d < len(full) else 0.0
    return band


def scale_of(full):
    norms = np.sqrt(np.diag(full))
    return np.outer(norms, norms)


@settings(max_examples=25, deadline=None)
@given(
    n_steps=st.integers(1, 9),
    n_elements=st.integers(1, 40),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_the_gram_matrix_is_that_of_exactly_formed_differences(n_steps, n_elements, dtype, seed):
    theta = walk(n_steps, n_elements, seed, dtype=dtype)
    expected = oracles.gram_matrix(theta)
    sums = gram_sums(theta, FLOAT32)
    assert np.all(np.abs(sums.gram - expected) <= 1e-14 * scale_of(expected) + 1e-300)
    np.testing.assert_array_equal(sums.origin, sums.gram[0])


def test_tiny_updates_of_large_weights_keep_their_precision():
    theta = 1000 + 1e-9 * walk(6, 50, step=1.0, dtype=np.float64)
    expected = oracles.gram_matrix(theta)
    assert np.all(np.abs(gram_sums(theta, RoundingUnit(52, -1022)).gram - expected) <= 1e-14 * scale_of(expected))


@pytest.mark.parametrize("n_elements", [1023, 16_384, 40_000])
def test_sub_blocks_of_columns_add_to_the_whole(n_elements):
    theta = walk(4, n_elements)
    rows = np.array(oracles.update_rows(theta), dtype=np.longdouble)
    expected = np.array([[np.sum(a * b) for b in rows] for a in rows], dtype=np.float64)
    sums = gram_sums(theta, FLOAT32)
    assert np.all(np.abs(sums.gram - expected) <= 1e-13 * scale_of(expected))
    assert sums.n_elements == n_elements


def test_the_same_input_gives_the_same_bits():
    theta = walk(12, 30_000)
    first, second = gram_sums(theta, FLOAT32), gram_sums(theta.copy(), FLOAT32)
    for field in fields(GramSums):
        assert np.array_equal(getattr(first, field.name), getattr(second, field.name)), field.name


@pytest.mark.parametrize(("n_steps", "band"), [(12, 0), (12, 1), (12, 3), (12, 5), (12, 10), (13, 3), (7, 2)])
def test_a_band_holds_the_diagonals_of_the_full_matrix(n_steps, band):
    theta = walk(n_steps, 3000)
    full = gram_sums(theta, FLOAT32).gram
    sums = gram_sums(theta, FLOAT32, band)
    assert sums.gram is None
    assert sums.band.shape == (n_steps, band + 1)
    np.testing.assert_allclose(sums.band, band_of(full, band), rtol=1e-12, atol=1e-12 * full.max())
    np.testing.assert_allclose(sums.origin, full[0], rtol=1e-12, atol=1e-12 * full.max())


def test_a_band_wider_than_the_history_is_the_full_band():
    assert gram_sums(walk(5, 10), FLOAT32, 99).band.shape == (5, 5)
    assert GramSums.zero(5, 99).band.shape == (5, 5)


def test_a_negative_band_is_refused():
    with pytest.raises(ValueError, match="-1"):
        gram_sums(walk(5, 10), FLOAT32, -1)


def test_zero_entries_of_updates_are_counted_by_their_end():
    theta = walk(4, 100)
    theta[2, :30] = theta[1, :30]
    theta[3] = theta[2]
    assert gram_sums(theta, FLOAT32).zeros.tolist() == [0, 0, 30, 100]


@pytest.mark.parametrize("unit", [FLOAT32, BFLOAT16, FLOAT16])
@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 1e-45, 2.0**-14, 1.0]),
        min_size=1,
        max_size=12,
    )
)
def test_rounding_energy_is_the_sum_of_squared_ulps_over_twelve(unit, values):
    theta = np.array([values, values], dtype=np.float32)
    expected = oracles.rounding_energy(theta[0].tolist(), unit.fraction_bits, unit.min_exponent)
    np.testing.assert_allclose(gram_sums(theta, unit).rounding, [expected, expected], rtol=1e-12, atol=0)


def test_an_ulp_at_normal_numbers_is_numpys_spacing():
    theta = walk(1, 500)
    spacing = np.spacing(np.abs(theta[0])).astype(np.float64)
    np.testing.assert_allclose(gram_sums(theta, FLOAT32).rounding, [np.sum(spacing**2) / 12], rtol=1e-12)


@pytest.mark.parametrize("band", [None, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_spoils_only_the_rows_that_hold_it(bad, band):
    theta = walk(8, 2000)
    clean = gram_sums(theta, FLOAT32, band)
    theta[4, 7] = bad
    sums = gram_sums(theta, FLOAT32, band)
    touched = {4, 5}
    found, expected = Gram.of(sums), Gram.of(clean)
    for i in range(7):
        for j in range(7 if band is None else i, 7 if band is None else min(i + band + 1, 7)):
            value = found.products(np.array([i]), np.array([j]))[0]
            if {i + 1, j + 1} & touched:
                assert np.isnan(value)
            else:
                np.testing.assert_allclose(value, expected.products(np.array([i]), np.array([j]))[0], rtol=1e-12)
    assert sums.nonfinite.tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    keep = np.delete(np.arange(2000), 7)
    assert sums.largest[4] == np.abs(theta[4, keep]).max()
    assert sums.largest[3] == np.abs(theta[3]).max()


def test_a_missing_checkpoint_is_counted_and_leaves_the_others():
    theta = walk(5, 300)
    theta[2] = np.nan
    sums = gram_sums(theta, FLOAT32)
    assert sums.nonfinite.tolist() == [0, 0, 300, 0, 0]
    assert sums.largest[2] == 0
    assert sums.rounding[2] == 0
    assert np.isnan(sums.gram).any(axis=1).tolist() == [True] * 5
    assert np.isfinite(sums.gram[np.ix_([0, 1, 4], [0, 1, 4])]).all()


@pytest.mark.parametrize("band", [None, 3])
def test_sums_over_a_partition_of_the_elements_add_to_the_sums_of_all(band):
    theta = walk(9, 5000)
    theta[3, 10], theta[6, 4000] = np.nan, theta[5, 4000]
    whole = gram_sums(theta, FLOAT32, band)
    total = GramSums.zero(9, band)
    for columns in np.array_split(np.random.default_rng(1).permutation(5000), 4):
        total.add(gram_sums(theta[:, columns], FLOAT32, band))
    for field in fields(GramSums):
        mine, theirs = getattr(total, field.name), getattr(whole, field.name)
        if theirs is None:
            assert mine is None
        else:
            np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-9, err_msg=field.name)


def test_sums_of_another_form_do_not_add():
    with pytest.raises(ValueError, match="do not add"):
        GramSums.zero(4).add(GramSums.zero(4, 3))
    with pytest.raises(ValueError, match="do not add"):
        GramSums.zero(4).add(GramSums.zero(5))


@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.integers(0, 7),
    n_columns=st.integers(1, 7),
    first_row=st.integers(0, 9),
    axis=st.sampled_from([0, 1]),
    period=st.integers(1, 6),
    data=st.data(),
)
def test_a_part_holds_the_elements_whose_index_falls_into_it(n_rows, n_columns, first_row, axis, period, data):
    start = data.draw(st.integers(0, period - 1))
    stop = data.draw(st.integers(start + 1, period))
    block = np.arange(3 * n_rows * n_columns, dtype=np.float32).reshape(3, n_rows, n_columns)
    picked = select_part(block, first_row, Part(axis, period, start, stop))
    for step in range(3):
        expected = oracles.part_elements(block[step], n_columns, first_row, axis, period, start, stop)
        assert picked[step].tolist() == expected
    assert picked.shape[0] == 3


def test_no_part_is_the_whole_slab_without_a_copy():
    block = np.zeros((2, 3, 4), dtype=np.float32)
    whole = select_part(block, 5, None)
    assert whole.shape == (2, 12)
    assert np.shares_memory(whole, block)


def test_the_parts_of_a_tensor_add_to_the_tensor():
    block = walk(6, 24 * 10).reshape(6, 24, 10)
    whole = gram_sums(select_part(block, 0, None), FLOAT32)
    for axis in (0, 1):
        parts = [Part(axis, 6, 0, 2), Part(axis, 6, 2, 4), Part(axis, 6, 4, 6)]
        grams = [Gram.of(gram_sums(select_part(block, 0, part), FLOAT32)) for part in parts]
        np.testing.assert_allclose(merge(grams).full, whole.gram, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("band", [None, 6])
def test_submatrices_name_updates_from_zero(band):
    theta = walk(10, 200)
    rows = oracles.update_rows(theta)
    gram = Gram.of(gram_sums(theta, FLOAT32, band))
    assert gram.n_updates == 9
    expected = [[oracles.exact_dot(rows[1 + i], rows[1 + j]) for j in range(2, 6)] for i in range(2, 6)]
    np.testing.assert_allclose(gram.updates(2, 6), expected, rtol=1e-12, atol=1e-12)
    expected = [[oracles.exact_dot(rows[1 + i], rows[1 + j]) for j in (4, 5, 6)] for i in (1, 2)]
    np.testing.assert_allclose(gram.cross(1, 3, 4, 7), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gram.origin_norm2, oracles.exact_dot(theta[0], theta[0]), rtol=1e-12)


def test_a_product_beyond_the_band_names_the_band_needed_and_the_option():
    gram = Gram.of(gram_sums(walk(10, 20), FLOAT32, 3))
    assert gram.updates(0, 4).shape == (4, 4)
    with pytest.raises(BandError, match=r"updates 5 apart .* band of 3; .*--band 5"):
        gram.updates(0, 6)


def test_an_update_that_does_not_exist_is_an_index_error():
    gram = Gram.of(gram_sums(walk(4, 20), FLOAT32))
    with pytest.raises(IndexError, match="3 updates"):
        gram.updates(0, 4)
    with pytest.raises(IndexError, match="3 updates"):
        gram.cross(-1, 1, 0, 1)


def test_merging_with_a_band_keeps_the_narrowest():
    a, b = walk(8, 60, 1), walk(8, 90, 2)
    total = merge([Gram.of(gram_sums(a, FLOAT32)), Gram.of(gram_sums(b, FLOAT32, 2))])
    both = gram_sums(np.concatenate([a, b], axis=1), FLOAT32, 2)
    np.testing.assert_allclose(total.band, both.band, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total.origin, both.origin, rtol=1e-12, atol=1e-12)


def test_matrices_of_different_histories_or_none_do_not_merge():
    with pytest.raises(ValueError, match="different histories"):
        merge([Gram.of(gram_sums(walk(n, 10), FLOAT32)) for n in (4, 5)])
    with pytest.raises(ValueError, match="none"):
        merge([])
