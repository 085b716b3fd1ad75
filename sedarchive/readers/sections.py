"""Checkpoints of many files or of many parts in one: files opened for each read, and ranges read as files."""

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sedarchive.readers.byteranges import RandomAccessFile
from sedarchive.readers.faults import unreadable


class ReopenedFile(RandomAccessFile):
    """A file that is opened for each read.

    A sharded checkpoint may have more files than a process may hold open, and several are read at a time.

    Raises
    ------
    UnreadableCheckpointError
        If it cannot be opened; on a read, also if it is another file by then.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._mark = self.identity()
        super().close()

    def read_into(self, offset: int, target: NDArray[Any]) -> None:
        file = RandomAccessFile(self.path)
        try:
            if file.identity() != self._mark:
                raise unreadable(self.path, "it has changed since it was opened", "run the same command again")
            file.read_into(offset, target)
        finally:
            file.close()

    def stream(self) -> BinaryIO:
        return io.BufferedReader(_Stream(self))


class FileSection(RandomAccessFile):
    """A range of a file, read as a file of its own; the file belongs to someone else.

    Raises
    ------
    UnreadableCheckpointError
        If the range leaves the file.
    """

    def __init__(self, whole: RandomAccessFile, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > whole.size:
            cause = f"a part of it is said to stand at bytes {start} to {start + length}, it has {whole.size}"
            raise unreadable(whole.path, cause)
        self.path, self.size = whole.path, length
        self._whole, self._start = whole, start

    def read_into(self, offset: int, target: NDArray[Any]) -> None:
        self._whole.read_into(self._start + offset, target)

    def stream(self) -> BinaryIO:
        return io.BufferedReader(_Stream(self))

    def close(self) -> None:
        """Leave the file open: its owner closes it."""


class _Stream(io.RawIOBase):
    """Positioned reads as a stream, for parsers that want one."""

    def __init__(self, file: RandomAccessFile) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start of the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        count = max(0, min(len(view), self._file.size - self._at))
        if count:
            self._file.read_into(self._at, np.frombuffer(view[:count], np.uint8))
            self._at += count
        return count
