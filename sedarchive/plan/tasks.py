"""Tasks of ingest and of both sweeps, and the memory that all workers together need.

A *block* is the part of a tensor that one task holds at a time; blocks follow the
chunk grid and ``max_mem`` alone, never the number of workers, so results do not
depend on the executor: where blocks are large, fewer of them run at a time.
Memory is in bytes throughout.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import groupby, islice
from math import ceil
from typing import TypeVar

from sedarchive.plan.budget import Need, check_fits
from sedarchive.plan.grid import NOTHING, ChunkGrid, MatrixLayout, TensorLayout
from sedarchive.plan.memory import (
    copies_bytes,
    gram_block_bytes,
    gram_result_bytes,
    gram_rows_bytes,
    spectra_block_bytes,
    spectra_held_bytes,
)
from sedarchive.sizes import MIB
from sedarchive.words import counted

Item = TypeVar("Item")

TASK_BYTES = 64 * MIB
"""Decoded bytes (and results) that one Gram task handles, in blocks one after the other: 0.1-1 s."""
TASK_FLOPS = 4 * 10**9
"""Work of one spectra task: 0.1-1 s on one core."""
FLOPS_PER_VALUE = 10**4
"""What a singular value that waits counts for, so that those of a task take no more than 3 MB."""
TASKS_PER_WORKER = 2
"""Tasks for each worker that are handed out at a time, so that the results of so many wait."""
BLOCKS_AT_ONCE = 4
"""Blocks are cut so that this many fit into ``max_mem``, whatever the number of workers."""
FULL_GRAM_LIMIT = 1024
"""Longest history, in checkpoints, whose Gram matrices are kept whole by default."""
DEFAULT_BAND = 64
"""Band kept beyond that: windows of up to 64 updates, and comparisons inside it."""


def ingest_workers(grids: Sequence[tuple[str, ChunkGrid, int]], n_steps: int, max_mem: int, workers: int) -> int:
    """Workers that may copy tensors at once; ``grids`` holds each tensor's name, grid and bytes a row.

    A worker holds a slab at the ``n_steps`` checkpoints of a batch, and zarr its chunks, encoded and decoded.

    Raises
    ------
    MemoryBudgetError
        If one slab does not fit ``max_mem``.
    """
    needs = [_ingest_need(name, grid, row_bytes, max(n_steps, grid.steps)) for name, grid, row_bytes in grids]
    check_fits(needs, max_mem)
    most = max((need.n_bytes for need in needs), default=0)
    return max(1, min(workers, max_mem // max(most, 1)))


def _ingest_need(name: str, grid: ChunkGrid, row_bytes: int, n_steps: int) -> Need:
    return Need(name, f"a slab at {counted(n_steps, 'step')}", copies_bytes(grid.slab_rows * row_bytes, n_steps))


@dataclass(frozen=True)
class Block:
    """Rows ``start:stop`` of one tensor."""

    tensor: str
    start: int
    stop: int


@dataclass(frozen=True)
class Tile:
    """Rows ``start:stop`` of the Gram matrix of one product, with its columns ``start:reach``."""

    tensor: str
    """Name of the product."""
    start: int
    stop: int
    reach: int
    left_rows: int
    """Rows of B that are read at a time."""
    right_columns: int
    """Columns of A that are held at a time."""
    width: int
    """Of these the ones that the kernel takes at a time."""
    beside: tuple[str, ...] = ()
    """Factors whose own Gram matrices are made of the same bytes."""


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
    tiles: tuple[Tile, ...] = ()
    """Tiles of products, a task each."""

    @property
    def n_tasks(self) -> int:
        return len(self.tasks) + len(self.tiles)


def plan_gram(
    layouts: Sequence[TensorLayout], n_steps: int, max_mem: int, workers: int, band: int | None = None
) -> SweepPlan:
    """Blocks of the Gram sweep: every tensor at all steps, a slab at a time.

    Where a slab at all steps does not fit a quarter of ``max_mem``, the slab is
    cut into bands of rows and its chunks are decoded once for each band.

    Raises
    ------
    MemoryBudgetError
        If one row at all steps does not fit; the message says what would.
    """
    size = _GramSize(n_steps, band, max_mem)
    blocks: list[_GramBlock] = []
    decodes, read_bytes = 1, 0
    fitting = [size.rows_that_fit(layout) for layout in layouts]
    check_fits(map(size.need, layouts, fitting), max_mem)
    for layout, n_rows in zip(layouts, fitting, strict=True):
        bands = ceil(layout.grid.slab_rows / n_rows)
        decodes = max(decodes, bands)
        read_bytes += bands * n_steps * layout.grid.rows * layout.row_bytes
        blocks += size.blocks(layout, n_rows)
    limit = min(TASK_BYTES, max_mem // (4 * BLOCKS_AT_ONCE * TASKS_PER_WORKER))
    tasks = tuple(_grouped(blocks, [one.decoded + one.result for one in blocks], limit))
    held = [_TaskMemory(max(one.working for one in task), sum(one.result for one in task)) for task in tasks]
    # beside them, the sums of the tensor under way
    pending = max((one.result for one in blocks), default=0)
    at_once, projected = _most_workers(held, pending, max_mem, workers)
    return SweepPlan(
        tuple(tuple(one.block for one in task) for task in tasks), n_steps, read_bytes, decodes, projected, at_once
    )


@dataclass(frozen=True)
class _GramBlock:
    """A block and its bytes: decoded, held by its worker, handed back."""

    block: Block
    decoded: int
    working: int
    result: int


@dataclass(frozen=True)
class _GramSize:
    """What the blocks of all tensors have in common."""

    n_steps: int
    band: int | None
    max_mem: int

    def blocks(self, layout: TensorLayout, n_rows: int) -> Iterator[_GramBlock]:
        """Blocks of one tensor: its slabs, or bands of ``n_rows`` rows of them."""
        working, result = self._working(layout, n_rows), gram_result_bytes(layout, self.n_steps, self.band)
        for start, stop in layout.grid.slabs():
            for at in range(start, stop, n_rows):
                block = Block(layout.tensor, at, min(at + n_rows, stop))
                yield _GramBlock(block, self.n_steps * (block.stop - at) * layout.row_bytes, working, result)

    def rows_that_fit(self, layout: TensorLayout) -> int:
        """Rows of a block; one, where nothing fits."""
        n_rows = layout.grid.slab_rows
        while n_rows > 1 and not self._is_small(layout, n_rows):
            n_rows = ceil(n_rows / 2)
        return n_rows

    def need(self, layout: TensorLayout, n_rows: int) -> Need:
        """Memory without which a tensor is not swept in blocks of ``n_rows`` rows."""
        what = f"one row at {counted(self.n_steps, 'step')}"
        return Need(layout.tensor, what, self._needed(layout, n_rows), fixed=self._needed(NOTHING, 0))

    def _is_small(self, layout: TensorLayout, n_rows: int) -> bool:
        """Whether several such blocks may be read, and one worked on: what rows do not change is not cut by rows."""
        rows = gram_rows_bytes(layout, n_rows, self.n_steps)
        return rows <= self.max_mem // BLOCKS_AT_ONCE and self._needed(layout, n_rows) <= self.max_mem

    def _needed(self, layout: TensorLayout, n_rows: int) -> int:
        """Memory of one worker; the margin is for the results of tasks that hold several blocks."""
        waiting = (TASKS_PER_WORKER + 1) * gram_result_bytes(layout, self.n_steps, self.band)
        needed = self._working(layout, n_rows) + waiting
        return needed + needed // 8

    def _working(self, layout: TensorLayout, n_rows: int) -> int:
        return gram_block_bytes(layout, n_rows, self.n_steps, self.band)


@dataclass(frozen=True)
class _TaskMemory:
    """Bytes that a task holds while it runs, and those of what it hands back."""

    working: int
    result: int = 0


def _most_workers(tasks: Sequence[_TaskMemory], beside: int, max_mem: int, workers: int) -> tuple[int, int]:
    """Workers that fit ``max_mem`` (at least one), and the memory that they need at the worst moment."""
    if not tasks:
        return 1, 0
    more = bisect_right(range(2, workers + 1), max_mem, key=lambda n: beside + _at_once(tasks, n))
    return 1 + more, beside + _at_once(tasks, 1 + more)


def _without_repeats(tasks: Sequence[_TaskMemory], ahead: int) -> list[_TaskMemory]:
    """Tasks without those that follow ``ahead`` equal ones: no window of so many needs them."""
    return [task for _, equal in groupby(tasks) for task in islice(equal, ahead)]


def _at_once(tasks: Sequence[_TaskMemory], workers: int) -> int:
    """Memory of the costliest tasks that may run side by side: each worker has one of the few handed out."""
    ahead = TASKS_PER_WORKER * workers
    tasks = _without_repeats(tasks, ahead)
    windows = (tasks[start : start + ahead] for start in range(max(len(tasks) - ahead, 0) + 1))
    return max(
        sum(nlargest(workers, (task.working for task in window))) + sum(task.result for task in window)
        for window in windows
    )


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


def plan_spectra(matrices: Sequence[tuple[MatrixLayout, Sequence[int]]], max_mem: int, workers: int) -> SpectraPlan:
    """Blocks of the spectra sweep: each matrix with the slots wanted, by chunk of steps.

    Raises
    ------
    MemoryBudgetError
        If one step of a matrix does not fit ``max_mem``.
    """
    blocks: list[StepBlock] = []
    weights: list[int] = []
    working: dict[StepBlock, int] = {}
    decodes, read_bytes = 1, 0
    fitting = [_steps_that_fit(matrix, max_mem) for matrix, _ in matrices]
    check_fits((_need(matrix, held) for (matrix, _), held in zip(matrices, fitting, strict=True)), max_mem)
    for (matrix, slots), held in zip(matrices, fitting, strict=True):
        decodes = max(decodes, ceil(matrix.layout.grid.steps / held))
        flops = sum(m * n * min(m, n) + 10 * min(m, n) ** 3 for m, n in matrix.shapes)
        for group in _by_chunk(slots, matrix.layout.grid.steps):
            for at in range(0, len(group), held):
                block = StepBlock(matrix.layout.tensor, tuple(group[at : at + held]))
                blocks.append(block)
                working[block] = spectra_block_bytes(matrix, len(block.slots))
                weights.append(max(flops, FLOPS_PER_VALUE * matrix.n_values) * len(block.slots))
                read_bytes += matrix.layout.grid.rows * matrix.layout.row_bytes * len(group)
    tasks = tuple(_grouped(blocks, weights, TASK_FLOPS))
    memory = [_TaskMemory(max(working[block] for block in task)) for task in tasks]
    at_once, projected = _most_workers(memory, 0, max_mem, workers)
    return SpectraPlan(tasks, read_bytes, decodes, projected, at_once)


def _steps_that_fit(matrix: MatrixLayout, max_mem: int) -> int:
    held = matrix.layout.grid.steps
    while held > 1 and (
        spectra_held_bytes(matrix.layout, held) > max_mem // BLOCKS_AT_ONCE
        or spectra_block_bytes(matrix, held) > max_mem
    ):
        held = ceil(held / 2)
    return held


def _need(matrix: MatrixLayout, held: int) -> Need:
    fixed = spectra_block_bytes(MatrixLayout(NOTHING, ()), 1)
    return Need(matrix.layout.tensor, "one step", spectra_block_bytes(matrix, held), fixed)


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
