"""The archive: checkpoint histories as plain Zarr v3 directories.

Readable by any Zarr tool; what makes it an archive is that a checkpoint exists
only once its commit record does, and that every byte is under a digest.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedarchive.archive.commits import RUN_RECORD, read_run_record
from sedarchive.archive.lock import refuse_while_written, writer_lock
from sedarchive.archive.manifest import write_manifest
from sedarchive.archive.names import RESERVED
from sedarchive.archive.run import RunArchive
from sedarchive.digests import canonical_digest
from sedarchive.errors import (
    ArchiveError,
    ArchiveNotFoundError,
    ArchiveVersionError,
    DamagedArchiveError,
    UnknownNameError,
    UnwritableArchiveError,
)
from sedarchive.untrusted import load_json
from sedarchive.words import did_you_mean, few_of

if TYPE_CHECKING:
    from sedarchive.archive.store import CheckedStore

FORMAT_VERSION = 1
_ROOT_BYTES = 2**20
"""A root record has some hundred bytes."""

__all__ = ["FORMAT_VERSION", "Archive", "RunArchive"]


class Archive:
    """An archive on a local disk, open for reading.

    What the records tell needs no Zarr, which takes half a second to import: the first array that is opened does.
    """

    def __init__(self, path: Path) -> None:
        """Open the archive at ``path``.

        Raises
        ------
        ArchiveNotFoundError
            If there is none.
        ArchiveVersionError
            If it was written in another format version.
        DamagedArchiveError
            If its root record fails its digest.
        """
        if not (path / "zarr.json").exists():
            raise ArchiveNotFoundError(
                f"{path}: there is no archive here; make one with `sedarchive ingest PATH --archive {path}`"
            )
        self.path = path
        self.archive_id: str = read_root(path)["archive_id"]

    @classmethod
    def create_or_open(cls, path: Path) -> "Archive":
        """Open the archive at ``path``, or make an empty one."""
        if not (path / "zarr.json").exists():
            if path.exists() and (not path.is_dir() or any(inner.suffix != ".partial" for inner in path.iterdir())):
                raise ArchiveNotFoundError(f"{path}: this is something else, not an archive; choose another --archive")
            _make_folder(path)
            content = {"format_version": FORMAT_VERSION, "archive_id": secrets.token_hex(8)}
            attributes = {"sedarchive": {**content, "digest": canonical_digest(content)}}
            _make_root(path, attributes)
        return cls(path)

    @cached_property
    def store(self) -> "CheckedStore":
        """Store of the archive, for reading."""
        from sedarchive.archive.store import open_store

        return open_store(self.path, write=False)

    @cached_property
    def run_names(self) -> tuple[str, ...]:
        """Names of the runs, sorted."""
        return tuple(sorted(read_run_record(record)["name"] for record in _run_records(self.path)))

    def run(self, name: str) -> RunArchive:
        """One run.

        Raises
        ------
        UnknownNameError
            If the archive has no run of that name.
        """
        if name not in self.run_names:
            near = did_you_mean(name, self.run_names)
            raise UnknownNameError(f"{self.path}: no run {name}{near}; it holds {few_of(self.run_names, 20) or 'none'}")
        return RunArchive(lambda: self.store, self.path, name)

    def runs(self) -> list[RunArchive]:
        """Every run, by name."""
        return [self.run(name) for name in self.run_names]

    @contextmanager
    def writing(self, purpose: str) -> "Iterator[CheckedStore]":
        """Hold the writer's lock and hand out a store that may be written.

        Where the folder cannot be written, ``compute`` gets a store to read, whose ``refusal`` says why: what is kept
        there may all stand already.

        Raises
        ------
        ArchiveLockedError
            If another process is writing.
        UnwritableArchiveError
            If the folder cannot be written, for any other purpose.
        """
        from sedarchive.archive.store import open_store

        with ExitStack() as stack:
            try:
                interrupted = stack.enter_context(writer_lock(self.path, purpose))
            except UnwritableArchiveError as error:
                store = self._to_read(purpose, error)
            else:
                remove_partials(self.path)
                if interrupted:
                    self._clear_up()
                store = open_store(self.path, write=True)
            yield store

    def _to_read(self, purpose: str, refusal: UnwritableArchiveError) -> "CheckedStore":
        from sedarchive.archive.store import open_store

        if purpose != "compute":
            raise refusal
        refuse_while_written(self.path)
        store = open_store(self.path, write=False)
        store.refusal = refusal
        return store

    def _clear_up(self) -> None:
        """Remove and seal what an interrupted writer left in any run; runs that are damaged stay as they are."""
        from sedarchive.archive.store import open_store
        from sedarchive.archive.writer import RunWriter

        for record in _run_records(self.path):
            with suppress(ArchiveError):
                RunWriter(open_store(self.path, write=True), self.path, read_run_record(record)["name"], "").clear_up()
                write_manifest(record.parent)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ArchiveError(
            f"{path}: no archive can be made here ({error.strerror}); name another place with --archive"
        ) from error


def _make_root(path: Path, attributes: dict[str, Any]) -> None:
    import zarr

    from sedarchive.archive.store import open_store

    zarr.create_group(open_store(path, write=True), attributes=attributes, zarr_format=3)


def _run_records(folder: Path) -> Iterator[Path]:
    """Run records below a folder, without walking through the weights."""
    for inner in folder.iterdir():
        if inner.is_dir() and inner.name not in RESERVED:
            if (inner / RUN_RECORD).exists():
                yield inner / RUN_RECORD
            yield from _run_records(inner)


def read_root(path: Path) -> dict[str, Any]:
    """Root attributes, checked."""
    try:
        with (path / "zarr.json").open("rb") as file:
            group = load_json(file.read(_ROOT_BYTES))
        if (group["zarr_format"], group["node_type"]) != (3, "group"):
            raise ValueError("no group of Zarr 3")
        attributes = dict(group["attributes"]["sedarchive"])
        digest, version, archive_id = attributes.pop("digest"), attributes["format_version"], attributes["archive_id"]
        expected = canonical_digest(attributes)
        if not isinstance(archive_id, str):
            raise TypeError("its identity is no text")
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedArchiveError(f"{path}/zarr.json: not the root of an archive ({error!r})") from error
    if digest != expected:
        raise DamagedArchiveError(f"{path}/zarr.json: the root record fails its digest")
    if version != FORMAT_VERSION:
        raise ArchiveVersionError(
            f"{path}: format version {version}; this sedarchive reads {FORMAT_VERSION}; "
            "use the version that wrote it, or ingest again"
        )
    return attributes


def remove_partials(path: Path) -> None:
    """Remove files that a killed writer left half-written; the caller holds the lock."""
    for partial in path.rglob("*.partial"):
        partial.unlink(missing_ok=True)
