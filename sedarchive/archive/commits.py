"""What the records of a run say: its arrays, and its checkpoints tensor by tensor."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from sedarchive.archive.records import read_sealed, sealed_content
from sedarchive.digests import canonical_digest
from sedarchive.errors import DamagedArchiveError
from sedarchive.history import DTYPES, MOST_ELEMENTS, TensorSpec
from sedarchive.plan.grid import ChunkGrid

RUN_RECORD = "run.json"
MANIFEST = "manifest.json"
COMMITS = "commits"
_RUN = {"name": str, "source": str, "arrays": dict, "config": dict, "findings": list, "metrics": dict}
_MANIFEST = {"files": dict, "chunks": list, "n_commits": int}
_MOST_COMMITS, _MOST_SLABS = 10_000_000, 2**20


@dataclass(frozen=True)
class ArrayInfo:
    """One stored array: a tensor over the steps at which it has this dtype and shape."""

    path: str
    """Folder of the array below the run's ``theta`` group."""
    spec: TensorSpec
    grid: ChunkGrid

    def to_json(self) -> dict[str, Any]:
        return {
            "tensor": self.spec.name,
            "dtype": self.spec.dtype,
            "shape": list(self.spec.shape),
            "steps_per_chunk": self.grid.steps,
            "slab_rows": self.grid.slab_rows,
        }

    @classmethod
    def from_json(cls, path: str, content: Mapping[str, Any]) -> "ArrayInfo":
        check_folder(path)
        spec = TensorSpec(content["tensor"], content["dtype"], tuple(content["shape"]))
        steps, slab_rows = content["steps_per_chunk"], content["slab_rows"]
        naturals = all(type(n) is int and n >= 0 for n in (*spec.shape, steps, slab_rows))
        if not naturals or not steps or not slab_rows or spec.dtype not in DTYPES or _is_absurd(spec, slab_rows):
            raise ValueError(f"an array of no possible shape or type: {path[:80]}")
        return cls(path, spec, ChunkGrid(steps, slab_rows, spec.rows))


def _is_absurd(spec: TensorSpec, slab_rows: int) -> bool:
    """Whether an array claims more elements or chunks than can be gone through."""
    n_elements = prod(length for length in spec.shape if length)
    return n_elements >= MOST_ELEMENTS or (spec.n_elements > 0 and spec.rows // slab_rows > _MOST_SLABS)


class StoredTensor(NamedTuple):
    """What a commit says of one tensor at one step."""

    array: str
    """Path of the array that holds it."""
    digest: str
    """SHA-256 of dtype, shape and little-endian bytes."""
    shared_with: str | None = None
    """Tensor whose storage it shares; its bytes are stored once."""


@dataclass(frozen=True)
class Commit:
    """One committed checkpoint."""

    slot: int
    step: int
    label: str
    digest: str
    """SHA-256 of the sorted (name, digest) pairs."""
    source: Mapping[str, Any]
    """Path below the run's folder, the fingerprint of its files, and the tokens seen where its label tells them."""
    tensors: Mapping[str, StoredTensor]
    nonfinite: Mapping[str, int] | None = None
    """Values that are NaN or infinite, of each stored tensor that has some; None where none were counted."""

    def to_json(self) -> dict[str, Any]:
        tensors = {
            name: [stored.array, stored.digest] + ([stored.shared_with] if stored.shared_with else [])
            for name, stored in self.tensors.items()
        }
        return {
            "slot": self.slot,
            "step": self.step,
            "label": self.label,
            "digest": self.digest,
            "source": dict(self.source),
            "tensors": tensors,
            **({} if self.nonfinite is None else {"nonfinite": dict(self.nonfinite)}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Commit":
        tensors = {name: StoredTensor(*entry) for name, entry in content["tensors"].items()}
        if not all(type(content[name]) is int and 0 <= content[name] < 2**63 for name in ("slot", "step")):
            raise ValueError("slot and step must be whole numbers")
        texts = [content["label"], content["digest"], content["source"]["path"]]
        texts += [part for stored in tensors.values() for part in stored if part is not None]
        if not all(isinstance(text, str) for text in texts) or "fingerprint" not in content["source"]:
            raise TypeError("names and digests must be texts")
        nonfinite = content.get("nonfinite")
        if nonfinite is not None and not all(type(n) is int and n > 0 for n in nonfinite.values()):
            raise ValueError("counts of values must be whole numbers")
        slot, step, label = content["slot"], content["step"], content["label"]
        return cls(slot, step, label, content["digest"], content["source"], tensors, nonfinite)


def latest(commits: Iterable[Commit]) -> tuple[Commit, ...]:
    """Commits that count, in step order: of several of one step the last written, which replaces the others."""
    by_step = {commit.step: commit for commit in sorted(commits, key=lambda commit: commit.slot)}
    return tuple(by_step[step] for step in sorted(by_step))


def tensor_hash(spec: TensorSpec) -> "hashlib._Hash":
    """SHA-256 begun with a tensor's dtype and shape; its little-endian bytes in C order follow."""
    return hashlib.sha256(f"{spec.dtype} {list(spec.shape)}\n".encode())


def checkpoint_digest(tensors: Mapping[str, StoredTensor]) -> str:
    """Digest of a checkpoint: of its sorted (name, digest) pairs."""
    return canonical_digest(sorted((name, stored.digest) for name, stored in tensors.items()))


def check_folder(name: str) -> None:
    """Refuse a name of an array's folder that is more than a name.

    Raises
    ------
    ValueError
        If it leads elsewhere.
    """
    if "/" in name or "\\" in name or name.startswith(".") or not _leads_inside(name):
        raise ValueError(f"no folder of an array: {name[:80]!r}")


def _leads_inside(path: str) -> bool:
    """Whether a path is made of names that a file system takes, and goes down only."""
    parts = path.split("/")
    return all(part not in ("", ".", "..") and "\0" not in part and len(os.fsencode(part)) < 256 for part in parts)


def read_run_record(path: Path) -> dict[str, Any]:
    """Read the record of a run; what it holds is of the kinds that sedarchive writes.

    Raises
    ------
    DamagedArchiveError
        If it fails its digest, or something is missing or of another kind.
    """
    return _of_kinds(path, _RUN)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a run; otherwise as :func:`read_run_record`."""
    manifest = _of_kinds(path, _MANIFEST)
    with sealed_content(path):
        if not all(isinstance(text, str) for text in (*manifest["files"].values(), *manifest["chunks"])):
            raise TypeError("a digest or a chunk is no text")
        if not all(map(_leads_inside, (*manifest["files"], *manifest["chunks"]))):
            raise ValueError("the path of a file leads elsewhere")
        if not 0 <= manifest["n_commits"] <= _MOST_COMMITS:
            raise ValueError("no possible number of commits")
    return manifest


def _of_kinds(path: Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    record = read_sealed(path)
    with sealed_content(path):
        for name, kind in kinds.items():
            if not isinstance(record[name], kind):
                raise TypeError(f"{name} is no {kind.__name__}")
    return record


def read_commit(path: Path) -> Commit:
    """Read one commit record.

    Raises
    ------
    DamagedArchiveError
        If it fails its digest or stands under another slot's name.
    """
    content = read_sealed(path)
    with sealed_content(path):
        commit = Commit.from_json(content)
    if path.stem != f"{commit.slot:06d}":
        raise DamagedArchiveError(f"{path}: the record of slot {commit.slot} stands under another name")
    return commit
