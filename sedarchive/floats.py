"""Decoding of stored floating-point bits: the one place that knows how."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.history import DTYPES

_PIECE = 2**18
_BFLOAT16_SHIFT = 16
_NOT_FINITE = {
    "float16": (0x7C00, 0x7C00),
    "bfloat16": (0x7F80, 0x7F80),
    "float8_e4m3fn": (0x7F, 0x7F),
    "float8_e5m2": (0x7C, 0x7C),
    "float8_e4m3fnuz": (0xFF, 0x80),
    "float8_e5m2fnuz": (0xFF, 0x80),
    "float8_e8m0fnu": (0xFF, 0xFF),
}
"""Which bits tell NaN and infinity in the narrow types, and what they then are."""


def decode(bits: NDArray[Any], dtype: str) -> NDArray[np.floating[Any]]:
    """Return the values of an array that the archive stores as itself or as raw bits.

    Parameters
    ----------
    bits
        Stored elements, any shape: of the storage type of `dtype`, or already of a float type for float64, float32
        and float16.
    dtype
        A name of :data:`sedarchive.history.DTYPES` of kind float.

    Returns
    -------
    ndarray
        float64 for float64, else float32, which holds every value of the narrower types exactly (NaN stays NaN,
        signed zeros stay signed). float64 and float32 come back without a copy.

    Raises
    ------
    ValueError
        If `dtype` is unknown or no float, or `bits` is of another type than `dtype` is stored in.
    """
    declared = DTYPES.get(dtype)
    if declared is None or declared.kind != "float":
        raise ValueError(f"dtype {dtype!r} has no floating-point values; only float tensors are decoded")
    if bits.dtype != np.dtype(declared.storage):
        raise ValueError(f"{dtype} is stored as {declared.storage}, not as {bits.dtype}; read it without decoding")
    if not declared.is_bits:
        values: NDArray[np.floating[Any]] = bits.astype(np.float64 if dtype == "float64" else np.float32, copy=False)
        return values
    if dtype == "bfloat16":
        return _decode_bfloat16(bits)
    return _decode_float8(bits, dtype)


def count_nonfinite(bits: NDArray[Any], dtype: str) -> int:
    """Count the elements of a stored array that are NaN or infinite; 0 for integers and flags.

    Parameters
    ----------
    bits
        Stored elements, any shape, of the storage type of `dtype`.
    dtype
        A name of :data:`sedarchive.history.DTYPES`.
    """
    if DTYPES[dtype].kind not in ("float", "complex"):
        return 0
    if dtype not in _NOT_FINITE:
        return bits.size - int(np.count_nonzero(np.isfinite(bits)))
    mask, pattern = _NOT_FINITE[dtype]
    whole = bits.view(f"<u{bits.itemsize}")  # of float16 the bits are looked at four times faster than the values
    return int(np.count_nonzero((whole & mask) == pattern))


def _decode_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Shift the bits up: a bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    np.left_shift(wide, _BFLOAT16_SHIFT, out=wide)
    return wide.view(np.float32)


def _decode_float8(bits: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """Look the patterns up, a piece at a time: the look-up widens its indices to eight bytes each."""
    table = _float8_values(dtype)
    flat, out = bits.reshape(-1), np.empty(bits.size, dtype=np.float32)
    for start in range(0, bits.size, _PIECE):
        np.take(table, flat[start : start + _PIECE], out=out[start : start + _PIECE])
    return out.reshape(bits.shape)


@cache
def _float8_values(dtype: str) -> NDArray[np.float32]:
    """Return the values of a float8 type by bit pattern (256,), read-only."""
    import ml_dtypes

    patterns = np.arange(256, dtype=np.uint8)
    values: NDArray[np.float32] = patterns.view(getattr(ml_dtypes, dtype)).astype(np.float32)
    values.flags.writeable = False
    return values
