"""Verify: every byte of an archive against its digests, and every file against what should be there.

Works on the path, not on an open archive, so that a damaged root is reported
like any other damage. Nothing is repaired; what is damaged is written down.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil
from pathlib import Path

from sedarchive.archive import Archive
from sedarchive.archive.commits import (
    COMMITS,
    MANIFEST,
    RUN_RECORD,
    ArrayInfo,
    read_commit,
    read_manifest,
    read_run_record,
    tensor_hash,
)
from sedarchive.archive.damage import DAMAGE_RECORD, Damage, keep_damage
from sedarchive.archive.lock import LOCK_NAME, refuse_while_written, was_interrupted
from sedarchive.archive.manifest import metadata_files
from sedarchive.archive.run import RunArchive
from sedarchive.archive.store import CheckedStore, open_array, open_store, read_region
from sedarchive.archive.writer import STEP_CHUNK
from sedarchive.errors import ArchiveError, DamagedArchiveError
from sedarchive.history import Finding

_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}


def verify(archive: Path) -> list[Finding]:
    """Check every file of an archive, and record what is damaged, for the audit to tell.

    Returns
    -------
    list of Finding
        Severity ``error`` for damage, ``info`` for leftovers of an interrupted writer. Empty if all is well.

    Raises
    ------
    ArchiveLockedError
        If a writer is at work: what it has half written cannot be told from damage.
    """
    refuse_while_written(archive)
    interrupted = was_interrupted(archive)
    found = list(_damages(archive))
    keep_damage(archive, [damage for damage in found if not (damage.leftover and interrupted)])
    findings = [
        Finding(
            "leftover" if damage.leftover and interrupted else "damage",
            "info" if damage.leftover and interrupted else "error",
            f"{damage.path}: {damage.cause}",
        )
        for damage in found
    ]
    if interrupted:
        detail = f"{archive / LOCK_NAME}: a writer was interrupted; the same command again completes its work"
        findings.append(Finding("interrupted", "info", detail))
    return findings


def _damages(archive: Path) -> Iterator[Damage]:
    store = open_store(archive, write=False)
    yield from _check_root(archive)
    folders = _run_folders(archive)
    for folder in folders:
        try:
            yield from _check_run(store, archive, folder)
        except ArchiveError as error:
            yield Damage(folder, _told(error))
    yield from _check_strangers(archive, folders)


def _check_root(archive: Path) -> Iterator[Damage]:
    """Check the root's metadata file: exactly what was written, but for its digested attributes."""
    path = archive / "zarr.json"
    try:
        content = json.loads(path.read_bytes())
        Archive(archive)
    except (OSError, ValueError, ArchiveError) as error:
        yield Damage(path, f"not the root of an archive ({error})")
        return
    content.get("attributes", {}).pop("sedarchive", None)
    if content != _GROUP:
        yield Damage(path, "holds more than the root of an archive")


def _run_folders(archive: Path) -> list[Path]:
    """Folders that are or were runs, by any of the files that make one."""
    marks = (RUN_RECORD, MANIFEST, COMMITS)
    found = {path.parent.relative_to(archive) for mark in marks for path in archive.rglob(mark)}
    return sorted(archive / folder for folder in found if "theta" not in folder.parts)


def _check_run(store: CheckedStore, archive: Path, folder: Path) -> Iterator[Damage]:
    misled = list(_check_manifest(folder))
    yield from misled
    record = read_run_record(folder / RUN_RECORD)
    run = RunArchive(lambda: store, archive, record["name"])
    yield from _check_commits(run)
    expected = {folder / chunk for chunk in [*_theta_chunks(run), *_sealed_chunks(folder)]}
    yield from (Damage(path, "the chunk is missing") for path in sorted(expected) if not path.exists())
    plain = [path.parent for part in ("metrics", "gram") for path in sorted((folder / part).rglob("zarr.json"))]
    sound = {folder / "theta" / "step", *plain} - {damage.path.parent for damage in misled}
    for array_folder in sorted(sound):
        yield from _check_plain(store, archive, array_folder)
    if folder / "theta" / "step" in sound:
        yield from _check_step_coordinate(run)
    for info in run.arrays.values():
        yield from _check_weights(run, info)
    present = {path for part in ("theta", "metrics", "gram") for path in (folder / part).rglob("*") if path.is_file()}
    strangers = present - expected - set(metadata_files(folder))
    yield from (Damage(path, "the file belongs to nothing in the archive", leftover=True) for path in sorted(strangers))


def _check_strangers(archive: Path, folders: Sequence[Path]) -> Iterator[Damage]:
    """Check what lies beside the runs: plain groups on the way to them, and nothing else."""
    groups = {parent for folder in folders for parent in folder.parents if archive in parent.parents} - set(folders)
    for group in sorted(groups):
        try:
            content = json.loads((group / "zarr.json").read_bytes())
        except (OSError, ValueError) as error:
            content = error
        if content != _GROUP:
            yield Damage(group / "zarr.json", "not the metadata of a plain group")
    own = {archive / "zarr.json", archive / LOCK_NAME, archive / DAMAGE_RECORD} | {
        group / "zarr.json" for group in groups
    }
    for folder in [archive, *groups]:
        strangers = {path for path in folder.iterdir() if path.is_file()} - own
        yield from (Damage(path, "the file belongs to nothing in the archive", leftover=True) for path in strangers)
    for folder in folders:
        known = {folder / name for name in ("zarr.json", RUN_RECORD, MANIFEST)}
        strangers = {path for path in folder.iterdir() if path.is_file()} - known
        yield from (Damage(path, "the file belongs to nothing in the archive", leftover=True) for path in strangers)


def _check_manifest(folder: Path) -> Iterator[Damage]:
    """Metadata files against their digests, none missing, none unknown; commits against their number."""
    try:
        manifest = read_manifest(folder / MANIFEST)
    except DamagedArchiveError as error:
        yield Damage(folder / MANIFEST, _told(error), leftover=not any((folder / COMMITS).glob("*.json")))
        return
    present = {path.relative_to(folder).as_posix(): path for path in metadata_files(folder)}
    for name, digest in manifest["files"].items():
        if name not in present:
            yield Damage(folder / name, "the metadata file is missing", leftover=name.startswith(("gram/", "metrics/")))
        elif hashlib.sha256(present[name].read_bytes()).hexdigest() != digest:
            yield Damage(folder / name, "the metadata file fails its digest", leftover=True)
    yield from (
        Damage(present[name], "unknown metadata file", leftover=True)
        for name in present.keys() - manifest["files"].keys()
    )
    slots = sorted(int(path.stem) for path in (folder / COMMITS).glob("*.json") if path.stem.isdigit())
    missing = set(range(max(manifest["n_commits"], slots[-1] + 1 if slots else 0))) - set(slots)
    yield from (Damage(folder / COMMITS / f"{slot:06d}.json", "the commit is missing") for slot in sorted(missing))


def _check_commits(run: RunArchive) -> Iterator[Damage]:
    """Commit records against their own digests; readable ones stay usable for the rest of the check."""
    good = []
    for path in sorted((run.folder / COMMITS).glob("*")):
        try:
            good.append(read_commit(path))
        except (DamagedArchiveError, KeyError, TypeError) as error:
            yield Damage(path, _told(error), leftover=path.suffix == ".partial")
    run.use_commits(good)


def _theta_chunks(run: RunArchive) -> Iterator[str]:
    """Chunk files of weights and steps that hold a committed checkpoint."""
    for chunk in sorted({commit.slot // STEP_CHUNK for commit in run.commits}):
        yield f"theta/step/c/{chunk}"
    for info in run.arrays.values():
        if info.spec.n_elements:
            groups = sorted({slot // info.grid.steps for slot, _ in _stored_slots(run, info)})
            axes = [range(ceil(info.spec.rows / info.grid.slab_rows)), *[range(1)] * (len(info.spec.shape) - 1)]
            for index in product(groups, *axes[: len(info.spec.shape)]):
                yield "/".join(("theta", info.path, "c", *map(str, index)))


def _sealed_chunks(folder: Path) -> Iterator[str]:
    """Chunk files of metrics and Gram matrices that the manifest names, of arrays that are there."""
    try:
        chunks = read_manifest(folder / MANIFEST)["chunks"]
    except DamagedArchiveError:
        return  # reported with the manifest
    yield from (chunk for chunk in chunks if (folder / chunk.split("/c/")[0] / "zarr.json").exists())


def _stored_slots(run: RunArchive, info: ArrayInfo) -> list[tuple[int, str]]:
    """(slot, digest) of the commits that keep their tensor in this array."""
    return sorted(
        (commit.slot, stored.digest)
        for commit in run.commits
        for stored in commit.tensors.values()
        if stored.array == info.path and stored.shared_with is None
    )


def _check_plain(store: CheckedStore, archive: Path, folder: Path) -> Iterator[Damage]:
    """Read every chunk that a small array has, so that every checksum is checked."""
    chunks = sorted(int(path.name) for path in (folder / "c").glob("*") if path.name.isdigit())
    if not chunks:
        return
    try:
        array = open_array(store, folder.relative_to(archive).as_posix())
    except ArchiveError as error:
        yield Damage(folder, _told(error))
        return
    for index in chunks:
        try:
            read_region(array, (slice(index * array.chunks[0], (index + 1) * array.chunks[0]),))
        except DamagedArchiveError as error:
            yield Damage(folder, _told(error))


def _check_step_coordinate(run: RunArchive) -> Iterator[Damage]:
    try:
        steps = read_region(open_array(run.store, f"{run.group}/theta/step"), (slice(None),))
    except ArchiveError:
        return  # reported with the other small arrays
    for commit in run.commits:
        if commit.slot >= len(steps) or steps[commit.slot] != commit.step:
            yield Damage(run.folder / "theta" / "step", f"slot {commit.slot} is not step {commit.step} of its commit")


def _check_weights(run: RunArchive, info: ArrayInfo) -> Iterator[Damage]:
    """Weights against the digest of each committed tensor, chunk by chunk."""
    stored = _stored_slots(run, info)
    groups: dict[int, list[tuple[int, str]]] = {}
    for slot, digest in stored:
        groups.setdefault(slot // info.grid.steps, []).append((slot, digest))
    for members in groups.values():
        try:
            yield from _check_chunk_row(run, info, members)
        except ArchiveError as error:
            yield Damage(run.folder / "theta" / info.path, f"tensor {info.spec.name}: {error}")


def _check_chunk_row(run: RunArchive, info: ArrayInfo, members: Sequence[tuple[int, str]]) -> Iterator[Damage]:
    hashes = [tensor_hash(info.spec) for _ in members]
    slots = [slot for slot, _ in members]
    for rows in info.grid.slabs():
        for digest, values in zip(hashes, run.read_slots(info, rows, slots), strict=True):
            digest.update(values.data)
    for (slot, expected), digest in zip(members, hashes, strict=True):
        if digest.hexdigest() != expected:
            yield Damage(run.folder / "theta" / info.path, f"tensor {info.spec.name}, slot {slot}: fails its digest")


def _told(error: Exception) -> str:
    """Message of an error, less its advice to do what is being done."""
    return str(error).removesuffix("; run `sedarchive verify`")
