"""Singular values of a product of two factors, from the factors alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.matrix.spectra import Floats, MatrixSpectrum, SpectrumStatus

_BLOCK_NUMBERS = 2**21


def product_sigmas(left: NDArray[Any], right: NDArray[Any], scale: float) -> MatrixSpectrum:
    """Compute the singular values of ``scale * left @ right``.

    Parameters
    ----------
    left
        (m, r), of any float type.
    right
        (r, n).
    scale
        Factor of the whole.

    Returns
    -------
    MatrixSpectrum
        min(m, n) values, of which those beyond r are 0. With the triangles of the QR decompositions of ``left`` and of
        ``right``'s transpose they are those of an (r, r) core, by LAPACK in float64. Absolute error: about the machine
        epsilon times the product of the norms of both factors, which ``resolution`` bounds.
    """
    m, n = left.shape[0], right.shape[1]
    if not m or not n:
        return _no_values("empty")
    if not np.isfinite(left).all() or not np.isfinite(right).all():
        return _no_values("nonfinite")
    try:
        return _of_core(_triangle(left), _triangle(right.T), scale, (m, n))
    except np.linalg.LinAlgError:
        return _no_values("failed")


def _of_core(outer: Floats, inner: Floats, scale: float, shape: tuple[int, int]) -> MatrixSpectrum:
    """Values of ``scale * outer @ inner.T``, as those of a matrix of this shape."""
    with np.errstate(over="ignore", invalid="ignore"):
        core = scale * (outer @ inner.T)
        norms = abs(scale) * float(np.linalg.norm(outer)) * float(np.linalg.norm(inner))
    if not np.isfinite(core).all() or not np.isfinite(norms):
        return _no_values("failed")
    found = np.linalg.svd(core, compute_uv=False)
    sigma = np.zeros(min(shape))
    sigma[: len(found)] = found[: len(sigma)]
    if sigma[0] == 0:
        return MatrixSpectrum(sigma, 0.0, 0, "factors", "zero")
    resolution = max(shape) * float(np.finfo(np.float64).eps) * norms
    return MatrixSpectrum(sigma, resolution, int(np.count_nonzero(sigma >= resolution)), "factors", "ok")


def _triangle(tall: NDArray[Any]) -> Floats:
    """R of the QR decomposition of a matrix (k, r), block by block of its rows: (min(k, r), r)."""
    n_columns = tall.shape[1]
    triangle: Floats = np.empty((0, n_columns))
    n_rows = max(_BLOCK_NUMBERS // n_columns, n_columns)
    for first in range(0, len(tall), n_rows):
        block = tall[first : first + n_rows].astype(np.float64)
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
    return triangle


def _no_values(status: SpectrumStatus) -> MatrixSpectrum:
    return MatrixSpectrum(np.empty(0), 0.0, 0, "none", status)
