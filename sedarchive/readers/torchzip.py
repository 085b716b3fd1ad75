"""The zip format of ``torch.save`` (PyTorch 1.6 and later): a pickle beside one record per storage.

Stored records are read where they stand. A file that someone compressed is spooled record by record
into a nameless temporary file, which the system deletes when it is closed.
"""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from sedarchive.readers.byteranges import RandomAccessFile
from sedarchive.readers.faults import reading, unreadable
from sedarchive.readers.torchfile import Place, TorchObject
from sedarchive.readers.torchobjects import Storage, TorchPickle
from sedarchive.readers.unpickle import PICKLE_LIMIT, interpret_bytes
from sedarchive.sizes import MIB, format_size

_DIRECTORY_LIMIT = 32 * MIB  # of 300,000 storages, as one that torch writes
_INFLATED_LIMIT = 64 * MIB  # a pickle that someone compressed; torch never does
_EXPANSION, _EXPANSION_FREE = 100, 64 * MIB  # a compressed file may grow this many times, and this much in any case
_LOCAL_HEADER = 30
_OBJECT_LIMIT = MIB
_KNOWN_BYTES, _KNOWN_PICKLES = 4096, 1024
_Built = TypeVar("_Built")


def parse_torchzip(
    file: RandomAccessFile, spool: Path | None, build: Callable[[TorchObject], _Built], known: "Known | None" = None
) -> tuple[_Built, RandomAccessFile | None]:
    """Build something from a zip checkpoint; beside it, the spool file that holds what was compressed.

    Parameters
    ----------
    file
        The file; it stays open, since views of it are built.
    spool
        Folder for the records of a compressed file (the system's temporary folder if None).
    build
        Makes the result from the object of the file, such as
        :func:`sedarchive.readers.torchfile.torch_contents`.
    known
        Pickles that were read before, to be added to; only where nothing that is built changes their object.

    Raises
    ------
    UnreadableCheckpointError
        If the archive is broken, a bomb, TorchScript, or holds no weights.
    UnsafeCheckpointError
        If its pickle names something that runs code.
    """
    with reading(file.path), file.stream() as handle, _directory(file.path, handle) as directory:
        archive = _Archive(file, directory, spool)
        try:
            return build(_parse(file.path, archive, known)), archive.spool
        except BaseException:
            archive.discard_spool()
            raise


def read_object(path: Path) -> Any:
    """Object of a small zip file that holds no weights, as :mod:`sedarchive.readers.unpickle` leaves it.

    Raises
    ------
    UnreadableCheckpointError, UnsafeCheckpointError
        As :func:`parse_torchzip`.
    """
    file = RandomAccessFile(path)
    try:
        with reading(path), file.stream() as handle, _directory(path, handle) as directory:
            archive = _Archive(file, directory, None)
            return interpret_bytes(archive.small("data.pkl", _OBJECT_LIMIT), TorchPickle(path).rules())
    finally:
        file.close()


Known = dict[bytes, tuple[Any, frozenset[str]]]
"""Pickles read before, to their object and its opaque globals: chunks of one shape and type have the same pickle."""


def parse_stored(file: RandomAccessFile, build: Callable[[TorchObject], _Built], known: Known | None = None) -> _Built:
    """Build something from a part of a checkpoint of many files, which must be uncompressed, as torch writes it.

    Parameters
    ----------
    file
        The part.
    build
        Makes the result; it must not change the object.
    known
        Pickles of the parts before, to be added to.

    Raises
    ------
    UnreadableCheckpointError
        If it is broken, not of ``torch.save``, or compressed.
    UnsafeCheckpointError
        If its pickle names something that runs code.
    """
    if file.read_at(0, min(file.size, 4)) != b"PK\x03\x04":
        raise unreadable(file.path, "a part of it is not in the zip format of torch.save, which alone is read here")
    built, spooled = parse_torchzip(file, None, build, known)
    if spooled is not None:
        spooled.close()
        raise unreadable(file.path, "a part of it is compressed, which torch never does", "save it uncompressed")
    return built


def _parse(path: Path, archive: "_Archive", known: Known | None) -> TorchObject:
    data = archive.small("data.pkl", PICKLE_LIMIT)
    if known is not None and data in known:
        root, opaque = known[data]
    else:
        pickled = TorchPickle(path)
        root, opaque = interpret_bytes(data, pickled.rules()), frozenset(pickled.opaque)
    if known is not None and len(data) <= _KNOWN_BYTES and len(known) < _KNOWN_PICKLES:
        known[data] = root, opaque
    big_endian = archive.has("byteorder") and archive.small("byteorder", 16).strip() == b"big"
    return TorchObject(path, root, opaque, archive.locate, big_endian)


def _directory(path: Path, handle: BinaryIO) -> zipfile.ZipFile:
    """Directory of a zip archive, the last thing in the file."""
    try:
        return zipfile.ZipFile(_BoundedReads(handle))
    except zipfile.BadZipFile as error:
        cause = (
            f"the file is cut off or not complete: the directory at the end of its zip archive is not there ({error})"
        )
        raise unreadable(path, cause, "copy or download it again, or leave this checkpoint out") from error


class _BoundedReads:
    """A stream that refuses to read very much at once, as a zip archive with millions of entries would."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _DIRECTORY_LIMIT:
            raise ValueError(f"a part of its zip archive, perhaps its directory, claims {format_size(size)}")
        return self._stream.read(size)


class _SpoolFile(RandomAccessFile):
    """A nameless temporary file that grows; errors name the checkpoint it was unpacked from."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as handle:
            super().__init__(checkpoint, os.dup(handle.fileno()))

    def append(self, data: bytes) -> None:
        """Write all of `data` behind the last byte."""
        while data:
            done = os.pwrite(self._fd, data, self.size)
            self.size, data = self.size + done, data[done:]


class _Archive:
    """Directory of a zip checkpoint, and the places of its records."""

    def __init__(self, file: RandomAccessFile, directory: zipfile.ZipFile, folder: Path | None) -> None:
        self.spool: _SpoolFile | None = None
        self._file = file
        self._folder = folder or Path(tempfile.gettempdir())
        self._zip = directory
        self._spooled: dict[str, int] = {}
        self._records = self._directory()
        self._root = self._find_root()

    def discard_spool(self) -> None:
        if self.spool is not None:
            self.spool.close()

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        entries = self._zip.infolist()
        records = {entry.filename: entry for entry in entries}
        if len(records) != len(entries):
            raise ValueError("the zip directory names a record twice")
        if any(entry.flag_bits & 1 for entry in entries):
            raise ValueError("the zip archive is encrypted")
        if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
            raise ValueError("the zip archive is compressed by another method than deflate")
        total = _unpacked(entries)
        if total > _EXPANSION * self._file.size + _EXPANSION_FREE:
            raise ValueError(f"its records claim to unpack to {format_size(total)}: a zip bomb")
        return records

    def _find_root(self) -> str:
        roots = [name.removesuffix("data.pkl") for name in self._records if name.endswith("/data.pkl")]
        roots = [root for root in roots if root.count("/") == 1]
        if len(roots) != 1:
            raise unreadable(self._file.path, "it is a zip archive but not one of torch.save (no data.pkl)")
        if f"{roots[0]}constants.pkl" in self._records:
            way_out = "load it with torch.jit.load and save its state_dict()"
            raise unreadable(self._file.path, "it is a TorchScript program, not a state dict", way_out)
        return roots[0]

    def has(self, name: str) -> bool:
        return self._root + name in self._records

    def small(self, name: str, limit: int) -> bytes:
        """Read a whole record of at most `limit` bytes."""
        entry = self._records[self._root + name]
        if entry.file_size > limit:
            raise ValueError(f"its record {name} claims {format_size(entry.file_size)}")
        if entry.compress_type == zipfile.ZIP_STORED:
            return self._file.read_at(self._stored_at(entry), entry.file_size)
        if entry.file_size > _INFLATED_LIMIT:
            raise ValueError(f"its record {name} claims to unpack to {format_size(entry.file_size)}: a zip bomb")
        with self._zip.open(entry) as stream:
            data = stream.read(entry.file_size + 1)
        if len(data) != entry.file_size:
            raise ValueError(f"its record {name} has {len(data)} bytes, the directory says {entry.file_size}")
        return data

    def locate(self, storage: Storage) -> Place:
        """Place of a storage's record, spooled first where it is compressed."""
        entry = self._records.get(f"{self._root}data/{storage.key}")
        if entry is None:
            raise ValueError(f"the record of storage {storage.key[:40]!r} is missing")
        needed = storage.start + storage.n_bytes
        if entry.file_size != needed:
            raise ValueError(f"storage {storage.key[:40]!r} has {entry.file_size} bytes instead of {needed}")
        if entry.compress_type == zipfile.ZIP_STORED:
            return self._file, self._stored_at(entry)
        return self._spooled_at(entry)

    def _stored_at(self, entry: zipfile.ZipInfo) -> int:
        """Byte at which a stored record begins, from its own header."""
        header = self._file.read_at(entry.header_offset, _LOCAL_HEADER)
        if header[:4] != b"PK\x03\x04":
            raise ValueError(f"the zip directory points to no record at byte {entry.header_offset}")
        n_name, n_extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        start = entry.header_offset + _LOCAL_HEADER + n_name + n_extra
        if entry.compress_size != entry.file_size or start + entry.file_size > self._file.size:
            raise ValueError(f"the record {entry.filename[:80]!r} ends behind the end of the file")
        return start

    def _spooled_at(self, entry: zipfile.ZipInfo) -> Place:
        spool = self.spool = self.spool or self._open_spool()
        if entry.filename not in self._spooled:
            start = self._spooled[entry.filename] = spool.size
            with self._zip.open(entry) as stream:
                while block := stream.read(MIB):
                    spool.append(block)
            if spool.size - start != entry.file_size:
                raise ValueError(f"the record {entry.filename[:80]!r} is not as long as the directory says")
        return spool, self._spooled[entry.filename]

    def _open_spool(self) -> _SpoolFile:
        total = _unpacked(self._records.values())
        if total > shutil.disk_usage(self._folder).free:
            way_out = f"make room in {self._folder}, or save the checkpoint uncompressed"
            raise unreadable(self._file.path, f"it is compressed and needs {format_size(total)} to unpack", way_out)
        return _SpoolFile(self._file.path, self._folder)


def _unpacked(entries: Iterable[zipfile.ZipInfo]) -> int:
    """Bytes of all compressed records once unpacked, as the directory claims."""
    return sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
