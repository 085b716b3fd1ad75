"""The Gram sweep takes at most 1.15 times what reading, converting with differences and bare products take apart.

All through the archive, the same bytes, the same number of workers (1 and 2), one BLAS thread each, everything in the
page cache. The bare pieces know nothing of sedarchive but which rows a block has:

* read: ``zarr.open_array`` of the tensor, a slice a chunk of steps; or as the sweep reads, if that is faster;
* convert and difference: float32 to float64 and the difference of consecutive rows, in sub-blocks of columns;
* product: ``a @ a.T`` of such a sub-block, summed.

What the sweep counts besides (zeros, non-finite values, the largest, the energy of rounding) is no such piece.

The width of the sub-blocks is the best of those tried. Besides: what the sweep reads, against ``open().readinto`` of
the same chunk files into one buffer.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import zarr
from engine import drop_grams, gram_sweep, new_archive, open_anatomy
from measure import Claim, Settings, explain_unmet, in_turn, report, seconds, settings, warm
from numpy.typing import NDArray
from workload import FULL, QUICK, history

from sedarchive.archive.plainchunks import ReusedMemory
from sedarchive.executor import one_blas_thread
from sedarchive.sizes import parse_size
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.gram_sweep import plan_gram_sweep
from sedarchive.sweeps.stored_grams import GramOptions

MAX_MEM = "2GB"
WIDTHS = (1024, 2048, 4096, 8192, 16_384)


@dataclass(frozen=True)
class Rows:
    """Rows of one tensor at all checkpoints: what one block of the sweep holds."""

    tensor: str
    array: Path
    """Folder of the tensor's Zarr array."""
    start: int
    stop: int
    columns: int
    steps_per_chunk: int
    parts: tuple[int, ...]
    """Elements of each leaf in it."""
    files: tuple[Path, ...]
    """Chunk files that hold them."""


class Desk:
    """Arrays of one worker, made and touched before the time starts."""

    def __init__(self, n_steps: int, n_elements: int) -> None:
        self._n_steps = n_steps
        self._numbers = np.random.default_rng(0).random(n_steps * n_elements, dtype="f4")
        self._values, self._rows = np.ones((2, n_steps * max(WIDTHS)))
        self.buffer = bytearray(64 * 2**20)

    def leaf(self, n_elements: int) -> NDArray[np.float32]:
        """Numbers (steps, n_elements) in the place of a leaf's."""
        return self._numbers[: self._n_steps * n_elements].reshape(self._n_steps, n_elements)

    def scratch(self, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two arrays (steps, width)."""
        values, rows = (
            own[: self._n_steps * width].reshape(self._n_steps, width) for own in (self._values, self._rows)
        )
        return values, rows


class Bare:
    """The pieces of a Gram sweep, each alone."""

    def __init__(self, parts: Anatomy, workers: int) -> None:
        self._parts, self._workers = parts, workers
        self._n_steps = len(parts.run.commits)
        plan = plan_gram_sweep(parts, list(parts.tensors), GramOptions(parse_size(MAX_MEM)), workers)
        self.blocks = [self._rows(block.tensor, block.start, block.stop) for task in plan.tasks for block in task]
        self._arrays = {block.array: zarr.open_array(block.array, mode="r") for block in self.blocks}
        self._width = WIDTHS[0]
        self._desks: SimpleQueue[Desk] = SimpleQueue()
        for _ in range(workers):
            self._desks.put(Desk(self._n_steps, max(sum(block.parts) for block in self.blocks)))

    def _rows(self, tensor: str, start: int, stop: int) -> Rows:
        [info] = self._parts.tensors[tensor].arrays
        rows, spec = stop - start, info.spec
        leaves = [leaf for leaf in self._parts.leaves if leaf.tensor == tensor]
        elements = tuple(round(rows * spec.columns * leaf.n_elements / spec.n_elements) for leaf in leaves)
        folder = self._parts.run.folder / "theta" / info.path
        inner = [str(start // info.grid.slab_rows), *["0"] * len(spec.shape)][: len(spec.shape)]
        groups = range(-(-self._n_steps // info.grid.steps))
        files = tuple(folder.joinpath("c", str(group), *inner) for group in groups)
        return Rows(tensor, folder, start, stop, spec.columns, info.grid.steps, elements, files)

    @property
    def n_bytes(self) -> int:
        """Bytes of weights in all blocks."""
        return sum(4 * self._n_steps * (block.stop - block.start) * block.columns for block in self.blocks)

    def choose_width(self) -> int:
        """Set the width of sub-blocks with which converting and multiplying are fastest."""
        largest, desk = max(self.blocks, key=lambda block: sum(block.parts)), self._desks.get()

        def taken(width: int) -> float:
            self._width = width
            pieces = partial(self._convert, largest, desk), partial(self._multiply, largest, desk)
            return min(seconds(*pieces) for _ in range(5))

        self._width = min(WIDTHS, key=taken)
        self._desks.put(desk)
        return self._width

    def read_by_zarr(self) -> None:
        """Every chunk through zarr alone."""
        self._each(self._read_by_zarr)

    def read_as_the_sweep(self) -> None:
        """Every chunk as the sweep reads it."""
        steps, memory = range(self._n_steps), ReusedMemory()
        self._each(lambda block, _: self._parts.run.read(block.tensor, (block.start, block.stop), steps, memory))

    def read_raw(self) -> None:
        """Every chunk file into one small buffer, which stays in cache."""
        self._each(self._read_raw)

    def read_whole(self) -> None:
        """Every chunk file as bytes of its own."""
        self._each(lambda block, _: [path.read_bytes() for path in block.files])

    def convert(self) -> None:
        """Float64 and differences of as many elements, from memory."""
        self._each(self._convert)

    def multiply(self) -> None:
        """Products of as many elements, in cache."""
        self._each(self._multiply)

    def _each(self, function: Callable[[Rows, Desk], Any]) -> None:
        def one(block: Rows) -> None:
            desk = self._desks.get()
            function(block, desk)
            self._desks.put(desk)

        with ThreadPoolExecutor(self._workers) as pool:
            for _ in pool.map(one, self.blocks):
                pass

    def _read_by_zarr(self, block: Rows, _: Desk) -> None:
        array = self._arrays[block.array]
        region = (slice(block.start, block.stop),) if array.ndim > 1 else ()
        for first in range(0, self._n_steps, block.steps_per_chunk):
            np.asarray(array[(slice(first, min(first + block.steps_per_chunk, self._n_steps)), *region)])

    def _read_raw(self, block: Rows, desk: Desk) -> None:
        for path in block.files:
            with path.open("rb", buffering=0) as file:
                file.readinto(desk.buffer)

    def _convert(self, block: Rows, desk: Desk) -> None:
        for source in self._sub_blocks(block, desk):
            values, rows = desk.scratch(source.shape[1])
            np.copyto(values, source)
            rows[0] = values[0]
            np.subtract(values[1:], values[:-1], out=rows[1:])

    def _multiply(self, block: Rows, desk: Desk) -> None:
        total = np.zeros((self._n_steps, self._n_steps))
        for source in self._sub_blocks(block, desk):
            _, rows = desk.scratch(source.shape[1])
            total += rows @ rows.T

    def _sub_blocks(self, block: Rows, desk: Desk) -> Iterator[NDArray[np.float32]]:
        for n_elements in block.parts:
            leaf = desk.leaf(n_elements)
            for first in range(0, n_elements, self._width):
                yield leaf[:, first : first + self._width]


def measured(given: Settings) -> list[Claim]:
    archive = new_archive(history(given.folder, QUICK if given.quick else FULL), given.folder)
    claims = []
    for workers in (1, 2):
        claims += _with_workers(archive, workers)
    drop_grams(archive)
    explain_unmet(claims, {"the Gram sweep with one worker": lambda: gram_sweep(archive, 1, MAX_MEM)})
    return claims


def _with_workers(archive: Path, workers: int) -> list[Claim]:
    with one_blas_thread():
        bare = Bare(open_anatomy(archive), workers)
        size = f"{bare.n_bytes / 1e9:.2f} GB in {len(bare.blocks)} blocks"
        print(f"\n{workers} workers, {size}, sub-blocks of {bare.choose_width()} columns", flush=True)
        warm(archive)
        pieces = {"convert and difference": bare.convert, "product": bare.multiply}
        reads = {
            "read by zarr": bare.read_by_zarr,
            "read as the sweep does": bare.read_as_the_sweep,
            "read raw": bare.read_raw,
            "read raw, by read_bytes": bare.read_whole,
        }
        variants: dict[str, Callable[[], float]] = {"sweep": partial(_sweep, archive, workers)}
        variants |= {name: partial(seconds, function) for name, function in (pieces | reads).items()}
        taken = in_turn(variants)
    by_zarr, own, raw, whole = (taken[name] for name in reads)
    total = min(own, by_zarr) + sum(taken[name] for name in pieces)
    print(
        f"  pieces together {total:.3f} s; raw {bare.n_bytes / 1e9 / raw:.2f} GB/s, ours {bare.n_bytes / 1e9 / own:.2f}"
    )
    return [
        Claim(f"Gram sweep in its bare pieces, {workers} workers", taken["sweep"] / total, 1.15),
        Claim(f"rate of the sweep's reads in that of raw files, {workers} workers", raw / own, 0.8, at_least=True),
        Claim(f"rate of the sweep's reads in that of read_bytes of the files, {workers} workers", whole / own),
        Claim(f"rate of zarr's reads alone in that of raw files, {workers} workers", raw / by_zarr),
    ]


def _sweep(archive: Path, workers: int) -> float:
    drop_grams(archive)
    return seconds(lambda: gram_sweep(archive, workers, MAX_MEM))


if __name__ == "__main__":
    options = settings(__doc__)
    report(measured(options), options)
