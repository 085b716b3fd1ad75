"""Rows of tensors by byte ranges of files: positioned reads, no mapping, memory bounded by what is asked for."""

import os
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sedarchive.history import DTYPES, TensorSpec
from sedarchive.readers.faults import unreadable
from sedarchive.sizes import GIB, MIB

_CALL_BYTES = GIB  # Linux transfers at most 2 GiB a call
_WINDOW_BYTES = 4 * MIB  # a strided block is read as one span up to this, beyond it in halves
_EXPANDED_BYTES = GIB
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe must not make us wait


class RandomAccessFile:
    """A file read at given positions by any number of threads at once.

    A mapped file that someone truncates kills the process; a positioned read returns short and
    becomes an error here.

    Parameters
    ----------
    path
        File to open, or the name that errors use where `fd` is given.
    fd
        Descriptor to own instead of opening `path`.
    """

    def __init__(self, path: Path, fd: int | None = None) -> None:
        self.path = path
        try:
            self._fd = os.open(path, _OPEN_FLAGS) if fd is None else fd
            state = os.fstat(self._fd)
        except OSError as error:
            raise unreadable(
                path, f"it cannot be opened ({error.strerror})", "check the path and its rights"
            ) from error
        self.size = state.st_size
        if not stat.S_ISREG(state.st_mode):
            self.close()
            raise unreadable(path, "it is not a plain file but a pipe, a device or a folder", "leave it out")

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Exactly `n_bytes` from byte `offset` on."""
        if offset < 0 or n_bytes < 0 or offset + n_bytes > self.size:
            raise unreadable(self.path, f"it ends at byte {self.size}, before byte {offset + n_bytes}")
        target = np.empty(n_bytes, np.uint8)
        self.read_into(offset, target)
        return target.tobytes()

    def read_into(self, offset: int, target: NDArray[Any]) -> None:
        """Fill the C-contiguous `target` with the bytes from `offset` on."""
        if not target.size:
            return
        buffer = memoryview(target.reshape(-1).view(np.uint8).data)
        done = 0
        while done < len(buffer):
            count = self._pread(buffer[done : done + _CALL_BYTES], offset + done)
            if not count:
                raise unreadable(self.path, f"it ends at byte {offset + done}: it was cut while it was being read")
            done += count

    def _pread(self, buffer: memoryview, offset: int) -> int:
        if self._fd < 0:
            raise unreadable(self.path, "its reader is closed", "open the checkpoint again")
        try:
            return os.preadv(self._fd, [buffer], offset)
        except OSError as error:
            raise unreadable(self.path, f"byte {offset} cannot be read ({error.strerror})", "check the disk") from error

    def stream(self) -> BinaryIO:
        """Return a seekable stream over the file, at its first byte; the caller closes it."""
        stream = os.fdopen(os.dup(self._fd), "rb")
        stream.seek(0)
        return stream

    def identity(self) -> tuple[int, int, int, int]:
        """Device, inode, size and time: equal for two openings of one unchanged file."""
        state = os.fstat(self._fd)
        return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns

    def close(self) -> None:
        """Close the file; later reads raise, never reach a reused descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True)
class ByteView:
    """Where the elements of one tensor stand in a file.

    Raises
    ------
    UnreadableCheckpointError
        If an element would stand outside the file, or the shape is absurd.
    """

    file: RandomAccessFile
    offset: int
    """Byte of the first element."""
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    """Elements between neighbours along each axis; None: C order."""
    big_endian: bool = False

    def __post_init__(self) -> None:
        itemsize = DTYPES[self.dtype].itemsize
        if len(self.shape) > 64 or prod(n for n in self.shape if n) * itemsize >= 2**62:
            raise unreadable(self.file.path, f"it claims a tensor of absurd shape {str(self.shape)[:80]}")
        if 0 in self.shape:
            return
        span = _span(self.shape, self._strides()) * itemsize
        if self.offset < 0 or self.offset + span > self.file.size:
            raise unreadable(
                self.file.path, f"a tensor ends at byte {self.offset + span}, the file at byte {self.file.size}"
            )
        if prod(self.shape) * itemsize > max(span, _EXPANDED_BYTES):
            raise unreadable(
                self.file.path,
                f"an expanded tensor of shape {self.shape} repeats {span} bytes",
                "save it as .contiguous(), or drop it from the state dict",
            )

    def spec(self, name: str) -> TensorSpec:
        """Name, type and shape, as the archive knows them."""
        return TensorSpec(name, self.dtype, self.shape)

    def read_rows(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows ``start`` to ``stop`` along the first axis; into ``out``, C-contiguous of the same kind, if it is given.

        Returns
        -------
        ndarray of shape (stop - start, columns)
            In the archive's storage type; C-contiguous, owned by the caller.

        Raises
        ------
        IndexError, ValueError
            If the range leaves the tensor, or ``out`` is of another kind.
        """
        spec = self.spec("")
        if not 0 <= start <= stop <= spec.rows:
            raise IndexError(f"rows {start}:{stop} of a tensor with {spec.rows} rows")
        storage = np.dtype(DTYPES[self.dtype].storage)
        out = np.empty((stop - start, spec.columns), storage) if out is None else out
        if out.shape != (stop - start, spec.columns) or out.dtype != storage or not out.flags.c_contiguous:
            raise ValueError(f"rows {start}:{stop} do not fit an array {out.shape} of {out.dtype}")
        if out.size:
            bits = out.view(_bits(storage.itemsize)).reshape((stop - start, *self.shape[1:]))
            strides = self._strides() or (1,)
            self._fill(bits, strides, self.offset + start * strides[0] * storage.itemsize)
        if self.big_endian:
            out.byteswap(inplace=True)
        return out

    def _strides(self) -> tuple[int, ...]:
        return contiguous_strides(self.shape) if self.strides is None else self.strides

    def _fill(self, out: NDArray[Any], strides: tuple[int, ...], offset: int) -> None:
        """Fill `out` from the block whose first element stands at byte `offset`."""
        span = _span(out.shape, strides)
        if span == out.size and out.flags.c_contiguous and _is_contiguous(out.shape, strides):
            self.file.read_into(offset, out)
        elif span * out.itemsize <= max(_WINDOW_BYTES, 2 * out.nbytes):
            raw = np.empty(span, out.dtype)
            self.file.read_into(offset, raw)
            steps = tuple(stride * out.itemsize for stride in strides)
            out[...] = np.lib.stride_tricks.as_strided(raw, out.shape, steps, writeable=False)
        else:
            axis = max(range(out.ndim), key=lambda i: (out.shape[i] > 1, strides[i]))
            half = out.shape[axis] // 2
            before, after = np.split(out, [half], axis)
            self._fill(before, strides, offset)
            self._fill(after, strides, offset + half * strides[axis] * out.itemsize)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements between neighbours along each axis of an array in C order."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last one of a non-empty strided block, both counted."""
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=False))


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = contiguous_strides(shape)
    return all(n == 1 or a == b for n, a, b in zip(shape, strides, expected, strict=False))


def _bits(itemsize: int) -> np.dtype[Any]:
    """Type that copies elements of `itemsize` bytes without looking at them (NaN payloads, odd booleans)."""
    return np.dtype(f"u{itemsize}" if itemsize <= 8 else f"V{itemsize}")
