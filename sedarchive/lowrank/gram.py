"""Gram matrices of the updates of a product of two factors, from inner products of the factors' columns alone.

With B and A the factors, the rows ``[theta_0, delta_1, ...]`` of the history of ``s B A`` are products themselves:

    theta_0 = s B_0 A_0,    delta_t = s (B_t A_t - B_{t-1} A_{t-1}) = s [dB_t, B_{t-1}] [A_t; dA_t]

The differences dB and dA are formed from the stored values, so nothing cancels. With ``row_i = s L_i R_i``,

    <row_i, row_j> = s^2 sum((L_i^T L_j) * (R_i R_j^T))

and both inner products are sums over the elements of one factor, block by block. The products of T rows of rank r take
(2 r T)^2 numbers; where that is too much, a *tile* of rows is worked out at a time.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sedarchive.gram import GramSums, RoundingUnit

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """A tile: rows ``start:stop`` of a Gram matrix, with the columns ``start:reach``."""

    start: int
    stop: int
    reach: int

    @property
    def first_step(self) -> int:
        """First checkpoint that its rows are made of; the last is ``reach - 1``."""
        return max(self.start - 1, 0)


class FactorSums:
    """What one factor's elements add to a tile; it grows block by block.

    Parameters
    ----------
    side
        ``left`` for B, whose elements come as columns of B^T; ``right`` for A.
    rows
        The tile.
    rank
        Rank of the product.
    unit
        The format in which the factor is stored.
    """

    def __init__(self, side: Literal["left", "right"], rows: Rows, rank: int, unit: RoundingUnit) -> None:
        n_rows = rows.stop - rows.start
        self._side, self._rows, self._unit = side, rows, unit
        self.products: Floats = np.zeros((n_rows * 2 * rank, (rows.reach - rows.start) * 2 * rank))
        """Inner products of the 2 r columns of each row of the tile with those of each of its columns."""
        self.length = 0
        """Rows of B, or columns of A, seen so far."""
        self.unchanged: Counts = np.zeros((n_rows, 2, 2), dtype=np.int64)
        """Of these, by whether the first and the second half of the 2 r numbers of a row are all 0."""
        self.broken: Counts = np.zeros(n_rows, dtype=np.int64)
        """Those with a number that is not finite."""
        self.energy: Floats = np.zeros((n_rows, rank))
        """Sum of squares of each of the r columns of B, or rows of A, at each checkpoint."""
        self.rounding: Floats = np.zeros((n_rows, rank))
        """Sum of ulp^2 / 12 of the same."""
        self.largest: Floats = np.zeros(n_rows)
        """Largest sum of squares of r numbers that meet."""

    def add(self, values: Floats) -> None:
        """Add some elements: (steps, r, elements), from the first checkpoint of the tile to its last."""
        if not values.shape[2]:
            return
        n_rows, before = len(self.broken), self._rows.start - self._rows.first_step
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            rows = self._with_differences(values)
            self._count(rows[:n_rows], values[before : before + n_rows])
            flat = rows.reshape(-1, values.shape[2])
            self.products += flat[: len(self.products)] @ flat.T

    def _with_differences(self, values: Floats) -> Floats:
        """Rows of the tile: (rows, 2 r, elements)."""
        rank, rows = values.shape[1], self._rows
        out = np.zeros((rows.reach - rows.start, 2 * rank, values.shape[2]))
        if rows.start == 0:
            out[0, :rank] = values[0]
        updates = out[1:] if rows.start == 0 else out
        change, kept = (slice(0, rank), slice(rank, None)) if self._side == "left" else (slice(rank, None), slice(rank))
        np.subtract(values[1:], values[:-1], out=updates[:, change])
        updates[:, kept] = values[:-1] if self._side == "left" else values[1:]
        return out

    def _count(self, rows: Floats, values: Floats) -> None:
        """Add to the counts: the tile's rows, and the checkpoints at which they end."""
        rank = values.shape[1]
        first, second = (rows[:, :rank] == 0).all(axis=1), (rows[:, rank:] == 0).all(axis=1)
        for u, v in np.ndindex(2, 2):
            self.unchanged[:, u, v] += np.count_nonzero((first == u) & (second == v), axis=1)
        finite = np.isfinite(values)
        self.broken += np.count_nonzero(~finite.all(axis=1), axis=1)
        known = np.where(finite, values, 0.0)
        squares = known**2
        self.energy += squares.sum(axis=2)
        np.maximum(self.largest, squares.sum(axis=1).max(axis=1), out=self.largest)
        lowest = self._unit.min_exponent + 1
        exponent = np.where(known == 0, lowest, np.maximum(np.frexp(known)[1], lowest))
        ulp2 = np.where(finite, np.ldexp(0.5, exponent - self._unit.fraction_bits) ** 2 / 12, 0.0)
        self.rounding += ulp2.sum(axis=2)
        self.length += values.shape[2]


def product_sums(
    left: FactorSums, right: FactorSums, scale: float, rows: Rows, n_steps: int, band: int | None = None
) -> GramSums:
    """Return what a tile knows of the Gram matrix of ``scale * B @ A``; the sums of all tiles add up to the whole.

    Parameters
    ----------
    left, right
        Sums over all elements of both factors.
    scale
        Factor of the whole.
    rows
        The tile. The one that starts at row 0 must reach to the end, for the products with theta_0.
    n_steps
        Number of checkpoints T.
    band
        Largest distance of rows kept; None for the full matrix.

    Returns
    -------
    GramSums
        As of the dense product, but: ``zeros`` are the entries that must be 0, since nothing changed that they are made
        of; ``rounding`` is what storing the factors adds to the product, to first order; ``largest`` is a bound.
    """
    sums = GramSums.zero(n_steps, band)
    sums.n_elements = left.length * right.length if rows.start == 0 else 0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        _store(sums, scale**2 * _contracted(left, right, rows), rows)
        _store_counts(sums, left, right, scale, rows)
    return sums


def _contracted(left: FactorSums, right: FactorSums, rows: Rows) -> Floats:
    """Sum of the elementwise product over the columns of each pair of rows: (rows, columns) of the tile."""
    n_rows, n_columns = rows.stop - rows.start, rows.reach - rows.start
    rank2 = len(left.products) // n_rows
    shape = n_rows, rank2, n_columns, rank2
    found: Floats = np.einsum("ikjl,ikjl->ij", left.products.reshape(shape), right.products.reshape(shape))
    return found


def _store(sums: GramSums, found: Floats, rows: Rows) -> None:
    """Write a tile into its place; everything that is not finite becomes NaN."""
    found[~np.isfinite(found)] = np.nan
    start, stop = rows.start, rows.stop
    if start == 0:
        sums.origin[: rows.reach] = found[0]
    if sums.gram is not None:
        upper = np.triu(np.ones((stop - start, rows.reach - start), dtype=bool))
        block = sums.gram[start:stop, start : rows.reach]
        block[upper] = found[upper]
        sums.gram[start : rows.reach, start:stop].T[upper] = found[upper]
    elif sums.band is not None:
        for at in range(stop - start):
            width = min(sums.band.shape[1], rows.reach - start - at)
            sums.band[start + at, :width] = found[at, at : at + width]


def _store_counts(sums: GramSums, left: FactorSums, right: FactorSums, scale: float, rows: Rows) -> None:
    """Write the counts of the checkpoints of a tile."""
    own = slice(rows.start, rows.stop)
    zeros = sum(
        left.unchanged[:, u, v] * right.unchanged[:, p, q]
        for u, v, p, q in np.ndindex(2, 2, 2, 2)
        if (u or p) and (v or q)
    )
    sums.zeros[own] = zeros
    if rows.start == 0:
        sums.zeros[0] = 0
    sums.nonfinite[own] = left.broken * right.length + right.broken * left.length - left.broken * right.broken
    energy = left.rounding * right.energy + left.energy * right.rounding
    sums.rounding[own] = scale**2 * energy.sum(axis=1)
    sums.largest[own] = abs(scale) * np.sqrt(left.largest * right.largest)
