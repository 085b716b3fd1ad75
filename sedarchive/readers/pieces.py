"""Tensors whose elements stand in several places: blocks of a grid, or stretches of the flattened tensor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.history import DTYPES, TensorSpec
from sedarchive.readers.byteranges import ByteView

_CELL_LIMIT = 4_000_000


@dataclass(frozen=True)
class Piece:
    """A block of a tensor, and where its elements stand."""

    offsets: tuple[int, ...]
    """Index of its first element along each axis of the tensor."""
    view: ByteView


@dataclass(frozen=True)
class BlockView:
    """A tensor cut into blocks along any of its axes; :func:`check_blocks` tells whether they tile it."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def spec(self, name: str) -> TensorSpec:
        """Name, type and shape, as the archive knows them."""
        return TensorSpec(name, self.dtype, self.shape)

    def read_rows(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows ``start`` to ``stop``; see :meth:`sedarchive.readers.byteranges.ByteView.read_rows`."""
        out = _rows_array(self, start, stop, out)
        block = out.reshape((stop - start, *self.shape[1:]))
        for piece in self.pieces:
            offset, *across = piece.offsets or (0,)
            count, *widths = piece.view.shape or (1,)
            first, last = max(start, offset), min(stop, offset + count)
            if first >= last:
                continue
            if tuple(widths) == self.shape[1:]:
                piece.view.read_rows(first - offset, last - offset, out[first - start : last - start])
                continue
            rows = piece.view.read_rows(first - offset, last - offset)
            region = tuple(slice(at, at + width) for at, width in zip(across, widths, strict=True))
            block[(slice(first - start, last - start), *region)] = rows.reshape((last - first, *widths))
        return out


@dataclass(frozen=True)
class FlatView:
    """A tensor whose elements, in C order, are several stretches one after the other.

    Raises
    ------
    ValueError
        If the stretches hold another number of elements than the shape.
    """

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[ByteView, ...]
    """One-dimensional and contiguous."""

    def __post_init__(self) -> None:
        held = sum(prod(part.shape) for part in self.parts)
        if held != prod(self.shape):
            raise ValueError(f"its partitions hold {held} elements instead of {prod(self.shape)}")

    def spec(self, name: str) -> TensorSpec:
        """Name, type and shape, as the archive knows them."""
        return TensorSpec(name, self.dtype, self.shape)

    def read_rows(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows ``start`` to ``stop``; see :meth:`sedarchive.readers.byteranges.ByteView.read_rows`."""
        out = _rows_array(self, start, stop, out)
        columns = self.spec("").columns
        flat = out.reshape(-1, 1)
        wanted, end = start * columns, stop * columns
        at = 0
        for part in self.parts:
            first, last = max(wanted, at), min(end, at + part.shape[0])
            if first < last:
                part.read_rows(first - at, last - at, flat[first - wanted : last - wanted])
            at += part.shape[0]
        return out


def stretch(view: ByteView, start: int, count: int) -> ByteView:
    """`count` elements of a flat view from element `start` on.

    Raises
    ------
    ValueError
        If the view is not one contiguous axis, or ends before.
    """
    if len(view.shape) != 1 or view.strides is not None:
        raise ValueError("a partition is not one flat stretch of elements")
    if not 0 <= start <= start + count <= view.shape[0]:
        raise ValueError(f"a partition of {view.shape[0]} elements ends before element {start + count}")
    offset = view.offset + start * DTYPES[view.dtype].itemsize
    return ByteView(view.file, offset, view.dtype, (count,), None, view.big_endian)


def check_blocks(shape: tuple[int, ...], blocks: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """Check that blocks (offsets, sizes) tile a tensor of `shape`.

    Raises
    ------
    ValueError
        If they overlap, leave the tensor, or do not cover it.
    """
    blocks = [block for block in blocks if 0 not in block[1]]
    for offsets, sizes in blocks:
        if len(offsets) != len(shape) or len(sizes) != len(shape):
            raise ValueError("a chunk has another number of axes than its tensor")
        if any(at < 0 or at + size > n for at, size, n in zip(offsets, sizes, shape, strict=True)):
            raise ValueError(f"a chunk at {offsets} of size {sizes} leaves its tensor of shape {shape}")
    if sum(prod(sizes) for _, sizes in blocks) != prod(shape):
        raise ValueError(f"the chunks do not cover their tensor of shape {shape}, or overlap")
    if len(blocks) > 1:
        _check_apart(len(shape), blocks)


def _check_apart(n_axes: int, blocks: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """Paint the blocks on the grid that their borders make; a cell painted twice is an overlap."""
    cuts = [sorted({cut for o, s in blocks for cut in (o[axis], o[axis] + s[axis])}) for axis in range(n_axes)]
    if prod(len(cut) for cut in cuts) > _CELL_LIMIT:
        raise ValueError("its chunks are cut along borders that no sharding makes")
    index = [{cut: i for i, cut in enumerate(axis)} for axis in cuts]
    painted = np.zeros([len(axis) for axis in cuts], bool)
    for offsets, sizes in blocks:
        cell = tuple(slice(*at) for at in _borders(index, offsets, sizes))
        if painted[cell].any():
            raise ValueError(f"two chunks overlap at {offsets}")
        painted[cell] = True


def _borders(
    index: list[dict[int, int]], offsets: tuple[int, ...], sizes: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    for axis, at, size in zip(index, offsets, sizes, strict=True):
        yield axis[at], axis[at + size]


def _rows_array(view: BlockView | FlatView, start: int, stop: int, out: NDArray[Any] | None) -> NDArray[Any]:
    """Return the array to fill: `out`, or a new one; the range is checked."""
    spec = view.spec("")
    if not 0 <= start <= stop <= spec.rows:
        raise IndexError(f"rows {start}:{stop} of a tensor with {spec.rows} rows")
    return np.empty((stop - start, spec.columns), DTYPES[view.dtype].storage) if out is None else out
