"""Routines of the BLAS and LAPACK that come with scipy, called without Python's lock.

scipy's own wrappers hold the lock for the whole call, so that threads wait for each other; those of numpy do not, but
fill both halves of a symmetric product, and have no choice of block. Addresses are those that scipy hands to Cython.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas, cython_lapack

Floats = NDArray[np.float64]

_BLOCK = 16
"""Columns that the reduction to three diagonals takes at a time: 5 to 20 % faster than LAPACK's 32 up to n = 768."""
_LOWER, _AS_IS, _TRANSPOSED = b"L", b"N", b"T"

_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.restype, _name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
_address_of = ctypes.pythonapi.PyCapsule_GetPointer
_address_of.restype, _address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _routine(module: Any, name: str, n_arguments: int) -> Any:
    """Return a routine of Fortran: every argument is an address."""
    capsule = module.__pyx_capi__[name]
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(_address_of(capsule, _name_of(capsule)))


_dsyrk = _routine(cython_blas, "dsyrk", 10)
_dsytrd = _routine(cython_lapack, "dsytrd", 10)
_dsterf = _routine(cython_lapack, "dsterf", 4)


def add_product(rows: Floats, half: Floats) -> None:
    """Add ``rows.T @ rows`` to the half of a matrix on and below its diagonal.

    Parameters
    ----------
    rows
        (k, n), in any order.
    half
        (n, n), in Fortran's order; what stands above the diagonal is left alone.
    """
    n_rows, n_columns = rows.shape
    by_columns = rows.flags.f_contiguous
    rows = rows if by_columns else np.ascontiguousarray(rows)
    trans, stride = (_TRANSPOSED, n_rows) if by_columns else (_AS_IS, n_columns)
    one, n = ctypes.byref(ctypes.c_double(1.0)), ctypes.byref(ctypes.c_int(n_columns))
    length, leading = ctypes.byref(ctypes.c_int(n_rows)), ctypes.byref(ctypes.c_int(stride))
    _dsyrk(_LOWER, trans, n, length, one, rows.ctypes.data, leading, one, half.ctypes.data, n)


def eigenvalues(half: Floats) -> Floats:
    """Eigenvalues (n,), ascending, of a symmetric matrix whose half on and below the diagonal is given, and is lost.

    Parameters
    ----------
    half
        (n, n), in Fortran's order.

    Raises
    ------
    numpy.linalg.LinAlgError
        If they do not converge.
    """
    size = len(half)
    diagonal, beside, factors = np.empty(size), np.empty(size), np.empty(size)
    work, info = np.empty(size * _BLOCK), ctypes.c_int(0)
    n, length = ctypes.byref(ctypes.c_int(size)), ctypes.byref(ctypes.c_int(len(work)))
    found = (diagonal.ctypes.data, beside.ctypes.data)
    more = (factors.ctypes.data, work.ctypes.data, length, ctypes.byref(info))
    _dsytrd(_LOWER, n, half.ctypes.data, n, *found, *more)
    _dsterf(n, *found, ctypes.byref(info))
    if info.value:
        raise np.linalg.LinAlgError(f"{info.value} eigenvalues did not converge")
    return diagonal
