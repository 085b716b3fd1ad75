"""The spectra sweep: singular values of every logical matrix at the steps asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from sedarchive.archive.plainchunks import ReusedMemory
from sedarchive.errors import ArchiveError
from sedarchive.executor import Executor, Progress, no_progress
from sedarchive.gram import select_part
from sedarchive.leaves import Leaf
from sedarchive.lowrank.products import Product
from sedarchive.lowrank.spectra import product_sigmas
from sedarchive.matrix.aspect import Cut
from sedarchive.matrix.spectra import MatrixSpectrum, matrix_sigmas
from sedarchive.plan.grid import MatrixLayout
from sedarchive.plan.tasks import SpectraPlan, StepBlock, plan_spectra
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.blocks import map_blocks
from sedarchive.sweeps.product_sweep import factors_of

ALGORITHM = "spectra-2"
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
    aspect: float | None = None
    """Aspect ratio, where it is that of a sub-matrix; those of one matrix follow each other."""


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
    with_product = _with_products(anatomy, wanted)
    for tensor, positions in wanted.items():
        if tensor in with_product:
            continue
        matrices.append((_layout(anatomy, tensor), [slot_of[position] for position in positions]))
    return plan_spectra(matrices, max_mem, workers)


def _with_products(anatomy: Anatomy, wanted: Mapping[str, Sequence[int]]) -> set[str]:
    """Factors that are read for their products anyway: their spectra come with those."""
    return {
        factor
        for product in anatomy.products.formed
        for factor in product.factors
        if product.name in wanted and set(wanted.get(factor, ())) <= set(wanted[product.name])
    }


def _layout(anatomy: Anatomy, tensor: str) -> MatrixLayout:
    product = anatomy.product(tensor)
    if product:
        return anatomy.product_layout(product).as_matrix
    shapes = tuple(leaf.shape for leaf in _leaves_of(anatomy, tensor) if leaf.shape is not None)
    return MatrixLayout(anatomy.layout(tensor), shapes)


def _leaves_of(anatomy: Anatomy, tensor: str) -> list[Leaf]:
    return [leaf for leaf in anatomy.leaves_of(tensor) if _is_matrix(leaf)]


@dataclass(frozen=True)
class SpectraOptions:
    """Options of the spectra sweep."""

    max_mem: int
    exact: bool = False
    """LAPACK for every matrix, also where the Gram matrix would do."""
    aspects: tuple[float, ...] = ()
    """Instead of whole matrices their sub-matrices of these aspect ratios."""

    @property
    def words(self) -> str:
        """What the sweep does, for people."""
        return "spectra of sub-matrices" if self.aspects else "spectra"


def sweep_spectra(
    anatomy: Anatomy,
    wanted: Mapping[str, Sequence[int]],
    options: SpectraOptions,
    executor: Executor,
    progress: Progress = no_progress,
) -> Iterator[list[SpectrumAt]]:
    """Spectra of some tensors at some checkpoints, in portions fit to be stored one by one."""
    plan = plan_spectra_sweep(anatomy, wanted, options.max_mem, executor.workers)
    function = partial(_spectra_task, options, ReusedMemory())
    results = map_blocks(executor.at_most(plan.workers), anatomy, function, plan.tasks)
    done = 0
    while portion := list(islice(results, _FLUSH_TASKS)):
        done += len(portion)
        yield [found for task in portion for found in task]
        progress(f"{options.words} {anatomy.run.name}", done, len(plan.tasks))


def _spectra_task(
    options: SpectraOptions, memory: ReusedMemory, anatomy: Anatomy, task: Sequence[StepBlock]
) -> list[SpectrumAt]:
    return [found for block in task for found in _spectra_block(anatomy, options, block, memory)]


def _spectra_block(
    anatomy: Anatomy, options: SpectraOptions, block: StepBlock, memory: ReusedMemory
) -> Iterator[SpectrumAt]:
    position_of = {commit.slot: position for position, commit in enumerate(anatomy.run.commits)}
    positions = sorted(position_of[slot] for slot in block.slots)
    product = anatomy.product(block.tensor)
    if product is None:
        theta = _read(anatomy, block.tensor, positions, memory)
        yield from _of_tensor(anatomy, options, block.tensor, positions, theta)
        return
    left, right = (_read(anatomy, factor, positions) for factor in product.factors)
    yield from _of_product(anatomy, product, positions, left, right)
    for factor, theta in zip(product.factors, (left, right), strict=True):
        yield from _of_tensor(anatomy, options, factor, positions, theta)


def _read(
    anatomy: Anatomy, tensor: str, positions: Sequence[int], memory: ReusedMemory | None = None
) -> NDArray[Any] | str:
    """Values of a whole tensor at some checkpoints, or why they cannot be read."""
    try:
        return anatomy.run.read(tensor, (0, anatomy.tensors[tensor].spec.rows), positions, memory)
    except ArchiveError as error:
        return str(error)


def _of_tensor(
    anatomy: Anatomy, options: SpectraOptions, tensor: str, positions: Sequence[int], theta: NDArray[Any] | str
) -> Iterator[SpectrumAt]:
    """Spectra of the matrices of a tensor."""
    leaves = _leaves_of(anatomy, tensor)
    if isinstance(theta, str):
        at_each = [(leaf, position) for leaf in leaves for position in positions]
        yield from (SpectrumAt(*at, None, theta, aspect) for at in at_each for aspect in options.aspects or (None,))
        return
    for at, position in enumerate(positions):
        for leaf in leaves:
            matrix = _matrix(leaf, select_part(theta[at : at + 1], 0, leaf.part))
            if not options.aspects:
                yield SpectrumAt(leaf, position, matrix_sigmas(matrix, exact=options.exact))
            for aspect in options.aspects:
                for part in Cut.of(matrix.shape[0], matrix.shape[1], aspect).parts(matrix):
                    yield SpectrumAt(leaf, position, matrix_sigmas(part, exact=options.exact), aspect=aspect)


def _of_product(
    anatomy: Anatomy, product: Product, positions: Sequence[int], left: NDArray[Any] | str, right: NDArray[Any] | str
) -> Iterator[SpectrumAt]:
    """Spectra of the matrices of a product, from its factors."""
    leaves = _leaves_of(anatomy, product.name)
    if isinstance(left, str) or isinstance(right, str):
        problem = left if isinstance(left, str) else str(right)
        yield from (SpectrumAt(leaf, position, None, problem) for leaf in leaves for position in positions)
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
