"""The spectra sweep: singular values of every logical matrix at the steps asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from sedarchive.errors import ArchiveError
from sedarchive.executor import Executor, Progress, no_progress
from sedarchive.gram import select_part
from sedarchive.leaves import Leaf
from sedarchive.lowrank.products import Product
from sedarchive.lowrank.spectra import product_sigmas
from sedarchive.matrix.spectra import MatrixSpectrum, matrix_sigmas
from sedarchive.plan.grid import MatrixLayout
from sedarchive.plan.tasks import SpectraPlan, StepBlock, plan_spectra
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.blocks import map_blocks
from sedarchive.sweeps.product_sweep import factors_of, product_factors

ALGORITHM = "spectra-1"
PRODUCT_ALGORITHM = "product-spectra-1"
_FLUSH_TASKS = 16


@dataclass(frozen=True)
class SpectrumAt:
    """Spectrum of one logical matrix at one checkpoint."""

    leaf: Leaf
    position: int
    """Index of the checkpoint, in step order."""
    spectrum: MatrixSpectrum | None
    """None if its bytes could not be read."""
    problem: str | None = None
    """Why not."""


def matrix_leaves(anatomy: Anatomy) -> list[Leaf]:
    """Leaves that are matrices."""
    return [leaf for leaf in anatomy.leaves if _is_matrix(leaf)]


def _is_matrix(leaf: Leaf) -> bool:
    return leaf.shape is not None and min(leaf.shape) > 0


def plan_spectra_sweep(
    anatomy: Anatomy, wanted: Mapping[str, Sequence[int]], max_mem: int, workers: int
) -> SpectraPlan:
    """Plan the spectra of some tensors at some checkpoints (tensor -> positions).

    Raises
    ------
    MemoryBudgetError
        If one step of a matrix does not fit; the message says what would.
    """
    slot_of = [commit.slot for commit in anatomy.run.commits]
    matrices = []
    for tensor, positions in wanted.items():
        matrices.append((_layout(anatomy, tensor), [slot_of[position] for position in positions]))
    return plan_spectra(matrices, max_mem, workers)


def _layout(anatomy: Anatomy, tensor: str) -> MatrixLayout:
    leaves = _leaves_of(anatomy, tensor)
    if leaves[0].product:
        return anatomy.product_layout(leaves[0].product).as_matrix
    return MatrixLayout(anatomy.layout(tensor), tuple(leaf.shape for leaf in leaves if leaf.shape is not None))


def _leaves_of(anatomy: Anatomy, tensor: str) -> list[Leaf]:
    return [leaf for leaf in anatomy.leaves_of(tensor) if _is_matrix(leaf)]


@dataclass(frozen=True)
class SpectraOptions:
    """Options of the spectra sweep."""

    max_mem: int
    exact: bool = False
    """LAPACK for every matrix, also where the Gram matrix would do."""


def sweep_spectra(
    anatomy: Anatomy,
    wanted: Mapping[str, Sequence[int]],
    options: SpectraOptions,
    executor: Executor,
    progress: Progress = no_progress,
) -> Iterator[list[SpectrumAt]]:
    """Spectra of some tensors at some checkpoints, in portions fit to be stored one by one."""
    plan = plan_spectra_sweep(anatomy, wanted, options.max_mem, executor.workers)
    results = map_blocks(executor.at_most(plan.workers), anatomy, partial(_spectra_task, options.exact), plan.tasks)
    done = 0
    while portion := list(islice(results, _FLUSH_TASKS)):
        done += len(portion)
        yield [found for task in portion for found in task]
        progress(f"spectra {anatomy.run.name}", done, len(plan.tasks))


def _spectra_task(exact: bool, anatomy: Anatomy, task: Sequence[StepBlock]) -> list[SpectrumAt]:
    return [found for block in task for found in _spectra_block(anatomy, exact, block)]


def _spectra_block(anatomy: Anatomy, exact: bool, block: StepBlock) -> Iterator[SpectrumAt]:
    leaves = _leaves_of(anatomy, block.tensor)
    position_of = {commit.slot: position for position, commit in enumerate(anatomy.run.commits)}
    positions = sorted(position_of[slot] for slot in block.slots)
    if leaves[0].product:
        yield from _product_block(anatomy, leaves, leaves[0].product, positions)
        return
    rows = (0, anatomy.tensors[block.tensor].spec.rows)
    try:
        theta = anatomy.run.read(block.tensor, rows, positions)
    except ArchiveError as error:
        yield from (SpectrumAt(leaf, position, None, str(error)) for leaf in leaves for position in positions)
        return
    for at, position in enumerate(positions):
        for leaf in leaves:
            matrix = _matrix(leaf, select_part(theta[at : at + 1], 0, leaf.part))
            yield SpectrumAt(leaf, position, matrix_sigmas(matrix, exact=exact))


def _product_block(
    anatomy: Anatomy, leaves: Sequence[Leaf], product: Product, positions: Sequence[int]
) -> Iterator[SpectrumAt]:
    try:
        left, right = product_factors(anatomy, product, positions)
    except ArchiveError as error:
        yield from (SpectrumAt(leaf, position, None, str(error)) for leaf in leaves for position in positions)
        return
    for at, position in enumerate(positions):
        for leaf in leaves:
            yield SpectrumAt(leaf, position, product_sigmas(*factors_of(leaf, left[at], right[at]), product.scale))


def _matrix(leaf: Leaf, elements: NDArray[Any]) -> NDArray[Any]:
    """Elements of a leaf as its matrix."""
    assert leaf.shape is not None
    if leaf.blocks == 1:
        return elements.reshape(leaf.shape)
    rows, columns = leaf.shape
    return elements.reshape(leaf.blocks, rows, columns // leaf.blocks).swapaxes(0, 1).reshape(leaf.shape)
