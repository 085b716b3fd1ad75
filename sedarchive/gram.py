"""Gram matrices of the rows [theta_0, delta_0, ..., delta_{T-2}] of a training history.

With the updates ``delta_i = theta_{i+1} - theta_i``, every entry of this Gram matrix is a sum over elements, so it adds
over slabs, matrices, tensors and machines. Differences are formed in float64 from the stored values, never from a Gram
matrix of weights: that would lose (|theta| / |delta|)² of the precision.

Two forms: *full* (T, T), and *banded*, which keeps ``<row_i, row_{i+d}>`` for d = 0 .. B and the row of theta_0. A row
that holds a non-finite value, a missing checkpoint for instance, is NaN in the Gram matrix; the other rows are not
affected.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sedarchive.errors import BandError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_EXPONENT_BITS = np.uint64(0x7FF0000000000000)
_EPSILON = 2.0**-54
_CACHED_ELEMENTS = 98_304  # two float64 scratch arrays of this size stay in a 2 MiB second-level cache
_WIDTH_STEP = 1024
_WIDEST = 16_384


class PartLike(Protocol):
    """What :func:`select_part` needs of a part: which indices along which axis."""

    @property
    def axis(self) -> int: ...
    @property
    def period(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def row(self) -> int | None: ...


@dataclass(frozen=True)
class RoundingUnit:
    """Spacing of a floating-point format: ``ulp(x) = 2^(max(exponent(x), min_exponent) - fraction_bits)``."""

    fraction_bits: int
    min_exponent: int


@dataclass
class GramSums:
    """Sums over the elements seen so far; all of them add over disjoint sets of elements.

    Index t counts checkpoints (0 .. T-1); row 0 of the Gram matrix is theta_0, row t the update that ends at t.
    """

    gram: Floats | None
    """Full Gram matrix (T, T); None if banded."""
    band: Floats | None
    """Banded Gram matrix (T, B + 1): entry [i, d] is ``<row_i, row_{i+d}>``, 0 where i + d >= T; None if full."""
    origin: Floats
    """``<row_0, row_j>`` (T,): in both forms."""
    zeros: Counts
    """Zero entries of the update that ends at checkpoint t (T,); entry 0 is 0."""
    rounding: Floats
    """Sum over finite elements of ulp(theta_t)² / 12 (T,): expected energy of storing one checkpoint."""
    nonfinite: Counts
    """NaN and infinite entries of theta_t (T,)."""
    largest: Floats
    """Largest |theta_t| over finite entries (T,); 0 if there are none."""
    n_elements: int

    @classmethod
    def zero(cls, n_steps: int, band: int | None = None) -> "GramSums":
        """Return the sums over no element.

        Parameters
        ----------
        n_steps
            Number of checkpoints T.
        band
            Largest distance of rows kept; None for the full matrix. More than T - 1 is T - 1.
        """
        full = np.zeros((n_steps, n_steps)) if band is None else None
        banded = None if band is None else np.zeros((n_steps, _band_width(n_steps, band) + 1))
        floats, counts = np.zeros((3, n_steps)), np.zeros((2, n_steps), dtype=np.int64)
        return cls(full, banded, floats[0], counts[0], floats[1], counts[1], floats[2], 0)

    def add(self, other: "GramSums") -> None:
        """Add the sums over other elements of the same checkpoints, in place.

        Raises
        ------
        ValueError
            If the other sums have another number of checkpoints or another form.
        """
        mine, theirs = _products(self), _products(other)
        if mine.shape != theirs.shape or (self.gram is None) != (other.gram is None):
            raise ValueError(f"Gram sums of shapes {mine.shape} and {theirs.shape} do not add; steps or band differ")
        with np.errstate(over="ignore", invalid="ignore"):
            mine += theirs
            self.origin += other.origin
        self.zeros += other.zeros
        self.rounding += other.rounding
        self.nonfinite += other.nonfinite
        np.maximum(self.largest, other.largest, out=self.largest)
        self.n_elements += other.n_elements


def gram_sums(theta: NDArray[Any], rounding: RoundingUnit, band: int | None = None) -> GramSums:
    """Return the Gram matrix and counts of one set of elements at all checkpoints.

    Parameters
    ----------
    theta
        Decoded elements (T, m) in step order, of any float type; a missing checkpoint is a row of NaN.
    rounding
        The format in which the checkpoints were stored (not the one they were decoded to).
    band
        Largest distance of rows kept; None for the full matrix.

    Returns
    -------
    GramSums
        Float64; the same input gives the same bits for the same BLAS. Relative error of an entry, against
        ``|row_i| |row_j|``: a few machine epsilons.

    Notes
    -----
    Works through sub-blocks of columns whose width depends on T alone, so that the float64 copies stay in cache.
    """
    n_steps, n_elements = theta.shape
    sums = GramSums.zero(n_steps, band)
    sums.n_elements = n_elements
    if n_steps == 0:
        return sums
    tiles = _Tiles(n_steps, None if band is None else _band_width(n_steps, band))
    scratch = _Scratch(n_steps, min(_sub_block_width(n_steps), n_elements))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for first in range(0, n_elements, _sub_block_width(n_steps)):
            values, rows = scratch.load(theta[:, first : first + _sub_block_width(n_steps)])
            tiles.add(rows)
            _count(values, rows, rounding, sums)
    sums.rounding *= 2.0 ** (-2 * rounding.fraction_bits) / 12
    tiles.store(sums)
    return sums


def select_part(block: NDArray[Any], first_row: int, part: PartLike | None) -> NDArray[Any]:
    """Select the elements of one part of a tensor in a slab of its rows.

    Parameters
    ----------
    block
        The slab (T, rows, columns) at all checkpoints.
    first_row
        Index in the tensor of the slab's first row.
    part
        Elements whose index along ``axis`` (0 rows, 1 columns) modulo ``period`` lies in [``start``, ``stop``), those
        of the one row ``row`` if it is not None; None for the whole tensor.

    Returns
    -------
    ndarray
        (T, m) of the block's type, m possibly 0; a view where the selection is contiguous.
    """
    n_steps, n_rows, n_columns = block.shape
    if part is None:
        return block.reshape(n_steps, n_rows * n_columns)
    if part.row is not None:
        return _select_of_row(block, part.row - first_row, part)
    first, length = (first_row, n_rows) if part.axis == 0 else (0, n_columns)
    phase = np.arange(first, first + length) % part.period
    chosen = np.flatnonzero((phase >= part.start) & (phase < part.stop))
    index: slice | NDArray[np.intp] = chosen
    if chosen.size == 0 or chosen[-1] - chosen[0] + 1 == chosen.size:
        index = slice(int(chosen[0]), int(chosen[-1]) + 1) if chosen.size else slice(0, 0)
    picked = block[:, index, :] if part.axis == 0 else block[:, :, index]
    return picked.reshape(n_steps, picked.shape[1] * picked.shape[2])


def _select_of_row(block: NDArray[Any], at: int, part: PartLike) -> NDArray[Any]:
    """Columns of one row of a block, whole periods of them; nothing if the row lies outside."""
    rows = block[:, max(at, 0) : max(at + 1, 0)]
    n_steps, n_rows, n_columns = rows.shape
    n_periods = n_columns // part.period
    picked = rows.reshape(n_steps, n_rows * n_periods, part.period)[:, :, part.start : part.stop]
    return picked.reshape(n_steps, n_rows * n_periods * (part.stop - part.start))


@dataclass(frozen=True)
class Gram:
    """A finished Gram matrix of one scope: the rows theta_0 and the updates 0 .. n_updates - 1, full or banded."""

    full: Floats | None
    """(T, T); None if banded."""
    band: Floats | None
    """(T, B + 1): entry [i, d] is ``<row_i, row_{i+d}>``; None if full."""
    origin: Floats
    """``<theta_0, row_j>`` (T,)."""

    @classmethod
    def of(cls, sums: GramSums) -> "Gram":
        return cls(sums.gram, sums.band, sums.origin)

    @property
    def n_updates(self) -> int:
        return max(len(self.origin) - 1, 0)

    @property
    def bandwidth(self) -> int:
        """Largest distance of two updates whose product is known."""
        return len(self.origin) - 1 if self.band is None else self.band.shape[1] - 1

    @property
    def origin_norm2(self) -> float:
        """||theta_0||²."""
        return float(self.origin[0])

    def updates(self, start: int, stop: int) -> Floats:
        """Return the Gram matrix (n, n) of the updates start .. stop - 1.

        Raises
        ------
        BandError
            If the stored band is narrower than n - 1.
        """
        return self.cross(start, stop, start, stop)

    def cross(self, a_start: int, a_stop: int, b_start: int, b_stop: int) -> Floats:
        """Return the products (n_a, n_b) of the updates [a_start, a_stop) with the updates [b_start, b_stop).

        Raises
        ------
        BandError
            If the stored band does not reach.
        """
        return self.products(np.arange(a_start, a_stop)[:, None], np.arange(b_start, b_stop)[None, :])

    def products(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
        """Return ``<delta_i, delta_j>`` for arrays of update indices i and j that broadcast.

        Raises
        ------
        IndexError
            If an update does not exist.
        BandError
            If the stored band does not reach.
        """
        for index in (first, second):
            if index.size and (index.min() < 0 or index.max() >= self.n_updates):
                raise IndexError(f"updates {index.min()}..{index.max()} of a history of {self.n_updates} updates")
        if self.full is None:
            return self._banded(first, second)
        values: Floats = self.full[first + 1, second + 1]
        return values

    def _banded(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
        distance = np.abs(first - second)
        furthest = int(distance.max(initial=0))
        if self.band is None or furthest > self.bandwidth:
            raise BandError(
                f"updates {furthest} apart are needed, but the stored Gram matrix is a band of {self.bandwidth}; "
                f"compute it again with --band {furthest} or wider"
            )
        values: Floats = self.band[np.minimum(first, second) + 1, distance]
        return values


def merge(grams: Iterable[Gram]) -> Gram:
    """Return the Gram matrix of the union of disjoint sets of elements: the sum.

    Banded as the narrowest band where one of them is banded.

    Raises
    ------
    ValueError
        If there is none, or they have different numbers of checkpoints.
    """
    parts = list(grams)
    if len({len(part.origin) for part in parts}) != 1:
        raise ValueError(f"{len(parts)} Gram matrices of different histories (or none) have no sum")
    with np.errstate(over="ignore", invalid="ignore"):
        origin = np.sum([part.origin for part in parts], axis=0)
        full = [part.full for part in parts if part.full is not None]
        if len(full) == len(parts):
            return Gram(np.sum(full, axis=0), None, origin)
        width = min(part.bandwidth for part in parts)
        return Gram(None, np.sum([_banded_form(part, width) for part in parts], axis=0), origin)


def _banded_form(gram: Gram, width: int) -> Floats:
    return gram.band[:, : width + 1] if gram.band is not None else _diagonals(np.asarray(gram.full), width)


def _diagonals(full: Floats, width: int) -> Floats:
    """Return the diagonals 0 .. width (T, width + 1) of a symmetric matrix (T, T)."""
    band = np.zeros((len(full), width + 1))
    for distance in range(width + 1):
        band[: len(full) - distance, distance] = np.diagonal(full, distance)
    return band


def _products(sums: GramSums) -> Floats:
    return np.asarray(sums.gram if sums.gram is not None else sums.band)


def _band_width(n_steps: int, band: int) -> int:
    if band < 0:
        raise ValueError(f"a band of {band} rows is not possible; it must be at least 0")
    return min(band, max(n_steps - 1, 0))


def _sub_block_width(n_steps: int) -> int:
    return max(min(_CACHED_ELEMENTS // n_steps, _WIDEST) // _WIDTH_STEP, 1) * _WIDTH_STEP


class _Scratch:
    """Two float64 arrays that are used again for every sub-block."""

    def __init__(self, n_steps: int, width: int) -> None:
        self._values = np.empty((n_steps, width))
        self._rows = np.empty((n_steps, width))

    def load(self, block: NDArray[Any]) -> tuple[Floats, Floats]:
        """Return the block in float64, and its rows theta_0, delta_0, ..."""
        values, rows = self._values[:, : block.shape[1]], self._rows[:, : block.shape[1]]
        np.copyto(values, block)
        rows[0] = values[0]
        np.subtract(values[1:], values[:-1], out=rows[1:])
        return values, rows


class _Tiles:
    """Sums of products of rows: the whole matrix, or the tiles along the diagonal that cover a band."""

    def __init__(self, n_steps: int, width: int | None) -> None:
        self._n_steps = n_steps
        self._width = n_steps - 1 if width is None else width
        height = self._width + 1
        if width is None or 2 * height >= n_steps:  # one symmetric product costs half of a rectangular one
            height = n_steps
        self._starts = range(0, n_steps, height)
        self._height = height
        self._tiles = [np.zeros((self._end(i) - i, self._reach(i) - i)) for i in self._starts]
        self._origin = np.zeros(n_steps)

    def _end(self, start: int) -> int:
        return min(start + self._height, self._n_steps)

    def _reach(self, start: int) -> int:
        return min(self._end(start) + self._width, self._n_steps)

    def add(self, rows: Floats) -> None:
        for start, tile in zip(self._starts, self._tiles, strict=True):
            tile += rows[start : self._end(start)] @ rows[start : self._reach(start)].T
        if len(self._tiles) > 1:
            self._origin += rows @ rows[0]

    def store(self, sums: GramSums) -> None:
        """Write the sums into their final form; everything that is not finite becomes NaN."""
        if len(self._tiles) == 1:
            self._origin = self._tiles[0][0]
        sums.origin[:] = np.where(np.isfinite(self._origin), self._origin, np.nan)
        products = _products(sums)
        if sums.gram is not None:
            products[:] = self._tiles[0]
        else:
            for start, tile in zip(self._starts, self._tiles, strict=True):
                products[start : self._end(start)] = self._tile_band(tile)
        products[~np.isfinite(products)] = np.nan

    def _tile_band(self, tile: Floats) -> Floats:
        """Entries [i, i + d] of a tile (rows, width + 1), 0 beyond its end."""
        column = np.arange(len(tile))[:, None] + np.arange(self._width + 1)
        inside = column < tile.shape[1]
        return np.where(inside, np.take_along_axis(tile, np.where(inside, column, 0), axis=1), 0.0)


def _count(values: Floats, rows: Floats, unit: RoundingUnit, sums: GramSums) -> None:
    """Add zeros, largest, non-finite and the sum of squared binades to `sums`; overwrites `values`."""
    zero = rows[1:] == 0
    if zero.any():
        sums.zeros[1:] += np.count_nonzero(zero, axis=1)
    largest = np.maximum(values.max(axis=1), -values.min(axis=1))
    bad = None if np.isfinite(largest).all() else ~np.isfinite(values)
    if bad is not None:
        sums.nonfinite += np.count_nonzero(bad, axis=1)
        values[bad] = 0.0
        largest = np.maximum(values.max(axis=1), -values.min(axis=1))
    np.maximum(sums.largest, largest, out=sums.largest)
    exponents = values.view(np.uint64)
    np.bitwise_and(exponents, _EXPONENT_BITS, out=exponents)
    energy = np.vecdot(values, values)
    floor = 2.0**unit.min_exponent
    if (energy < values.shape[1] * (floor / _EPSILON) * floor).any():  # else what the floor adds is rounded away
        np.maximum(values, floor, out=values)
        if bad is not None:
            values[bad] = 0.0
        energy = np.vecdot(values, values)
    sums.rounding += energy
