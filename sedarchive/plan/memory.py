"""Working memory that one worker needs for one block, in bytes; interpreter and libraries apart.

Each formula names what is alive at the worst moment of the code it describes. ``tests/bench/peak_memory.py`` holds
them against the peak of fresh processes.
"""

from sedarchive.plan.grid import MatrixLayout, TensorLayout
from sedarchive.sizes import KIB, MIB

_FLOAT = 8
_INGEST_COPIES = 3
"""Of a slab in ingest: as read, and the chunk with its encoded form."""
_CODEC_COPIES = 3
"""Of a chunk that Zarr reads: encoded, decoded, and in the region asked for."""
_WORKER = 6 * MIB
"""Of a thread, whatever it does: the buffers of BLAS, its stack; measured."""
_SPECTRA_BLOCK = 2**21
"""Float64 numbers of a matrix that its Gram matrix, or its QR decomposition, takes at a time."""


def copies_bytes(slab_bytes: int, n_steps: int) -> int:
    """Memory in which one worker of ingest copies a slab at ``n_steps`` checkpoints."""
    return _INGEST_COPIES * slab_bytes * n_steps


def products_bytes(n_steps: int, band: int | None) -> int:
    """Bytes of one Gram matrix of ``n_steps`` rows, whole or banded."""
    return _FLOAT * n_steps * (n_steps if band is None else min(band + 1, n_steps))


def gram_result_bytes(layout: TensorLayout, n_steps: int, band: int | None) -> int:
    """Bytes of the sums of one block, which do not depend on its rows."""
    return layout.n_leaves * products_bytes(n_steps, band)


def gram_rows_bytes(layout: TensorLayout, n_rows: int, n_steps: int) -> int:
    """Bytes of ``n_rows`` rows at all steps, and of the part of them that is copied out."""
    spread = layout.part_rows or max(layout.grid.rows, 1)
    part = n_steps * layout.part_elements * min(n_rows, spread) // spread * layout.decoded_itemsize
    return n_steps * n_rows * layout.row_bytes_held + part


def gram_block_bytes(layout: TensorLayout, n_rows: int, n_steps: int, band: int | None = None) -> int:
    """Working memory of one Gram block of ``n_rows`` rows: what is read, one part, the kernel, the sums."""
    if layout.compressed:
        reading = _CODEC_COPIES * layout.chunk_bytes
    else:
        # more than is held: of a chunk not wanted whole, the rest goes through 256 KiB for its checksum
        reading = 3 * layout.chunk_bytes if n_rows < layout.grid.slab_rows else 0
    # the sums of a block grow while its tiles, up to twice as wide as a band, and one product are alive
    sums = gram_result_bytes(layout, n_steps, band) + 4 * products_bytes(n_steps, band)
    needed = gram_rows_bytes(layout, n_rows, n_steps) + reading + sums + gram_scratch_bytes(n_steps)
    return needed + needed // 10 + _WORKER  # a tenth lies in holes between sums that wait; measured


def gram_scratch_bytes(n_steps: int) -> int:
    """Arrays that the Gram kernel works in: values and differences in float64, and which of them are zero."""
    return (2 * _FLOAT + 1) * max(96 * KIB, n_steps * KIB)


def spectra_held_bytes(layout: TensorLayout, n_steps: int) -> int:
    """Bytes of one tensor at ``n_steps`` steps."""
    return n_steps * layout.grid.rows * layout.row_bytes_held


def spectra_block_bytes(matrix: MatrixLayout, n_steps: int) -> int:
    """Working memory of one tensor at ``n_steps`` steps: what is read, one part, and one decomposition."""
    layout = matrix.layout
    held = spectra_held_bytes(layout, n_steps)
    part = layout.part_elements * layout.decoded_itemsize
    if layout.compressed:
        # Zarr reads up to ten chunks at once and puts them into a region of its own
        reading = held + 2 * 10 * layout.chunk_bytes
    else:
        # more than is held, as there
        reading = layout.chunk_bytes * (layout.grid.steps - n_steps) // layout.grid.steps
    return held + part + reading + max((_decomposition_bytes(m, n) for m, n in matrix.shapes), default=0) + _WORKER


def _decomposition_bytes(m: int, n: int) -> int:
    """Memory of the singular values of an (m, n) matrix; the way by LAPACK, which low ranks need, included."""
    small, large = sorted((m, n))
    block = _FLOAT * min(_SPECTRA_BLOCK, m * n)
    by_gram = block + 3 * _FLOAT * small * small
    if large < 2 * small:
        by_lapack = 2 * _FLOAT * m * n
    else:
        by_lapack = 3 * (max(block, _FLOAT * small * small) + _FLOAT * small * small)
    return max(by_gram, by_lapack)
