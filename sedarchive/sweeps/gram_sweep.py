"""The Gram sweep: every tensor at all steps, a slab at a time, into one Gram matrix a leaf.

A history that has grown is swept anew: the products of its new updates with all the old ones need every chunk again,
so that extending the full matrix would save arithmetic but no reading.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from sedarchive.archive.plainchunks import ReusedMemory
from sedarchive.archive.store import CheckedStore, ChunkReads
from sedarchive.errors import ArchiveError, MemoryBudgetError
from sedarchive.executor import Executor, Progress, no_progress
from sedarchive.gram import GramSums, gram_sums, select_part
from sedarchive.leaves import Leaf
from sedarchive.plan.budget import worst
from sedarchive.plan.products import plan_products, together
from sedarchive.plan.tasks import Block, SweepPlan, plan_gram
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.blocks import map_blocks
from sedarchive.sweeps.product_sweep import BlockSums, product_tile
from sedarchive.sweeps.stored_grams import GramOptions, StoredGrams, gram_key


@dataclass
class GramOutcome:
    """What the sweep of one run did."""

    computed: int = 0
    reused: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Tensor -> why it could not be read."""
    reads: ChunkReads = field(default_factory=ChunkReads)
    """Chunks of weights that the sweep fetched."""


def plan_gram_sweep(anatomy: Anatomy, tensors: Sequence[str], options: GramOptions, workers: int) -> SweepPlan:
    """Plan the sweep of some tensors, and products, of a run.

    Raises
    ------
    MemoryBudgetError
        If a tensor does not fit; the message says what would.
    """
    n_steps = len(anatomy.run.commits)
    limits = n_steps, options.max_mem, workers, options.band_for(n_steps)
    asked = frozenset(tensors)
    products = [anatomy.product_layout(one, asked) for one in anatomy.products.formed if one.name in asked]
    with_products = {name for one in products for name in (one.product, *one.beside)}
    stored = [anatomy.layout(tensor) for tensor in tensors if tensor not in with_products]
    makers = [partial(plan_products, products, *limits)]
    try:
        plan = plan_gram(stored, *limits)
    except MemoryBudgetError as error:
        raise worst(error, makers) from None
    return together(plan, plan_products(products, *limits))


def sweep_gram(
    anatomy: Anatomy, store: CheckedStore, options: GramOptions, executor: Executor, progress: Progress = no_progress
) -> GramOutcome:
    """Bring the Gram matrices of a run up to date; the caller holds the writer's lock, or there is nothing to do."""
    stored = StoredGrams(anatomy, store, gram_key(anatomy, options))
    todo = stored.missing_tensors() if stored.exists else _leaf_tensors(anatomy)
    outcome = GramOutcome(reused=len(_leaf_tensors(anatomy)) - len(todo))
    if not todo:
        if stored.exists and not store.read_only and not stored.is_final:
            stored.finish()
        return outcome
    plan = plan_gram_sweep(anatomy, todo, options, executor.workers)
    stored.create(options.band_for(len(anatomy.run.commits)))
    before = anatomy.run.store.counts.so_far
    pending = _Pending(stored, outcome, {tensor: _n_blocks(plan, tensor) for tensor in todo})
    results = _swept(anatomy, plan, options.band_for(len(anatomy.run.commits)), executor.at_most(plan.workers))
    for done, found in enumerate(results, start=1):
        for tensor, sums in found:
            pending.add(tensor, sums)
        progress(f"gram {anatomy.run.name}", done, plan.n_tasks)
    outcome.reads = anatomy.run.store.counts.so_far - before
    stored.finish()
    return outcome


def _n_blocks(plan: SweepPlan, tensor: str) -> int:
    blocks = sum(block.tensor == tensor for task in plan.tasks for block in task)
    return blocks + sum(tensor in (tile.tensor, *tile.beside) for tile in plan.tiles)


def _leaf_tensors(anatomy: Anatomy) -> list[str]:
    return list(dict.fromkeys(leaf.tensor for leaf in anatomy.leaves))


def _swept(
    anatomy: Anatomy, plan: SweepPlan, band: int | None, executor: Executor
) -> Iterator[Sequence[tuple[str, BlockSums]]]:
    """Results of the tasks of a plan: blocks of tensors first, then tiles of products."""
    memory = ReusedMemory()
    yield from map_blocks(executor, anatomy, partial(_gram_task, band, memory), plan.tasks)
    yield from map_blocks(executor, anatomy, partial(product_tile, band, memory), plan.tiles)


def _gram_task(
    band: int | None, memory: ReusedMemory, anatomy: Anatomy, task: Sequence[Block]
) -> list[tuple[str, BlockSums]]:
    """Gram sums of some blocks: what one worker does."""
    return [(block.tensor, _gram_block(anatomy, band, block, memory)) for block in task]


def _gram_block(anatomy: Anatomy, band: int | None, block: Block, memory: ReusedMemory) -> BlockSums:
    unit = anatomy.rounding_unit(block.tensor)
    try:
        theta = anatomy.run.read(block.tensor, (block.start, block.stop), range(len(anatomy.run.commits)), memory)
    except ArchiveError as error:
        return str(error)
    return [
        gram_sums(select_part(theta, block.start, leaf.part), unit, band) if _touches(block, leaf) else None
        for leaf in anatomy.leaves_of(block.tensor)
    ]


def _touches(block: Block, leaf: Leaf) -> bool:
    """Whether a leaf may have elements in a block: an expert of a stack lies in one row alone."""
    row = leaf.part.row if leaf.part else None
    return row is None or block.start <= row < block.stop


class _Pending:
    """Sums of the tensors under way: blocks arrive in order, a finished tensor is stored at once."""

    def __init__(self, stored: "StoredGrams", outcome: GramOutcome, n_blocks: dict[str, int]) -> None:
        self._stored, self._outcome, self._left = stored, outcome, n_blocks
        self._sums: dict[str, list[GramSums | None]] = {}

    def add(self, tensor: str, sums: BlockSums) -> None:
        self._left[tensor] -= 1
        if isinstance(sums, str):
            self._outcome.failed[tensor] = sums
        else:
            totals = self._sums.get(tensor, [None] * len(sums))
            self._sums[tensor] = [_total(total, part) for total, part in zip(totals, sums, strict=True)]
        if self._left[tensor] == 0:
            self._finish(tensor)

    def _finish(self, tensor: str) -> None:
        sums = self._sums.pop(tensor, None)
        if sums is not None and tensor not in self._outcome.failed:
            self._stored.write(tensor, [leaf_sums for leaf_sums in sums if leaf_sums is not None])
            self._outcome.computed += 1


def _total(total: GramSums | None, part: GramSums | None) -> GramSums | None:
    if total is None or part is None:
        return total or part
    total.add(part)
    return total
