"""The Zarr side of the archive: opening stores, creating arrays, counting and checking reads.

Written for what zarr 3.1.6 and 3.4 share. Two traps shape it: a missing chunk
reads as the fill value without a word, so :class:`CheckedStore` turns it into an
error; and ``write_empty_chunks`` is not stored, so every handle sets it again.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from sedarchive.errors import ArchiveError, DamagedArchiveError, SedarchiveError

CODECS = ("none", "lz4", "small")
"""``none`` stores bytes; ``lz4`` is Blosc lz4 with bitshuffle; ``small`` is zstd 5 with shuffle."""


@dataclass(frozen=True)
class ChunkReads:
    """Chunks fetched from a store, each one decode, and their stored bytes."""

    chunks: int = 0
    n_bytes: int = 0

    def __sub__(self, earlier: "ChunkReads") -> "ChunkReads":
        return ChunkReads(self.chunks - earlier.chunks, self.n_bytes - earlier.n_bytes)


@dataclass(frozen=True)
class Fetched:
    """What was fetched from a store, wherever: stored bytes, and how often each chunk."""

    fetches: Mapping[str, int]
    n_bytes: int


@dataclass
class ReadCounts:
    """Chunks fetched from a store so far, by key; each fetch is one decode."""

    fetches: dict[str, int] = field(default_factory=dict)
    n_bytes: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def so_far(self) -> ChunkReads:
        """Totals; the difference of two is what was read in between."""
        return ChunkReads(sum(self.fetches.values()), self.n_bytes)

    def add(self, fetched: Fetched) -> None:
        """Count what was fetched."""
        with self._lock:
            for key, times in fetched.fetches.items():
                self.fetches[key] = self.fetches.get(key, 0) + times
            self.n_bytes += fetched.n_bytes

    def take(self) -> Fetched:
        """What was counted so far, to be added elsewhere; counting starts anew."""
        with self._lock:
            taken = Fetched(self.fetches, self.n_bytes)
            self.fetches, self.n_bytes = {}, 0
            return taken


class CheckedStore(WrapperStore[LocalStore]):
    """A local store that counts chunk reads and never lets a missing chunk pass as fill values.

    ``expect_chunks`` is off for writers, which look for chunks before they create them. ``refusal`` is why a store that
    was to be written can only be read; None for any other.
    """

    def __init__(self, store: LocalStore, expect_chunks: bool = True) -> None:
        super().__init__(store)
        self.expect_chunks = expect_chunks
        self.counts = ReadCounts()
        self.refusal: ArchiveError | None = None
        self._written: set[str] = set()

    @property
    def root(self) -> Path:
        """Folder of the archive."""
        return self._store.root

    def _with_store(self, store: LocalStore) -> "CheckedStore":
        other = type(self)(store, self.expect_chunks)
        other.counts, other.refusal, other._written = self.counts, self.refusal, self._written
        return other

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await self._store.get(key, prototype, byte_range)
        if not key.endswith("zarr.json"):
            if found is None and self.expect_chunks:
                raise DamagedArchiveError(f"{self.root}/{key}: the chunk is missing; run `sedarchive verify`")
            if found is not None:
                self.counts.add(Fetched({key: 1}, len(found)))
        return found

    async def set(self, key: str, value: Buffer) -> None:
        self._note_metadata(key)
        await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._note_metadata(key)
        await self._store.set_if_not_exists(key, value)

    def has_written(self, metadata: Path) -> bool:
        """Whether a metadata file was written through this store."""
        return metadata.relative_to(self.root).as_posix() in self._written

    def _note_metadata(self, key: str) -> None:
        if key.endswith("zarr.json"):
            self._written.add(key)


def open_store(path: Path, *, write: bool) -> CheckedStore:
    """Store of the archive at ``path``."""
    return CheckedStore(LocalStore(path, read_only=not write), expect_chunks=not write)


@dataclass(frozen=True)
class ArraySpec:
    """What an array of the archive is made with."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    """Numpy storage type."""
    fill: int | float
    dimension_names: Sequence[str]
    attributes: Mapping[str, Any]
    codec: str = "none"


def create_array(store: CheckedStore, path: str, spec: ArraySpec) -> "zarr.Array[Any]":
    """Create one array; its parent groups must exist."""
    array = zarr.create_array(
        store,
        name=path,
        shape=spec.shape,
        chunks=tuple(max(1, length) for length in spec.chunks),
        dtype=np.dtype(spec.dtype),
        fill_value=spec.fill,
        compressors=_compressors(spec.codec, np.dtype(spec.dtype).itemsize),
        filters=None,
        dimension_names=list(spec.dimension_names),
        attributes=dict(spec.attributes),
    )
    return _keeping_empty_chunks(array)


def _compressors(codec: str, itemsize: int) -> list[Any]:
    """Byte codecs of a stored chunk; the checksum is last, so that it covers what lies on the disk."""
    if codec == "lz4":
        return [BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle", typesize=itemsize), Crc32cCodec()]
    if codec == "small":
        return [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=itemsize), Crc32cCodec()]
    if codec == "none":
        return [Crc32cCodec()]
    raise ArchiveError(f"unknown codec {codec!r}; choose one of {', '.join(CODECS)}")


def make_group(store: CheckedStore, path: str) -> None:
    """Make one group and those above it, unless they stand."""
    parts = path.split("/")
    for length in range(len(parts) + 1):  # from above: zarr leaves requests unawaited where it meets damage there
        group = "/".join(parts[:length])
        if (store.root / group / "zarr.json").exists():
            _check_group(store, group)
        else:
            zarr.create_group(store, path=group, zarr_format=3)


def _check_group(store: CheckedStore, path: str) -> None:
    try:
        zarr.open_group(store, path=path, mode="r", zarr_format=3)
    except Exception as error:  # as for arrays
        name = path or "the archive"
        raise DamagedArchiveError(f"{name}: its metadata cannot be read ({error}); run `sedarchive verify`") from error


def open_array(store: CheckedStore, path: str) -> "zarr.Array[Any]":
    """Open one array for reading or, if the store allows it, writing."""
    try:
        array = zarr.open_array(store, path=path, mode="r" if store.read_only else "r+", zarr_format=3)
    except Exception as error:  # what zarr and its codecs raise at damaged metadata, no list would cover
        raise DamagedArchiveError(
            f"{path}: the array's metadata cannot be read ({error}); run `sedarchive verify`"
        ) from error
    return _keeping_empty_chunks(array)


def _keeping_empty_chunks(array: "zarr.Array[Any]") -> "zarr.Array[Any]":
    return array.with_config({"write_empty_chunks": True})


def read_region(array: "zarr.Array[Any]", region: tuple[slice, ...]) -> NDArray[Any]:
    """Read a region, with checksum failures named as damage."""
    try:
        return np.asarray(array[region])
    except SedarchiveError:
        raise
    except Exception as error:  # of the codecs, too: any kind
        raise DamagedArchiveError(f"{array.path}, {_region_text(region)}: {error}; run `sedarchive verify`") from error


def write_region(array: "zarr.Array[Any]", region: tuple[slice, ...], values: NDArray[Any]) -> None:
    """Write a region; what stands in its chunks beside it stays, unless that is damaged."""
    try:
        array[region] = values
    except (ValueError, RuntimeError) as error:
        raise DamagedArchiveError(f"{array.path}, {_region_text(region)}: {error}; run `sedarchive verify`") from error


def _region_text(region: tuple[slice, ...]) -> str:
    return " x ".join(f"{part.start}:{part.stop}" for part in region) or "all"


def remove_arrays(folder: Path) -> None:
    """Remove arrays, metadata first, so that a half-removed one is no array any more."""
    if folder.exists():
        for metadata in folder.rglob("zarr.json"):
            metadata.unlink()
        shutil.rmtree(folder)
