"""Blocks and projected memory of ingest and of both sweeps: integers in, integers out.

Nothing here reads a file. A *chunk* is the unit on disk: ``steps`` consecutive
checkpoints of a *slab* of rows of one tensor. A *block* is the part of a tensor
that one task holds at a time; blocks follow the chunk grid and ``max_mem``
alone, never the number of workers, so results do not depend on the executor:
where blocks are large, fewer of them run at a time. Memory is in bytes throughout.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

from sedarchive.errors import MemoryBudgetError
from sedarchive.sizes import KIB, MIB, format_size

Item = TypeVar("Item")

SLAB_BYTES = 512 * KIB
"""One step of one chunk: large enough for the disk, small enough for T of them."""
SMALL_TENSOR_BYTES = 64 * KIB
"""Tensors up to this size hold 64 steps a chunk, so that norms and biases make few files."""
SMALL_TENSOR_STEPS = 64
HELD_BYTES = 128 * MIB
"""Limit of steps-per-chunk times one step of a matrix: what the spectra sweep holds."""
TASK_BYTES = 64 * MIB
"""Decoded bytes (and results) that one Gram task handles, in blocks one after the other: 0.1-1 s."""
TASK_FLOPS = 4 * 10**9
"""Work of one spectra task: 0.1-1 s on one core."""
RESULTS_HELD = 2
"""Results of tasks that wait for each worker: those of one batch of the executor."""
BLOCKS_AT_ONCE = 4
"""Blocks are cut so that this many fit into ``max_mem``, whatever the number of workers."""
FULL_GRAM_LIMIT = 1024
"""Longest history, in checkpoints, whose Gram matrices are kept whole by default."""
DEFAULT_BAND = 64
"""Band kept beyond that: windows of up to 64 updates, and comparisons inside it."""


_COPIES = 3
"""Of a slab in ingest: as read, and the chunk with its encoded form."""


@dataclass(frozen=True)
class ChunkGrid:
    """How one tensor is cut into chunks."""

    steps: int
    """Checkpoints a chunk."""
    slab_rows: int
    """Rows a chunk."""
    rows: int
    """Rows of the tensor."""

    def slabs(self) -> Iterator[tuple[int, int]]:
        """Row ranges of the slabs, in order; together they are all rows once."""
        for start in range(0, self.rows, self.slab_rows):
            yield start, min(start + self.slab_rows, self.rows)

    def step_groups(self, slots: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Slot ranges, chunk by chunk along the step axis, of the slots ``slots[0]:slots[1]``."""
        for start in range(slots[0] - slots[0] % self.steps, slots[1], self.steps):
            yield max(start, slots[0]), min(start + self.steps, slots[1])


def chunk_grid(rows: int, row_bytes: int, steps_per_chunk: int | None = None) -> ChunkGrid:
    """Chunk grid of a tensor of ``rows`` rows of ``row_bytes`` bytes.

    Slabs are as even as whole rows allow, since the archive stores the last one
    at full size.
    """
    n_bytes = rows * row_bytes
    n_slabs = max(1, ceil(n_bytes / SLAB_BYTES))
    slab_rows = max(1, ceil(rows / n_slabs))
    return ChunkGrid(steps_per_chunk or _steps_per_chunk(n_bytes), slab_rows, rows)


def _steps_per_chunk(n_bytes: int) -> int:
    if n_bytes <= SMALL_TENSOR_BYTES:
        return SMALL_TENSOR_STEPS
    return next((steps for steps in (8, 4, 2) if steps * n_bytes <= HELD_BYTES), 1)


@dataclass(frozen=True)
class TensorLayout:
    """What planning needs to know of one tensor of the archive."""

    tensor: str
    grid: ChunkGrid
    row_bytes: int
    """Bytes of one stored row at one step."""
    row_elements: int
    decoded_itemsize: int
    """Bytes an element once decoded to a float type."""
    n_leaves: int = 1
    """Logical matrices it holds."""


def ingest_workers(grids: Sequence[tuple[ChunkGrid, int]], n_steps: int, max_mem: int, workers: int) -> int:
    """Workers that may copy tensors at once; ``grids`` holds each tensor's grid and bytes a row.

    A worker holds a slab at the ``n_steps`` checkpoints of a batch, and zarr its chunks, encoded and decoded.

    Raises
    ------
    MemoryBudgetError
        If one slab does not fit ``max_mem``.
    """
    largest = max((grid.slab_rows * row_bytes * max(n_steps, grid.steps) for grid, row_bytes in grids), default=0)
    needed = copies_bytes(largest, 1)
    _check_fits("of the batch", f"one slab at {n_steps} steps", needed, max_mem)
    return _workers_that_fit(needed, max_mem, workers)


def copies_bytes(slab_bytes: int, n_steps: int) -> int:
    """Memory in which one worker of ingest copies a slab at ``n_steps`` checkpoints."""
    return _COPIES * slab_bytes * n_steps


@dataclass(frozen=True)
class Block:
    """Rows ``start:stop`` of one tensor."""

    tensor: str
    start: int
    stop: int


@dataclass(frozen=True)
class SweepPlan:
    """Tasks of one sweep and what they will cost."""

    tasks: tuple[tuple[Block, ...], ...]
    """Each task handles its blocks one after the other."""
    n_steps: int
    read_bytes: int
    """Bytes decoded, repeated decodes counted."""
    decodes_per_chunk: int
    """1 where every block fits; the largest number of times any chunk is decoded otherwise."""
    projected_mem: int
    """Bytes of working memory for all workers, interpreter and libraries apart."""
    workers: int
    """Workers that fit into ``max_mem``, at most those given."""


def gram_scratch_bytes(n_steps: int) -> int:
    """Working arrays of the Gram kernel for ``n_steps`` checkpoints: two of float64, masks, one sum of products."""
    return 3 * 8 * max(96 * KIB, n_steps * KIB) + 8 * n_steps * n_steps


def gram_block_bytes(layout: TensorLayout, n_rows: int, n_steps: int) -> int:
    """Projected working memory of one Gram block of ``n_rows`` rows."""
    stored = n_steps * n_rows * layout.row_bytes
    decoded = n_steps * n_rows * layout.row_elements * layout.decoded_itemsize
    # zarr holds an encoded and a decoded chunk for each of its concurrent reads
    reading = 4 * 2 * layout.grid.steps * layout.grid.slab_rows * layout.row_bytes
    result = 3 * layout.n_leaves * n_steps * n_steps * 8
    # the rows as stored, decoded, and one copy for the part of a fused tensor
    return stored + 2 * decoded + min(reading, 2 * stored + reading // 4) + result + gram_scratch_bytes(n_steps)


def plan_gram(layouts: Sequence[TensorLayout], n_steps: int, max_mem: int, workers: int) -> SweepPlan:
    """Blocks of the Gram sweep: every tensor at all steps, a slab at a time.

    Where a slab at all steps does not fit a quarter of ``max_mem``, the slab is
    cut into bands of rows and its chunks are decoded once for each band.

    Raises
    ------
    MemoryBudgetError
        If one row at all steps does not fit; the message says what would.
    """
    blocks: list[tuple[Block, TensorLayout]] = []
    decodes, projected, read_bytes = 1, 0, 0
    for layout in layouts:
        n_rows = _rows_that_fit(layout, n_steps, max_mem)
        projected = max(projected, gram_block_bytes(layout, n_rows, n_steps))
        bands = ceil(layout.grid.slab_rows / n_rows)
        decodes = max(decodes, bands)
        read_bytes += bands * n_steps * layout.grid.rows * layout.row_bytes
        for start, stop in layout.grid.slabs():
            blocks += [(Block(layout.tensor, at, min(at + n_rows, stop)), layout) for at in range(start, stop, n_rows)]
    weights = [
        n_steps * ((block.stop - block.start) * layout.row_bytes + layout.n_leaves * n_steps * 8)
        for block, layout in blocks
    ]
    limit = min(TASK_BYTES, max_mem // (4 * BLOCKS_AT_ONCE * RESULTS_HELD))
    by_name = {layout.tensor: layout for layout in layouts}
    tasks = tuple(_grouped([block for block, _ in blocks], weights, limit))
    # a worker holds its block, and the results of a few tasks of the batch wait to be summed
    projected += RESULTS_HELD * max((_result_bytes(task, by_name, n_steps) for task in tasks), default=0)
    fitting = _workers_that_fit(projected, max_mem, workers)
    return SweepPlan(tasks, n_steps, read_bytes, decodes, fitting * projected, fitting)


def _result_bytes(task: Sequence[Block], layouts: Mapping[str, TensorLayout], n_steps: int) -> int:
    return sum(layouts[block.tensor].n_leaves for block in task) * n_steps * n_steps * 8


def _rows_that_fit(layout: TensorLayout, n_steps: int, max_mem: int) -> int:
    n_rows = layout.grid.slab_rows
    while n_rows > 1 and gram_block_bytes(layout, n_rows, n_steps) > max_mem // BLOCKS_AT_ONCE:
        n_rows = ceil(n_rows / 2)
    waiting = RESULTS_HELD * layout.n_leaves * n_steps * n_steps * 8
    needed = gram_block_bytes(layout, n_rows, n_steps) + waiting
    # the margin is for the results of tasks that hold several blocks
    _check_fits(layout.tensor, f"one row at {n_steps} steps", needed + needed // 8, max_mem)
    return n_rows


def _check_fits(tensor: str, what: str, needed: int, max_mem: int) -> None:
    if needed > max_mem:
        raise MemoryBudgetError(
            f"tensor {tensor}: {what} needs {format_size(needed)}, more than the {format_size(max_mem)} given; "
            f"use --max-mem {ceil(needed / 10**6)}MB"
        )


def _workers_that_fit(block_bytes: int, max_mem: int, workers: int) -> int:
    return max(1, min(workers, max_mem // max(block_bytes, 1)))


@dataclass(frozen=True)
class MatrixLayout:
    """What planning needs to know of one matrix tensor for the spectra sweep."""

    layout: TensorLayout
    shapes: tuple[tuple[int, int], ...]
    """Shapes of its logical matrices."""


@dataclass(frozen=True)
class StepBlock:
    """One whole tensor at some slots: what a spectra task holds at a time."""

    tensor: str
    slots: tuple[int, ...]


@dataclass(frozen=True)
class SpectraPlan:
    """Tasks of the spectra sweep and what they will cost."""

    tasks: tuple[tuple[StepBlock, ...], ...]
    read_bytes: int
    decodes_per_chunk: int
    projected_mem: int
    workers: int
    """Workers that fit into ``max_mem``, at most those given."""


def spectra_block_bytes(matrix: MatrixLayout, n_steps: int) -> int:
    """Projected working memory of one tensor at ``n_steps`` steps."""
    layout = matrix.layout
    step_bytes = layout.grid.rows * layout.row_bytes
    elements = layout.grid.rows * layout.row_elements
    decoded = elements * layout.decoded_itemsize
    small = max((min(shape) for shape in matrix.shapes), default=1)
    largest = max((m * n for m, n in matrix.shapes), default=1)
    # every held step as stored and decoded; one part, its float64 copy; Gram, its eigenvalue work; LAPACK's copy
    reading = 4 * 2 * layout.grid.steps * layout.grid.slab_rows * layout.row_bytes
    return n_steps * (step_bytes + decoded) + decoded + 2 * 8 * largest + 4 * 8 * small * small + reading


def plan_spectra(matrices: Sequence[tuple[MatrixLayout, Sequence[int]]], max_mem: int, workers: int) -> SpectraPlan:
    """Blocks of the spectra sweep: each matrix with the slots wanted, by chunk of steps.

    Raises
    ------
    MemoryBudgetError
        If one step of a matrix does not fit ``max_mem``.
    """
    blocks: list[StepBlock] = []
    weights: list[int] = []
    decodes, projected, read_bytes = 1, 0, 0
    for matrix, slots in matrices:
        held = _steps_that_fit(matrix, max_mem)
        projected = max(projected, spectra_block_bytes(matrix, held))
        decodes = max(decodes, ceil(matrix.layout.grid.steps / held))
        flops = sum(m * n * min(m, n) + 10 * min(m, n) ** 3 for m, n in matrix.shapes)
        for group in _by_chunk(slots, matrix.layout.grid.steps):
            for at in range(0, len(group), held):
                block = StepBlock(matrix.layout.tensor, tuple(group[at : at + held]))
                blocks.append(block)
                weights.append(flops * len(block.slots))
                read_bytes += matrix.layout.grid.rows * matrix.layout.row_bytes * len(group)
    fitting = _workers_that_fit(projected, max_mem, workers)
    tasks = tuple(_grouped(blocks, weights, TASK_FLOPS))
    return SpectraPlan(tasks, read_bytes, decodes, fitting * projected, fitting)


def _steps_that_fit(matrix: MatrixLayout, max_mem: int) -> int:
    held = matrix.layout.grid.steps
    while held > 1 and spectra_block_bytes(matrix, held) > max_mem // BLOCKS_AT_ONCE:
        held = ceil(held / 2)
    _check_fits(matrix.layout.tensor, "one step", spectra_block_bytes(matrix, held), max_mem)
    return held


def _by_chunk(slots: Sequence[int], steps: int) -> Iterable[list[int]]:
    groups: dict[int, list[int]] = {}
    for slot in sorted(slots):
        groups.setdefault(slot // steps, []).append(slot)
    return groups.values()


def _grouped(items: Sequence[Item], weights: Sequence[int], limit: int) -> Iterator[tuple[Item, ...]]:
    """Consecutive items, as many a group as ``limit`` allows, at least one."""
    group: list[Item] = []
    total = 0
    for item, weight in zip(items, weights, strict=True):
        if group and total + weight > limit:
            yield tuple(group)
            group, total = [], 0
        group.append(item)
        total += weight
    if group:
        yield tuple(group)
