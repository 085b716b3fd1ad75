"""One run of an archive, read side: its checkpoints, its tensors, their values.

A step exists when its commit record does. Storage *slots* are in the order of
arrival; everything handed out is in the order of steps.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from math import prod
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.archive.commits import (
    COMMITS,
    RUN_RECORD,
    ArrayInfo,
    Commit,
    check_folder,
    latest,
    read_commit,
    read_run_record,
)
from sedarchive.archive.names import stored_name
from sedarchive.archive.records import sealed_content
from sedarchive.digests import canonical_digest
from sedarchive.errors import ArchiveError, ArchiveNotFoundError, DamagedArchiveError, UnknownNameError
from sedarchive.floats import decode
from sedarchive.history import DTYPES, Finding, Metric, TensorSpec
from sedarchive.words import did_you_mean

if TYPE_CHECKING:
    import zarr

    from sedarchive.archive.plainchunks import ReusedMemory
    from sedarchive.archive.store import CheckedStore

METRIC_CHUNK = 1_024


@dataclass(frozen=True)
class AnalysisTensor:
    """One tensor as analysed: one shape, over the checkpoints that have it.

    A tensor that changes its shape becomes several, ``name``, ``name~1`` ...,
    since updates are never differenced across a change of shape.
    """

    name: str
    tensor: str
    """Name in the checkpoints."""
    arrays: tuple[ArrayInfo, ...]
    """More than one if the dtype changed."""
    positions: tuple[int, ...]
    """Indices of the checkpoints, in step order, at which it exists."""

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.arrays[0].spec.dtype, self.arrays[0].spec.shape)

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(array.spec.dtype for array in self.arrays))


class RunArchive:
    """Committed checkpoints of one run.

    Pickled, it is the way to open it: what it reads lies on a disk that both sides see.

    Parameters
    ----------
    opened : callable
        Gives the store of the archive, once an array is to be read: Zarr takes half a second to import.
    root : Path
        Folder of the archive.
    name : str
        Name of the run; its parts, between ``/``, are nested groups.
    """

    def __init__(self, opened: "Callable[[], CheckedStore]", root: Path, name: str) -> None:
        self._opened = opened
        self.root = root
        self.name = name
        self.group = run_group(name)
        self.folder = root / self.group
        self.record = read_run_record(self.folder / RUN_RECORD)

    @cached_property
    def store(self) -> "CheckedStore":
        """Store of the archive."""
        return self._opened()

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_elsewhere, (str(self.root.absolute()), self.name, self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of its record and its checkpoints: the same for whoever opens the same run."""
        return canonical_digest([self.record, [(commit.slot, commit.step, commit.digest) for commit in self.commits]])

    @cached_property
    def commits(self) -> tuple[Commit, ...]:
        """Commits in step order, without those that a later one of the same step has replaced.

        Raises
        ------
        DamagedArchiveError
            If one fails its digest.
        """
        return latest(self.records)

    @cached_property
    def records(self) -> tuple[Commit, ...]:
        """Every commit, by slot, replaced ones too: their bytes stay where they are; otherwise as :attr:`commits`."""
        found = (read_commit(path) for path in (self.folder / COMMITS).glob("*.json"))
        commits = tuple(sorted(found, key=lambda commit: commit.slot))
        for array in {stored.array for commit in commits for stored in commit.tensors.values()} - self.arrays.keys():
            raise DamagedArchiveError(f"{self.folder / RUN_RECORD}: it lacks the array {array[:80]} of a commit record")
        return commits

    def use_commits(self, commits: Iterable[Commit]) -> None:
        """Go on with all of these commits: for ``verify``, which has found others damaged and checks replaced ones."""
        self.commits = tuple(sorted(commits, key=lambda commit: (commit.step, commit.slot)))

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(commit.step for commit in self.commits)

    @cached_property
    def arrays(self) -> dict[str, ArrayInfo]:
        """Arrays of weights by path."""
        with sealed_content(self.folder / RUN_RECORD):
            return {path: ArrayInfo.from_json(path, content) for path, content in self.record["arrays"].items()}

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.record["config"])

    @property
    def findings(self) -> list[Finding]:
        """What ingest noticed."""
        with sealed_content(self.folder / RUN_RECORD):
            return [Finding(**finding) for finding in self.record["findings"]]

    @cached_property
    def tensors(self) -> dict[str, AnalysisTensor]:
        """Tensors as analysed, in the order of their names."""
        found: dict[str, dict[tuple[int, ...], dict[str, list[int]]]] = {}
        for position, commit in enumerate(self.commits):
            for name, stored in commit.tensors.items():
                shape = self.arrays[stored.array].spec.shape
                found.setdefault(name, {}).setdefault(shape, {}).setdefault(stored.array, []).append(position)
        return {
            tensor.name: tensor
            for name in sorted(found)
            for tensor in (
                AnalysisTensor(
                    name if index == 0 else f"{name}~{index}",
                    name,
                    tuple(self.arrays[path] for path in by_array),
                    tuple(sorted(position for positions in by_array.values() for position in positions)),
                )
                for index, by_array in enumerate(found[name].values())
            )
        }

    def digests(self, tensor: str) -> list[str]:
        """Digest of an analysed tensor at each of its checkpoints."""
        analysed = self.tensor(tensor)
        return [self.commits[position].tensors[analysed.tensor].digest for position in analysed.positions]

    def tensor(self, name: str) -> AnalysisTensor:
        """Tensor of that name.

        Raises
        ------
        UnknownNameError
            If the run has none.
        """
        if name not in self.tensors:
            near = did_you_mean(name, self.tensors)
            raise UnknownNameError(f"run {self.name} has no tensor {name!r}{near}; run.tensors holds their names")
        return self.tensors[name]

    def read(
        self, tensor: str, rows: tuple[int, int], steps: Sequence[int], memory: "ReusedMemory | None" = None
    ) -> NDArray[Any]:
        """Values of rows ``rows[0]:rows[1]`` at the checkpoints ``steps`` (positions in step order).

        Each chunk is decoded once. What was read into the same ``memory`` before may be overwritten.

        Returns
        -------
        ndarray, shape (steps, rows, columns), float32 or float64
            NaN at checkpoints without the tensor.

        Raises
        ------
        UnknownNameError
            If the run has no such tensor, or no checkpoint at one of the positions.
        DamagedArchiveError
            If a chunk is missing or fails its checksum.
        """
        analysed = self.tensor(tensor)
        self._check_positions(steps)
        held = [(info, self._slots(analysed.tensor, info.path, steps)) for info in analysed.arrays]
        held = [(info, slots) for info, slots in held if slots]
        in_order = len(held) == 1 and list(held[0][1].values()) == list(range(len(steps)))
        if in_order and list(held[0][1]) == sorted(held[0][1]):
            info, slots = held[0]
            return decode(self.read_slots(info, rows, list(slots), memory), info.spec.dtype)
        wide = any(info.spec.dtype == "float64" for info in analysed.arrays)
        shape = (len(steps), rows[1] - rows[0], analysed.spec.columns)
        out = np.full(shape, np.nan, dtype=np.float64 if wide else np.float32)
        for info, slots in held:
            ordered = sorted(slots)
            out[[slots[slot] for slot in ordered]] = decode(
                self.read_slots(info, rows, ordered, memory), info.spec.dtype
            )
        return out

    def _check_positions(self, positions: Sequence[int]) -> None:
        n = len(self.commits)
        beyond = [position for position in positions if not -n <= position < n]
        if beyond:
            held = f"0 to {n - 1} (steps {self.steps[0]} to {self.steps[-1]})" if n else "none"
            raise UnknownNameError(
                f"run {self.name}: no checkpoint at position {beyond[0]}; its positions are {held}; "
                "run.steps.index(STEP) is that of a step"
            )

    def _slots(self, tensor: str, array: str, positions: Sequence[int]) -> dict[int, int]:
        """Slot -> index in ``positions`` of the checkpoints that keep ``tensor`` in ``array``."""
        slots = {}
        for index, position in enumerate(positions):
            commit = self.commits[position]
            stored = commit.tensors.get(tensor)
            if stored is not None and stored.array == array:
                slots[commit.slot] = index
        return slots

    def read_slots(
        self, info: ArrayInfo, rows: tuple[int, int], slots: Sequence[int], memory: "ReusedMemory | None" = None
    ) -> NDArray[Any]:
        """Stored values of some rows at sorted ``slots``: (slots, rows, columns) in the storage type."""
        from sedarchive.archive.plainchunks import PlainChunks, ReusedMemory
        from sedarchive.archive.store import read_region

        array = self.open(info.path)
        # a writer's store looks for chunks that may not be there yet
        plain = PlainChunks.of(self.store, array) if self.store.expect_chunks else None
        shape = (rows[1] - rows[0], info.spec.columns)
        out = (memory or ReusedMemory()).array((len(slots), *shape), np.dtype(DTYPES[info.spec.dtype].storage))
        at = 0
        for group in _by_chunk(slots, info.grid.steps):
            part = out[at : at + len(group)]
            if plain:
                plain.read(rows, group, part)
            else:
                span = (slice(group[0], group[-1] + 1), slice(*rows))
                values = read_region(array, span[: array.ndim])
                if values.size != (group[-1] + 1 - group[0]) * prod(shape):  # it ends before these slots
                    raise _misfit(array.path)
                values = values.reshape(group[-1] + 1 - group[0], *shape)
                part[:] = values if len(values) == len(group) else values[np.subtract(group, group[0])]
            at += len(group)
        return out

    def open(self, array: str) -> "zarr.Array[Any]":
        """Zarr array of weights at ``array``."""
        from sedarchive.archive.store import open_array

        handle: zarr.Array[Any] | None = self._handles.get(array)
        if handle is None:
            handle = open_array(self.store, f"{self.group}/theta/{array}")
            if not _fits(handle, self.arrays[array]):
                raise _misfit(handle.path)
            self._handles[array] = handle
        return handle

    def is_compressed(self, info: ArrayInfo) -> bool:
        """Whether an array's chunks go through a codec; no, where that cannot be read."""
        from sedarchive.archive.plainchunks import PlainChunks

        try:
            return PlainChunks.of(self.store, self.open(info.path)) is None
        except DamagedArchiveError:
            return False

    def forget_handles(self) -> None:
        """Open arrays anew from now on: a handle keeps the shape that it saw when it was opened."""
        self._handles.clear()

    @cached_property
    def _handles(self) -> "dict[str, zarr.Array[Any]]":
        return {}

    def metrics(self, names: Collection[str] | None = None) -> list[Metric]:
        """Logged metrics, by name and step: all, or those of some names."""
        found = []
        with sealed_content(self.folder / RUN_RECORD):
            for name, entry in sorted(self.record["metrics"].items()):
                if names is not None and name not in names:
                    continue
                check_folder(entry["path"])
                length = sum(count for _, count in entry["sources"])
                steps, values = (self._series(f"{entry['path']}/{part}", length) for part in ("step", "value"))
                sources = (source for source, count in entry["sources"] for _ in range(count))
                found += [
                    Metric(name, int(step), float(value), source)
                    for step, value, source in zip(steps, values, sources, strict=True)
                ]
        return found

    def _series(self, path: str, length: int) -> NDArray[Any]:
        """Read one array of a metric, which must be as long as the run's record says."""
        from sedarchive.archive.store import open_array, read_region

        array = open_array(self.store, f"{self.group}/metrics/{path}")
        if (array.shape, array.chunks) != ((length,), (METRIC_CHUNK,)):
            raise _misfit(array.path)
        return read_region(array, (slice(None),))


def _fits(array: "zarr.Array[Any]", info: ArrayInfo) -> bool:
    """Whether an array is shaped, cut and typed as the run's record says, whatever its own metadata claim."""
    shape = info.spec.shape
    chunks = (info.grid.steps, *((info.grid.slab_rows, *shape[1:]) if shape else ()))
    cut = tuple(max(1, length) for length in chunks)
    return (array.shape[1:], array.chunks, array.dtype) == (shape, cut, np.dtype(DTYPES[info.spec.dtype].storage))


def _misfit(path: str) -> DamagedArchiveError:
    return DamagedArchiveError(f"{path}: its metadata are not those of the run's record; run `sedarchive verify`")


def _opened_elsewhere(root: str, name: str, fingerprint: str) -> RunArchive:
    """Open a run that another process has opened, perhaps on another machine."""
    from sedarchive.archive.store import open_store

    folder = Path(root)
    if not (folder / "zarr.json").exists():
        raise ArchiveNotFoundError(
            f"{root}: {gethostname()} sees no archive there; workers read it by the same path, so it must lie on a "
            "disk that they share"
        )
    run = RunArchive(partial(open_store, folder, write=False), folder, name)
    if run.fingerprint != fingerprint:
        raise ArchiveError(f"{root}: {gethostname()} sees another history of run {name} there; is it the same disk?")
    return run


def run_group(name: str) -> str:
    """Zarr group of a run: its name, part by part, as safe folder names."""
    return "/".join(stored_name(part) for part in name.split("/"))


def _by_chunk(slots: Iterable[int], steps: int) -> Iterator[list[int]]:
    """Sorted slots, split where the chunk changes, so that each chunk is asked for once."""
    for _, group in groupby(slots, key=lambda slot: slot // steps):
        yield list(group)
