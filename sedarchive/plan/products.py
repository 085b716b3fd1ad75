"""How the Gram matrices of products are worked out within a given memory: which rows and elements at a time.

The inner products of a product's columns take (2 rank x checkpoints)^2 numbers for each factor. Where they do not fit,
a tile of rows is worked out at a time, and both factors are read once for each tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from sedarchive.plan.budget import Need, check_fits
from sedarchive.plan.grid import ChunkGrid, MatrixLayout, TensorLayout
from sedarchive.plan.memory import gram_scratch_bytes, products_bytes
from sedarchive.plan.tasks import BLOCKS_AT_ONCE, TASKS_PER_WORKER, SweepPlan, Tile
from sedarchive.sizes import MIB
from sedarchive.words import counted

_FLOAT = 8
_SCRATCH = 2**17
"""Numbers of the rows that the kernel takes at a time, where they are between 256 and 4,096 elements of a factor."""
_NARROWEST, _WIDEST = 256, 4096
_WORKER = 6 * MIB


@dataclass(frozen=True)
class ProductLayout:
    """What planning needs to know of one product."""

    product: str
    left: TensorLayout
    """Of B: a row is ``rank`` elements."""
    right: TensorLayout
    """Of A: it has ``rank`` rows."""
    rank: int
    n_leaves: int = 1
    """Logical matrices in it: rows of B, or columns of A, of its own each."""
    beside: tuple[str, ...] = ()
    """Factors whose own Gram matrices are wanted too: they are made of the same bytes."""

    @property
    def as_matrix(self) -> MatrixLayout:
        """What the spectra sweep holds of it: both factors, as one tall matrix of rows of ``rank`` elements."""
        left, right = self.left, self.right
        rows = left.grid.rows + right.row_elements
        grid = ChunkGrid(max(left.grid.steps, right.grid.steps), rows, rows)
        row_bytes = max(left.row_bytes, right.row_bytes * right.grid.rows // max(right.row_elements, 1))
        held = TensorLayout(
            self.product,
            grid,
            row_bytes,
            self.rank,
            decoded_itemsize=8,
            converted=left.converted or right.converted,
            compressed=left.compressed or right.compressed,
        )
        n_values = min(left.grid.rows, right.row_elements) + 2 * self.rank
        return MatrixLayout(held, ((rows, self.rank),), n_values)


@dataclass(frozen=True)
class TilePlan:
    """Tiles of all products, a task each, and what they will cost."""

    tiles: tuple[Tile, ...] = ()
    read_bytes: int = 0
    decodes_per_chunk: int = 1
    projected_mem: int = 0
    workers: int = 1


def together(plan: SweepPlan, products: TilePlan) -> SweepPlan:
    """Plan of the sweep of tensors and, after them, of products."""
    if not products.tiles:
        return plan
    return SweepPlan(
        tasks=plan.tasks,
        n_steps=plan.n_steps,
        read_bytes=plan.read_bytes + products.read_bytes,
        decodes_per_chunk=max(plan.decodes_per_chunk, products.decodes_per_chunk),
        projected_mem=max(plan.projected_mem, products.projected_mem),
        workers=min(plan.workers, products.workers) if plan.tasks else products.workers,
        tiles=products.tiles,
    )


def plan_products(
    layouts: Sequence[ProductLayout], n_steps: int, max_mem: int, workers: int, band: int | None = None
) -> TilePlan:
    """Tiles of the Gram matrices of some products.

    Raises
    ------
    MemoryBudgetError
        If one row of a Gram matrix does not fit; the message says what would.
    """
    sizes = [_TileSize(layout, n_steps, max_mem, band) for layout in layouts]
    chosen = [size.fitting() for size in sizes]
    check_fits((size.need(one) for size, one in zip(sizes, chosen, strict=True)), max_mem)
    costs = [size.needed(one) for size, one in zip(sizes, chosen, strict=True)]
    most = max(costs, default=0)
    at_once = max(1, min(workers, max_mem // max(most, 1)))
    decodes = [size.decodes(one) for size, one in zip(sizes, chosen, strict=True)]
    return TilePlan(
        tiles=tuple(tile for size, one in zip(sizes, chosen, strict=True) for tile in size.tiles(one)),
        read_bytes=sum(size.read_bytes(one) for size, one in zip(sizes, chosen, strict=True)),
        decodes_per_chunk=max((max(pair) for pair in decodes), default=1),
        projected_mem=most * at_once,
        workers=at_once,
    )


@dataclass(frozen=True)
class _Cut:
    """How one product is cut: rows of a tile, elements of each factor at a time."""

    height: int
    width: int
    left_rows: int
    right_columns: int


@dataclass(frozen=True)
class _TileSize:
    """What the tiles of one product take."""

    layout: ProductLayout
    n_steps: int
    max_mem: int
    band: int | None

    def fitting(self) -> _Cut:
        """Return the largest cut that fits; the smallest possible where nothing does."""
        share = self.max_mem // (4 * BLOCKS_AT_ONCE)
        cut = self._within(share)
        while self.needed(cut) > self.max_mem and share > 1:
            share //= 2
            cut = self._within(share)
        return cut

    def _within(self, share: int) -> _Cut:
        """Return the largest cut of which the sums take two shares, the scratch and each reading one, at most."""
        left_rows, right_columns = max(self.layout.left.grid.rows, 1), max(self.layout.right.row_elements, 1)
        width = min(max(_SCRATCH // (2 * self.layout.rank * self.n_steps), _NARROWEST), _WIDEST)
        cut = _Cut(self.n_steps, min(width, max(left_rows, right_columns)), left_rows, right_columns)
        while cut.width > 1 and self._scratch_bytes(cut) > share:
            cut = replace(cut, width=ceil(cut.width / 2))
        while cut.height > 1 and self._sums_bytes(cut.height) > 2 * share:
            cut = replace(cut, height=ceil(cut.height / 2))
        while cut.left_rows > 1 and self._left_bytes(cut) > max(share, 2 * self._left_chunk_bytes(cut)):
            cut = replace(cut, left_rows=ceil(cut.left_rows / 2))
        while cut.right_columns > 1 and self._right_bytes(cut) > max(share, 2 * self._right_chunk_bytes()):
            cut = replace(cut, right_columns=ceil(cut.right_columns / 2))
        slab = self.layout.left.grid.slab_rows
        return cut if cut.left_rows <= slab else replace(cut, left_rows=cut.left_rows // slab * slab)

    def tiles(self, cut: _Cut) -> list[Tile]:
        """Tiles of the product; of a band the row of theta_0 apart, whose products with all others are kept."""
        apart = self.band is not None and cut.height < self.n_steps
        starts = [0, *range(1, self.n_steps, cut.height)] if apart else [*range(0, self.n_steps, cut.height)]
        ends = [*starts[1:], self.n_steps]
        return [
            Tile(
                self.layout.product,
                start,
                stop,
                self.n_steps if self.band is None or start == 0 else min(stop + self.band, self.n_steps),
                cut.left_rows,
                cut.right_columns,
                cut.width,
                self.layout.beside if start == 0 else (),
            )
            for start, stop in zip(starts, ends, strict=True)
        ]

    def need(self, cut: _Cut) -> Need:
        """Memory without which the product is not worked out."""
        what = f"one row of its Gram matrix at {counted(self.n_steps, 'step')}"
        return Need(self.layout.product, what, self.needed(cut), fixed=_WORKER)

    def needed(self, cut: _Cut) -> int:
        """Working memory of one worker, with the results that wait beside it."""
        n_results = self.layout.n_leaves + len(self.layout.beside)
        results = (TASKS_PER_WORKER + 2) * n_results * products_bytes(self.n_steps, self.band)
        reading = max(self._left_bytes(cut), self._right_bytes(cut))
        needed = self._sums_bytes(cut.height) + self._scratch_bytes(cut) + reading + results
        return needed + needed // 6 + _WORKER

    def decodes(self, cut: _Cut) -> tuple[int, int]:
        """How often a chunk of each factor is decoded."""
        tiles = len(self.tiles(cut))
        bands = ceil(self.layout.left.grid.slab_rows / cut.left_rows)
        return tiles * max(bands, 1), tiles * ceil(max(self.layout.right.row_elements, 1) / cut.right_columns)

    def read_bytes(self, cut: _Cut) -> int:
        """Bytes decoded."""
        pairs = zip((self.layout.left, self.layout.right), self.decodes(cut), strict=True)
        return sum(times * self.n_steps * one.grid.rows * one.row_bytes for one, times in pairs)

    def _scratch_bytes(self, cut: _Cut) -> int:
        """Values of the kernel in float64, their differences, and what counting makes of them."""
        own = gram_scratch_bytes(self.n_steps) if self.layout.beside else 0
        return 8 * _FLOAT * self.n_steps * self.layout.rank * cut.width + own

    def _sums_bytes(self, height: int) -> int:
        """Inner products of a tile: those of one factor, of each part of the other, and one on its way into them."""
        columns = self.n_steps if self.band is None else min(height + self.band, self.n_steps)
        pairs = max(height * columns, self.n_steps)
        return (self.layout.n_leaves + 2) * _FLOAT * pairs * (2 * self.layout.rank) ** 2

    def _left_bytes(self, cut: _Cut) -> int:
        return self.n_steps * cut.left_rows * self.layout.left.row_bytes_held + self._left_chunk_bytes(cut)

    def _left_chunk_bytes(self, cut: _Cut) -> int:
        """Of a chunk that is not wanted whole, or goes through a codec: what no fewer rows would save."""
        left = self.layout.left
        return 3 * left.chunk_bytes if left.compressed or cut.left_rows < left.grid.slab_rows else 0

    def _right_bytes(self, cut: _Cut) -> int:
        """Columns of A at all steps, and all columns at the steps of a chunk."""
        right = self.layout.right
        return self.n_steps * self.layout.rank * cut.right_columns * right.decoded_itemsize + self._right_chunk_bytes()

    def _right_chunk_bytes(self) -> int:
        right = self.layout.right
        held = min(right.grid.steps, self.n_steps) * right.grid.rows * right.row_bytes_held
        return held + (3 * right.chunk_bytes if right.compressed else 0)
