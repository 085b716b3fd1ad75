"""How a tensor is cut into chunks.

A *chunk* is the unit on disk: ``steps`` consecutive checkpoints of a *slab* of rows of one tensor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from sedarchive.sizes import KIB, MIB

SLAB_BYTES = 512 * KIB
"""One step of one chunk: large enough for the disk, small enough for T of them."""
SMALL_TENSOR_BYTES = 64 * KIB
"""Tensors up to this size hold 64 steps a chunk, so that norms and biases make few files."""
SMALL_TENSOR_STEPS = 64
HELD_BYTES = 128 * MIB
"""Limit of steps-per-chunk times one step of a matrix: what the spectra sweep holds."""


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


@dataclass(frozen=True)
class ChunkSteps:
    """What the checkpoints a chunk depend on beside the tensor."""

    given: int | None = None
    """Asked for by the user, for every tensor; None for the default."""
    found: int | None = None
    """Checkpoints known when the chunks are made; None for many."""

    def of(self, n_bytes: int) -> int:
        """Checkpoints a chunk of a tensor of so many bytes.

        A chunk is stored whole. So a lone checkpoint has chunks of its own, and a small tensor of a short history the
        next power of two above its length, but 8 at least: it may grow.
        """
        if self.given or self.found == 1:
            return self.given or 1
        if n_bytes <= SMALL_TENSOR_BYTES:
            steps = (8, 16, 32)
            return next((most for most in steps if self.found and self.found <= most), SMALL_TENSOR_STEPS)
        return next((most for most in (8, 4, 2) if most * n_bytes <= HELD_BYTES), 1)


def chunk_grid(rows: int, row_bytes: int, steps: ChunkSteps) -> ChunkGrid:
    """Chunk grid of a tensor of ``rows`` rows of ``row_bytes`` bytes.

    Slabs are as even as whole rows allow, since the archive stores the last one
    at full size.
    """
    n_bytes = rows * row_bytes
    n_slabs = max(1, ceil(n_bytes / SLAB_BYTES))
    slab_rows = max(1, ceil(rows / n_slabs))
    return ChunkGrid(steps.of(n_bytes), slab_rows, rows)


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
    part_elements: int = 0
    """Elements, at one step, of its largest part that is copied out of it; 0 where none is."""
    part_rows: int = 0
    """Rows that a part lies in: 1 where each expert is a row; 0 for all."""
    converted: bool = False
    """Whether its values are copied once they are read: other dtypes than float32 and float64, several arrays."""
    compressed: bool = False
    """Whether its chunks go through a codec, and so through Zarr."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one decoded chunk."""
        return self.grid.steps * self.grid.slab_rows * self.row_bytes

    @property
    def row_bytes_held(self) -> int:
        """Bytes of one row at one step once it is read: as stored, and as a float type where that is a copy."""
        return self.row_bytes + (self.row_elements * self.decoded_itemsize if self.converted else 0)


NOTHING = TensorLayout("", ChunkGrid(1, 1, 0), row_bytes=0, row_elements=0, decoded_itemsize=0)
"""A tensor without elements: what it needs is fixed."""


@dataclass(frozen=True)
class MatrixLayout:
    """What planning needs to know of one matrix tensor for the spectra sweep."""

    layout: TensorLayout
    shapes: tuple[tuple[int, int], ...]
    """Shapes of its logical matrices."""
    n_values: int = 0
    """Singular values that wait to be stored for each step, where they are many for little work: those of products."""
