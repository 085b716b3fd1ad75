"""Restore: one archived checkpoint back to a safetensors file, bit-exact.

True names, ties (written out, and named in the header), buffers and integers
are in it; optimizer state never was in the archive.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sedarchive.archive import RunArchive
from sedarchive.archive.commits import Commit, tensor_hash
from sedarchive.archive.names import stored_name
from sedarchive.errors import (
    ArchiveError,
    DamagedArchiveError,
    NothingMatchedError,
    SedarchiveError,
    UnknownNameError,
)
from sedarchive.history import TensorSpec

SAFETENSORS_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}


@dataclass(frozen=True)
class Restored:
    """One file written."""

    run: str
    step: int
    path: str
    digest: str
    """Of the checkpoint."""


def restore_steps(run: RunArchive, steps: Sequence[int], folder: Path, replace: bool = False) -> Iterator[Restored]:
    """Write the checkpoints of some steps to ``folder``, each to ``RUN/step_00000100.safetensors``.

    All is checked before the first is written. ``folder`` can be ingested again, and gives a run of the same name.

    Parameters
    ----------
    run : RunArchive
        The run.
    steps : sequence of int
        Steps of it; a repeated one is written once.
    folder : Path
        Made where it is missing.
    replace : bool
        Whether files that exist are replaced.

    Yields
    ------
    Restored
        As soon as a file is complete.

    Raises
    ------
    NothingMatchedError
        If the run has no checkpoints.
    UnknownNameError
        If it has no such step.
    SedarchiveError
        If a file exists and may not be replaced.
    DamagedArchiveError
        As :func:`restore`.
    """
    if not run.commits:
        raise NothingMatchedError(f"run {run.name} has no checkpoints; `sedarchive ingest` says why")
    own = folder / _folder(run.name)
    targets = {step: own / f"step_{commit_of(run, step).step:08d}.safetensors" for step in steps}
    existing = [] if replace else [target for target in targets.values() if target.exists()]
    if existing:
        more = f", and {len(existing) - 1} more of {len(targets)}" if existing[1:] else ""
        raise SedarchiveError(f"{existing[0]} exists{more}; nothing was written; choose another --to, or add --force")
    for step, target in targets.items():
        yield Restored(run.name, step, str(target), restore(run, step, target).digest)


def _folder(run: str) -> Path:
    """Folder of a run below another: its name, part by part, where that is safe."""
    return Path(*(part if _is_plain(part) else stored_name(part) for part in run.split("/")))


def _is_plain(part: str) -> bool:
    """Whether a part of a name, which may come from an archive of others, is that of a folder and leads nowhere."""
    return part.isprintable() and not part.startswith(".") and "\\" not in part and 0 < len(part.encode()) < 200


def restore(run: RunArchive, step: int, target: Path) -> Commit:
    """Write the checkpoint of ``step`` to ``target``, replacing it at once when it is complete and checked.

    Raises
    ------
    UnknownNameError
        If the run has no such step.
    DamagedArchiveError
        If a restored tensor fails its digest; ``target`` is not touched then.
    """
    commit = commit_of(run, step)
    with replacing(target) as file:
        _write(run, commit, file)
    return commit


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Hand out a file that becomes ``target`` at once when all is written, and is gone if anything fails."""
    partial = target.with_name(target.name + ".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def commit_of(run: RunArchive, step: int) -> Commit:
    """Record of the checkpoint of a step.

    Raises
    ------
    UnknownNameError
        If the run has no such step.
    """
    commit = next((commit for commit in run.commits if commit.step == step), None)
    if commit is None:
        near = sorted(run.steps, key=lambda other: abs(other - step))[:3]
        raise UnknownNameError(f"run {run.name} has no step {step}; the nearest are {', '.join(map(str, near))}")
    return commit


def _write(run: RunArchive, commit: Commit, file: IO[bytes]) -> None:
    names = sorted(commit.tensors)
    file.write(safetensors_header({name: spec_of(run, commit, name) for name in names}, _metadata(commit)))
    for name in names:
        for data in tensor_data(run, commit, name):
            file.write(data)


def spec_of(run: RunArchive, commit: Commit, name: str) -> TensorSpec:
    """Type and shape of a tensor at a checkpoint that has it."""
    return run.arrays[commit.tensors[name].array].spec


def tensor_data(run: RunArchive, commit: Commit, name: str) -> Iterator[memoryview]:
    """Stored elements of a tensor, slab by slab.

    Raises
    ------
    DamagedArchiveError
        After the last one, if they fail their digest.
    """
    info = run.arrays[commit.tensors[name].array]
    digest = tensor_hash(info.spec)
    for rows in info.grid.slabs():
        data = run.read_slots(info, rows, [commit.slot]).data
        digest.update(data)
        yield data
    if digest.hexdigest() != commit.tensors[name].digest:
        raise DamagedArchiveError(
            f"run {run.name}, step {commit.step}, tensor {name}: the restored bytes fail the digest; "
            "run `sedarchive verify`"
        )


def safetensors_header(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """What a safetensors file begins with: the length of its header, and the header.

    Parameters
    ----------
    specs
        Name in the file to type and shape, in the order of the data.
    metadata
        Texts for readers of the file.

    Raises
    ------
    ArchiveError
        If safetensors has no such type.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, spec in specs.items():
        code = SAFETENSORS_CODES.get(spec.dtype)
        if code is None:
            raise ArchiveError(f"tensor {name}: safetensors has no {spec.dtype}; read the array from the archive")
        end = offset + spec.nbytes
        entries[name] = {"dtype": code, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data start on eight bytes, as safetensors itself writes them
    return len(text).to_bytes(8, "little") + text


def _metadata(commit: Commit) -> dict[str, str]:
    ties = {name: stored.shared_with for name, stored in commit.tensors.items() if stored.shared_with}
    return {"step": str(commit.step), "format": "pt"} | ({"ties": json.dumps(ties)} if ties else {})
