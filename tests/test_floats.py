import math

import numpy as np
import pytest
import torch

from sedarchive.floats import count_nonfinite, decode
from sedarchive.history import DTYPES

FLOAT8 = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
    "float8_e8m0fnu": torch.float8_e8m0fnu,
}


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_every_bfloat16_pattern_decodes_to_the_float32_with_the_same_leading_bits():
    bits = np.arange(2**16, dtype=np.uint16)
    expected = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).float().numpy()
    assert same_bits(decode(bits, "bfloat16"), expected)


@pytest.mark.parametrize("name", FLOAT8)
def test_every_float8_pattern_decodes_as_torch_does(name):
    bits = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(bits.copy()).view(FLOAT8[name]).float().numpy()
    values = decode(bits.reshape(16, 16), name)
    assert values.shape == (16, 16)
    np.testing.assert_array_equal(values.ravel(), expected)
    np.testing.assert_array_equal(np.signbit(values.ravel()[expected == 0]), np.signbit(expected[expected == 0]))


def test_every_float16_pattern_decodes_to_the_same_float32_number():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = decode(halves, "float16")
    assert values.dtype == np.float32
    for half, value in zip(halves[::37].tolist(), values[::37].tolist(), strict=True):
        assert half == value or (math.isnan(half) and math.isnan(value))


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_float32_and_float64_come_back_without_a_copy(name):
    values = np.array([1.5, -0.0, np.inf], dtype=name)
    assert np.shares_memory(decode(values, name), values)


def test_a_transposed_block_of_bfloat16_keeps_its_layout_of_values():
    bits = np.arange(0x3F80, 0x3F80 + 6, dtype=np.uint16).reshape(2, 3)
    np.testing.assert_array_equal(decode(bits.T, "bfloat16"), decode(bits, "bfloat16").T)


@pytest.mark.parametrize("name", ["int64", "bool", "complex64", "float128"])
def test_a_dtype_without_floating_point_values_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        decode(np.zeros(3, dtype=np.int64), name)


def test_an_array_of_another_storage_type_is_refused():
    with pytest.raises(ValueError, match="bfloat16 is stored as <u2"):
        decode(np.zeros(3, dtype=np.float32), "bfloat16")


@pytest.mark.parametrize("name", [name for name, dtype in DTYPES.items() if dtype.kind == "float"])
def test_values_that_are_not_finite_are_counted_as_decoding_shows_them(name):
    storage = np.dtype(DTYPES[name].storage)
    if storage.itemsize <= 2:
        bits = np.arange(256**storage.itemsize).astype(f"<u{storage.itemsize}").view(storage)
    else:
        bits = np.array([1.0, np.inf, -np.inf, np.nan, -0.0, np.finfo(storage).max], dtype=storage)
    bad = ~np.isfinite(decode(bits, name))
    for value, expected in zip(bits, bad, strict=True):
        assert count_nonfinite(np.array([value]), name) == expected
    assert count_nonfinite(bits.reshape(2, -1), name) == bad.sum() > 0


@pytest.mark.parametrize("name", ["int64", "uint8", "bool"])
def test_what_is_no_number_with_a_point_is_always_finite(name):
    assert count_nonfinite(np.ones(3, dtype=DTYPES[name].storage), name) == 0
