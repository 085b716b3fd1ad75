"""Chunks without compression, between their files and their place in an array.

Such a chunk is its elements in C order and four bytes of CRC-32C. Zarr hands each of them through several buffers and
an event loop; the kernel scatters one into the rows of many checkpoints in one call, at about the speed of the bare
file. All else (compressed chunks, other stores) goes through Zarr.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedWriter, FileIO
from math import prod
from pathlib import Path
from secrets import token_hex
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec

from sedarchive.archive.store import CheckedStore, Fetched
from sedarchive.errors import DamagedArchiveError
from sedarchive.sizes import KIB, MIB

Bytes = NDArray[np.uint8]
Piece = Bytes | int
"""Where bytes go, or a number of bytes that are not wanted."""
_CHECKSUM_BYTES = 4
_MOST_PIECES = 1000
"""Linux fills 1,024 buffers in one call."""
_READ_BYTES = 256 * KIB
"""Bytes read before they are summed: they are in the processor's cache still."""


class ReusedMemory(threading.local):
    """Memory that is read into again and again, each thread its own; another process begins with none.

    New memory costs a third of the time of reading into it, and what is freed often stays with the process.
    """

    def __init__(self) -> None:
        self._bytes: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        return ReusedMemory, ()

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Array of any content; the one handed out before is given up."""
        n_bytes = prod(shape) * dtype.itemsize
        if n_bytes > self._bytes.nbytes:
            self._bytes = np.empty(0, dtype=np.uint8)  # given up before there is more
            self._bytes = np.empty(n_bytes, dtype=np.uint8)
        return self._bytes[:n_bytes].view(dtype).reshape(shape)


@dataclass(frozen=True)
class PlainChunks:
    """Where the chunks of one array (step, rows, ...) lie, and how they are cut."""

    store: CheckedStore
    array: str
    shape: tuple[int, ...]
    """Steps, rows and elements a row of one chunk."""
    n_axes: int
    itemsize: int
    fill: Any

    @classmethod
    def of(cls, store: CheckedStore, array: "zarr.Array[Any]") -> "PlainChunks | None":
        """Plain chunks of an array; None if they are compressed, or hold another byte order."""
        codecs = getattr(array.metadata, "codecs", ())
        native = array.dtype.isnative and array.dtype.byteorder != ">"
        empty = 0 in array.shape[1:]  # whose chunks are not
        if [type(codec) for codec in codecs] != [BytesCodec, Crc32cCodec] or not native or empty:
            return None
        rows = array.chunks[1] if array.ndim > 1 else 1
        shape = (array.chunks[0], rows, prod(array.chunks[2:]))
        return cls(store, array.path, shape, array.ndim, array.dtype.itemsize, array.fill_value)

    def read(self, rows: tuple[int, int], slots: Sequence[int], out: NDArray[Any]) -> None:
        """Read rows ``rows[0]:rows[1]`` at sorted slots of one chunk of steps into ``out`` (slots, rows, elements).

        Raises
        ------
        DamagedArchiveError
            If a chunk is missing, cut short, or fails its checksum.
        """
        group, height = slots[0] // self.shape[0], self.shape[1]
        place = {slot - group * self.shape[0]: at for at, slot in enumerate(slots)}
        for slab in range(rows[0] // height, -(-rows[1] // height)):
            first, last = max(rows[0], slab * height), min(rows[1], (slab + 1) * height)
            inside = (first - slab * height, last - slab * height)
            part = out[:, first - rows[0] : last - rows[0]]
            self._read_chunk(self._key(group, slab), list(self._pieces(place, inside, part)))

    def write(self, slots: tuple[int, int], rows: tuple[int, int], block: NDArray[Any], *, fresh: bool) -> bool:
        """Write slots and rows of one chunk; False, and nothing done, if that must keep what the chunk holds.

        A ``fresh`` chunk holds nothing yet: what is not given becomes the fill value.
        """
        group, slab = slots[0] // self.shape[0], rows[0] // self.shape[1]
        if block.shape != self.shape:
            if not fresh:
                return False
            at, row = slots[0] - group * self.shape[0], rows[0] - slab * self.shape[1]
            full = np.full(self.shape, self.fill, dtype=block.dtype)
            full[at : at + block.shape[0], row : row + block.shape[1]] = block
            block = full
        data = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
        checksum = google_crc32c.value(data).to_bytes(_CHECKSUM_BYTES, "little")
        put(self.store.root / self._key(group, slab), [data, checksum])
        return True

    def _key(self, group: int, slab: int) -> str:
        index = [group, slab, *[0] * self.n_axes][: self.n_axes]
        return "/".join([self.array, "c", *map(str, index)])

    def _pieces(self, place: dict[int, int], inside: tuple[int, int], part: NDArray[Any]) -> Iterator[Piece]:
        """Yield where the bytes of a chunk go, one after the other."""
        row_bytes = self.shape[2] * self.itemsize
        unwanted = 0
        for step in range(self.shape[0]):
            if step in place:
                yield unwanted + inside[0] * row_bytes
                yield part[place[step]].reshape(-1).view(np.uint8)
                unwanted = (self.shape[1] - inside[1]) * row_bytes
            else:
                unwanted += self.shape[1] * row_bytes
        yield unwanted

    def _read_chunk(self, key: str, pieces: Sequence[Piece]) -> None:
        path = self.store.root / key
        n_bytes = sum(piece if isinstance(piece, int) else piece.nbytes for piece in pieces) + _CHECKSUM_BYTES
        try:
            whole = _fill(path, pieces, n_bytes)
        except FileNotFoundError as error:
            raise DamagedArchiveError(f"{path}: the chunk is missing; run `sedarchive verify`") from error
        except OSError as error:
            raise DamagedArchiveError(f"{path}: cannot be read ({error}); run `sedarchive verify`") from error
        self.store.counts.add(Fetched({key: 1}, n_bytes))
        if not whole:
            raise DamagedArchiveError(f"{path}: the chunk fails its checksum; run `sedarchive verify`")


def put(path: Path, pieces: Sequence[Any]) -> None:
    """Write a chunk's file from some buffers, so that a reader sees all of it or nothing; the caller syncs."""
    partial = path.with_name(f"{path.name}.{token_hex(8)}.partial")
    try:
        with _create(partial) as file:
            for piece in pieces:
                file.write(piece)
            _write_out_soon(file)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _create(path: Path) -> BufferedWriter:
    """Open a file to be written, in a folder that mostly exists."""
    try:
        return path.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")


def _write_out_soon(file: BufferedWriter) -> None:
    """Have the disk begin with a large file now, beside what is computed next, so that the last sync waits less."""
    if file.tell() >= MIB and hasattr(os, "posix_fadvise"):
        file.flush()
        with suppress(OSError):  # a hint: not every file system takes it
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _fill(path: Path, pieces: Sequence[Piece], n_bytes: int) -> bool:
    """Fill pieces from a file, one after the other; False if its size is not theirs or its checksum does not fit."""
    checksum = np.zeros(_CHECKSUM_BYTES, dtype=np.uint8)
    found = 0
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != n_bytes:
            return False
        for buffers in _calls(pieces):
            if not _read_into(file, buffers):
                return False
            for buffer in buffers:
                found = google_crc32c.extend(found, buffer)
        return _read_into(file, [checksum]) and found == int.from_bytes(checksum.tobytes(), "little")


def _calls(pieces: Sequence[Piece]) -> Iterator[list[Bytes]]:
    """Yield buffers that are filled together; all that is not wanted goes to the same little memory."""
    scrap = np.empty(_READ_BYTES, dtype=np.uint8)
    buffers: list[Bytes] = []
    held = 0
    for piece in pieces:
        n_bytes = piece if isinstance(piece, int) else piece.nbytes
        for begin in range(0, n_bytes, _READ_BYTES):
            size = min(_READ_BYTES, n_bytes - begin)
            if held + size > _READ_BYTES or len(buffers) == _MOST_PIECES:
                yield buffers
                buffers, held = [], 0
            buffers.append(scrap[held : held + size] if isinstance(piece, int) else piece[begin : begin + size])
            held += size
    yield buffers


def _read_into(file: FileIO, buffers: list[Bytes]) -> bool:
    """Fill buffers with what comes next in a file; False if it ends before."""
    wanted: list[Any] = list(buffers)
    filled = os.readv(file.fileno(), wanted) if wanted and hasattr(os, "readv") else 0
    for buffer in buffers:
        at = min(filled, len(buffer))
        filled -= at
        while at < len(buffer):
            n_bytes = file.readinto(buffer.data[at:])
            if not n_bytes:
                return False
            at += n_bytes
    return True
