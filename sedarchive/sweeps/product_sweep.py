"""The Gram matrices of products: both factors at all steps, block by block, into the inner products of a tile."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sedarchive.archive.plainchunks import ReusedMemory
from sedarchive.errors import ArchiveError
from sedarchive.gram import GramSums, gram_sums
from sedarchive.leaves import Leaf
from sedarchive.lowrank.gram import FactorSums, Rows, product_sums
from sedarchive.lowrank.products import Product
from sedarchive.plan.tasks import Tile
from sedarchive.roles import Part
from sedarchive.sweeps.anatomy import Anatomy

Sums = Mapping[Part | None, FactorSums]
"""Inner products of one factor: of each part of it that some leaf holds, None for all."""


BlockSums = list[GramSums | None] | str
"""Sums of each leaf of a tensor or product over one block, None for those outside it, or why it could not be read."""


def product_tile(band: int | None, memory: ReusedMemory, anatomy: Anatomy, tile: Tile) -> list[tuple[str, BlockSums]]:
    """Sums of one tile of a product, and those of the factors beside it."""
    leaves, product = anatomy.leaves_of(tile.tensor), anatomy.products_by_name[tile.tensor]
    rows = Rows(tile.start, tile.stop, tile.reach)
    parts = [_sides(product, leaf.part) for leaf in leaves]
    left: Sums = {part: _factor_sums(anatomy, product, "left", rows) for part, _ in parts}
    right: Sums = {part: _factor_sums(anatomy, product, "right", rows) for _, part in parts}
    positions = range(rows.first_step, rows.reach)
    blocks = (
        _left_blocks(anatomy, product, tile, positions, memory),
        _right_blocks(anatomy, product, tile, positions, memory),
    )
    sums = _Tile(anatomy, tile, band)
    found = [sums.factor(*one) for one in zip(product.factors, blocks, (left, right), strict=True)]
    problem = next((one for _, one in found if isinstance(one, str)), None)
    beside = [(name, one) for name, one in found if name in tile.beside]
    if problem is not None:
        return [(tile.tensor, problem), *beside]
    n_steps = len(anatomy.run.commits)
    own = [product_sums(left[one], right[other], product.scale, rows, n_steps, band) for one, other in parts]
    return [(tile.tensor, [*own]), *beside]


def _factor_sums(anatomy: Anatomy, product: Product, side: Literal["left", "right"], rows: Rows) -> FactorSums:
    unit = anatomy.rounding_unit(product.left if side == "left" else product.right)
    return FactorSums(side, rows, product.rank, unit)


@dataclass(frozen=True)
class _Tile:
    """One tile under way."""

    anatomy: Anatomy
    tile: Tile
    band: int | None

    def factor(self, name: str, blocks: Iterator[tuple[int, NDArray[Any]]], sums: Sums) -> tuple[str, BlockSums]:
        """Go through one factor; what is returned are the sums for its own Gram matrix, if they are wanted."""
        unit = self.anatomy.rounding_unit(name)
        total = GramSums.zero(len(self.anatomy.run.commits), self.band)
        try:
            for first, block in blocks:
                _add(sums, first, block, self.tile.width)
                if name in self.tile.beside:
                    as_read = block if block.flags.c_contiguous else block.swapaxes(1, 2)  # a view, not a copy
                    total.add(gram_sums(as_read.reshape(len(block), -1), unit, self.band))
        except ArchiveError as error:
            return name, str(error)
        return name, [total]


def factors_of(leaf: Leaf, left: NDArray[Any], right: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of B (outputs, rank) and columns of A (rank, inputs) that one leaf of a product holds."""
    assert leaf.product is not None
    of_left, of_right = _sides(leaf.product, leaf.part)
    return left[_chosen(of_left, 0, len(left))], right[:, _chosen(of_right, 0, right.shape[1])]


def _sides(product: Product, part: Part | None) -> tuple[Part | None, Part | None]:
    """What a part of the weight is in B and in A: some rows of the one, or some columns of the other."""
    if part is None:
        return None, None
    return (part, None) if product.is_of_left(part) else (None, part)


def _add(sums: Sums, first: int, block: NDArray[Any], width: int) -> None:
    """Add a block (steps, rank, elements) of a factor that begins at element ``first``."""
    for at in range(0, block.shape[2], width):
        values = block[:, :, at : at + width].astype(np.float64)
        for part, own in sums.items():
            own.add(values[:, :, _chosen(part, first + at, values.shape[2])])


def _chosen(part: Part | None, first: int, length: int) -> slice | NDArray[np.intp]:
    """Elements of a part among some that begin at ``first``."""
    if part is None:
        return slice(None)
    phase = np.arange(first, first + length) % part.period
    return np.flatnonzero((phase >= part.start) & (phase < part.stop))


def _left_blocks(
    anatomy: Anatomy, product: Product, tile: Tile, positions: Sequence[int], memory: ReusedMemory
) -> Iterator[tuple[int, NDArray[Any]]]:
    """B, some rows at a time, as (steps, rank, rows)."""
    for start in range(0, product.outputs, tile.left_rows):
        rows = start, min(start + tile.left_rows, product.outputs)
        yield start, anatomy.run.read(product.left, rows, positions, memory).swapaxes(1, 2)


def _right_blocks(
    anatomy: Anatomy, product: Product, tile: Tile, positions: Sequence[int], memory: ReusedMemory
) -> Iterator[tuple[int, NDArray[Any]]]:
    """A, some columns at a time, as (steps, rank, columns): its rows are as long as the weight's, so chunk by chunk."""
    wide = "float64" in anatomy.tensors[product.right].dtypes
    for start in range(0, product.inputs, tile.right_columns):
        columns = slice(start, min(start + tile.right_columns, product.inputs))
        out = np.empty((len(positions), product.rank, columns.stop - start), np.float64 if wide else np.float32)
        for group in _by_chunk(anatomy, product.right, positions):
            steps = [positions[at] for at in group]
            out[group] = anatomy.run.read(product.right, (0, product.rank), steps, memory)[:, :, columns]
        yield start, out


def _by_chunk(anatomy: Anatomy, tensor: str, positions: Sequence[int]) -> list[list[int]]:
    """Indices of positions whose values lie in the same chunks."""
    steps = max(info.grid.steps for info in anatomy.tensors[tensor].arrays)
    groups: dict[int, list[int]] = {}
    for at, position in enumerate(positions):
        groups.setdefault(anatomy.run.commits[position].slot // steps, []).append(at)
    return list(groups.values())
