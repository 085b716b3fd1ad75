"""The projection sweep: the Gram sweep's blocks, once more, into random projections of whole scopes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sedarchive.archive.plainchunks import ReusedMemory
from sedarchive.executor import Executor, Progress, no_progress
from sedarchive.gram import select_part
from sedarchive.leaves import Scope
from sedarchive.plan.tasks import Block
from sedarchive.rolling.projection import Projection, projected_updates
from sedarchive.sizes import MIB
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.blocks import map_blocks
from sedarchive.sweeps.gram_sweep import plan_gram_sweep
from sedarchive.sweeps.stored_grams import GramOptions

Floats = NDArray[np.float64]
_ENTRIES_BYTES = 32 * MIB
"""Most that a worker holds of a projection's entries at a time."""
_SHARE = 16
"""They are at most this part of ``max_mem``, of which an eighth is kept for them."""


@dataclass(frozen=True)
class ProjectionOptions:
    """Projections wanted: the first ``dimension`` rows of each are the narrower ones."""

    dimension: int
    seeds: tuple[int, ...]
    max_mem: int


def sweep_projections(
    anatomy: Anatomy,
    scopes: Sequence[Scope],
    options: ProjectionOptions,
    executor: Executor,
    progress: Progress = no_progress,
) -> dict[str, Floats]:
    """Project the updates of some scopes.

    Returns
    -------
    dict
        By scope: float64 (seeds, T - 1, dimension), not divided by sqrt(d). Sums run in the order of the blocks: equal
        for any number of workers, and to rounding for any ``max_mem``.

    Raises
    ------
    ArchiveError
        If a chunk cannot be read.
    MemoryBudgetError
        If a block does not fit.
    """
    tensors = list(dict.fromkeys(leaf.tensor for scope in scopes for leaf in scope.leaves))
    weights = GramOptions(options.max_mem - 2 * (options.max_mem // _SHARE))
    plan = plan_gram_sweep(anatomy, tensors, weights, executor.workers)
    shape = (len(options.seeds), len(anatomy.run.commits) - 1, options.dimension)
    totals = {scope.name: np.zeros(shape) for scope in scopes}
    function = partial(_projection_task, tuple(scopes), options, ReusedMemory())
    mapped = map_blocks(executor.at_most(plan.workers), anatomy, function, plan.tasks)
    for done, parts in enumerate(mapped, start=1):
        for name, part in parts.items():
            totals[name] += part
        progress(f"projections {anatomy.run.name}", done, len(plan.tasks))
    return totals


def _projection_task(
    scopes: Sequence[Scope],
    options: ProjectionOptions,
    memory: ReusedMemory,
    anatomy: Anatomy,
    task: Sequence[Block],
) -> dict[str, Floats]:
    """Sums over the blocks of one task, by scope (seeds, T - 1, dimension)."""
    n_steps = len(anatomy.run.commits)
    sums: dict[str, Floats] = {}
    for block in task:
        members = [
            (sums.setdefault(scope.name, np.zeros((len(options.seeds), n_steps - 1, options.dimension))), leaf)
            for scope in scopes
            for leaf in scope.leaves
            if leaf.tensor == block.tensor
        ]
        theta = anatomy.run.read(block.tensor, (block.start, block.stop), range(n_steps), memory)
        for piece in _pieces(block, theta.shape[2], options):
            columns = piece.columns(theta.shape[2])
            values = theta[:, piece.first - block.start : piece.first - block.start + piece.n_rows]
            for total, leaf in members:
                own = select_part(values, piece.first, leaf.part), select_part(columns, piece.first, leaf.part)
                total[piece.seed_at, :, piece.dimensions] += projected_updates(*own)
    return sums


@dataclass(frozen=True)
class _Piece:
    """Some rows of a block under some rows of one projection: what is held at a time."""

    projection: Projection
    seed_at: int
    first: int
    n_rows: int
    dimensions: slice

    def columns(self, n_columns: int) -> Floats:
        """Entries of the projection (dimensions, rows, columns)."""
        wanted = range(self.dimensions.start, self.dimensions.stop)
        start = self.first * n_columns
        entries = self.projection.columns(wanted, start, start + self.n_rows * n_columns)
        return entries.reshape(len(wanted), self.n_rows, n_columns)


def _pieces(block: Block, n_columns: int, options: ProjectionOptions) -> Iterator[_Piece]:
    """Pieces of a block whose entries fit a worker's share, whatever the number of workers."""
    n_entries = max(1, min(_ENTRIES_BYTES, options.max_mem // _SHARE) // 8)
    n_dimensions = max(1, min(options.dimension, n_entries // n_columns))
    n_rows = max(1, n_entries // (n_columns * n_dimensions))
    for seed_at, seed in enumerate(options.seeds):
        for first in range(block.start, block.stop, n_rows):
            for start in range(0, options.dimension, n_dimensions):
                dimensions = slice(start, min(start + n_dimensions, options.dimension))
                rows = min(n_rows, block.stop - first)
                yield _Piece(Projection(seed, block.tensor), seed_at, first, rows, dimensions)
