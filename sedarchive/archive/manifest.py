"""The manifest of a run: digests of its metadata files, its derived chunks, the number of its commits.

A writer seals anew only what it wrote itself; everything else keeps the digest
that it had, so that damage is never sealed over.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedarchive.archive.commits import COMMITS, MANIFEST, read_manifest
from sedarchive.archive.records import write_sealed
from sedarchive.errors import DamagedArchiveError

if TYPE_CHECKING:
    from sedarchive.archive.store import CheckedStore

_DERIVED = ("metrics", "gram")


def write_manifest(folder: Path, store: "CheckedStore | None" = None) -> None:
    """Seal one run (nested runs have their own manifest).

    A manifest that is damaged, or missing beside commits, is left for ``verify`` to report.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    store : CheckedStore, optional
        Store that the caller wrote through. Without one all that stands is taken as good: after an interruption,
        when nobody knows any more what the writer had written.
    """
    before = _manifest_before(folder)
    if before is None:
        return
    files: dict[str, str] = {name: before["files"][name] for name in before["files"] if not _is_derived(name)}
    for path in metadata_files(folder):
        name = path.relative_to(folder).as_posix()
        known = before["files"].get(name)
        written = store is None or store.has_written(path)
        files[name] = hashlib.sha256(path.read_bytes()).hexdigest() if known is None or written else known
    n_commits = max(before["n_commits"], sum(1 for _ in (folder / COMMITS).glob("*.json")))
    chunks = sorted({*_derived_chunks(folder), *_still_expected(folder, before["chunks"])})
    write_sealed(folder / MANIFEST, {"files": files, "chunks": chunks, "n_commits": n_commits})


def sealed_chunks(folder: Path) -> frozenset[str]:
    """Derived chunks that the manifest of a run knows; none if there is no good manifest."""
    before = _manifest_before(folder)
    return frozenset() if before is None else frozenset(before["chunks"])


def metadata_files(folder: Path) -> list[Path]:
    """Metadata files of one run: its own group's and those of its arrays."""
    inner = [path for part in ("theta", *_DERIVED) for path in (folder / part).rglob("zarr.json")]
    return sorted([*folder.glob("zarr.json"), *inner])


def _manifest_before(folder: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(folder / MANIFEST)
    except DamagedArchiveError:
        has_commits = any((folder / COMMITS).glob("*.json"))
        return None if has_commits else {"files": {}, "chunks": [], "n_commits": 0}


def _is_derived(name: str) -> bool:
    """Whether a file is of an array that a writer may remove."""
    return name.split("/")[0] in _DERIVED


def _derived_chunks(folder: Path) -> set[str]:
    """Chunk files of the arrays of metrics and Gram matrices."""
    arrays = [path.parent for part in _DERIVED for path in (folder / part).rglob("zarr.json")]
    return {
        path.relative_to(folder).as_posix()
        for array in arrays
        for path in (array / "c").rglob("*")
        if path.is_file() and path.suffix != ".partial"
    }


def _still_expected(folder: Path, chunks: Iterable[str]) -> set[str]:
    """Of the chunks sealed before, those whose array is still there."""
    return {chunk for chunk in chunks if (folder / chunk.split("/c/")[0] / "zarr.json").exists()}
