"""What is taken out of series before they are compared: polynomials in step, and a learning rate."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DEGREES = {"none": 0, "linear": 1, "cubic": 3}
"""Name of a detrending -> degree of the polynomial in step; the mean goes in every case."""
_DEPENDENT = 1e-8
_ROUNDING = 1e-10


def trend_basis(steps: Floats, degree: int, covariates: Sequence[Floats] = ()) -> Floats:
    """Orthonormal columns (n, q) that span the polynomials in step and the covariates.

    Parameters
    ----------
    steps
        Place of each point (n,), in any unit.
    degree
        Highest power of step.
    covariates
        Further series (n,) each; one that the columns before it span already adds none.
    """
    time = steps - steps.mean() if len(steps) else steps
    time = time / max(float(np.abs(time).max(initial=0.0)), 1e-300)
    columns = np.empty((len(steps), 0))
    for column in (*(time**power for power in range(degree + 1)), *covariates):
        left = column - columns @ (columns.T @ column)
        left -= columns @ (columns.T @ left)  # once more: what the first pass leaves is not quite orthogonal
        length = float(np.linalg.norm(left))
        if length > _DEPENDENT * float(np.linalg.norm(column)):
            columns = np.column_stack([columns, left / length])
    return columns


def residuals(values: Floats, basis: Floats) -> Floats:
    """Rows (m, n) less their projection on a basis; a row of which only rounding is left becomes 0."""
    left: Floats = (values @ basis) @ basis.T
    np.subtract(values, left, out=left)  # a thousand surrogates have no second copy
    left[_largest(left) <= _ROUNDING * _largest(values)] = 0.0
    return left


def _largest(rows: Floats) -> Floats:
    """Largest magnitude of each row (m,)."""
    return np.asarray(np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0)))


def without_trend(values: Floats, steps: Floats, degree: int, covariates: Sequence[Floats] = ()) -> Floats:
    """Rows (m, n) less the trend that fits each best (least squares), which its missing values (NaN) have no part in.

    Parameters
    ----------
    values
        One series a row.
    steps, degree, covariates
        As for :func:`trend_basis`.
    """
    if np.isfinite(values).all():  # the usual case, without copies of what may be a thousand surrogates
        return residuals(values, trend_basis(steps, degree, covariates))
    left = np.full(values.shape, np.nan)
    for rows, points in rows_by_gaps(values):
        basis = trend_basis(steps[points], degree, [covariate[points] for covariate in covariates])
        left[np.ix_(rows, points)] = residuals(values[np.ix_(rows, points)], basis)
    return left


def rows_by_gaps(values: Floats) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield, for rows that have values at the same points, these rows and points."""
    known = np.isfinite(values)
    if known.all():
        yield np.arange(len(values)), np.arange(values.shape[1])
        return
    masks, members = gap_patterns(known)
    for at, mask in enumerate(masks):
        yield np.flatnonzero(members == at), np.flatnonzero(mask)


def gap_patterns(known: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Different rows of (m, n) flags, in order of their first place, and which of them each row is (m,)."""
    places: dict[bytes, int] = {}
    members = [places.setdefault(row.tobytes(), len(places)) for row in known]
    # bytes tell rows apart in a tenth of the time that np.unique takes to sort them
    masks = np.array([np.frombuffer(row, dtype=np.bool_) for row in places], dtype=np.bool_)
    return masks.reshape(len(places), known.shape[1]), np.array(members, dtype=np.intp)
