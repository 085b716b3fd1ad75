"""One run of an archive, write side: arrays, chunks, commits, manifest.

The order of writes is the promise. Arrays are made and resized first, and the
manifest sealed over their metadata; then chunks; then a sync; then one commit
record a checkpoint. What a crash leaves before its commit is invisible and is
overwritten by the next ingest.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from sedarchive.archive.commits import COMMITS, RUN_RECORD, ArrayInfo, Commit
from sedarchive.archive.manifest import write_manifest
from sedarchive.archive.names import stored_name
from sedarchive.archive.plainchunks import PlainChunks
from sedarchive.archive.records import write_sealed
from sedarchive.archive.run import METRIC_CHUNK, RunArchive, run_group
from sedarchive.archive.store import (
    ArraySpec,
    CheckedStore,
    create_array,
    make_group,
    open_array,
    open_store,
    remove_arrays,
    write_region,
)
from sedarchive.errors import DamagedArchiveError
from sedarchive.history import DTYPES, Finding, Metric, TensorSpec
from sedarchive.plan.grid import ChunkGrid, ChunkSteps, chunk_grid

STEP_CHUNK = 1_024


class RunWriter:
    """Writes checkpoints into one run; the caller holds the archive's writer lock.

    Parameters
    ----------
    store : CheckedStore
        Store of the archive, opened for writing.
    root : Path
        Folder of the archive.
    name : str
        Name of the run; it is created if it is new.
    source : str
        Folder that the checkpoints come from.
    """

    def __init__(self, store: CheckedStore, root: Path, name: str, source: str) -> None:
        self._store, self._group = store, run_group(name)
        self.folder = root / self._group
        if not (self.folder / RUN_RECORD).exists():
            self._create(name, source)
        self._run = RunArchive(partial(open_store, root, write=False), root, name)  # a missing chunk is an error there
        self._record = self._run.record
        self._handles: dict[str, zarr.Array[Any]] = {}
        self._steps: dict[int, int] = {}
        self._kept: dict[str, set[int]] = {}
        for commit in self._run.records:
            self._note(commit)
        self._begun: set[Path] = set()

    def _create(self, name: str, source: str) -> None:
        for inner in ("theta", "metrics", "gram"):
            make_group(self._store, f"{self._group}/{inner}")
        step = ArraySpec((0,), (STEP_CHUNK,), "<i8", -1, ["step"], {"description": "optimizer step of each slot"})
        if not (self.folder / "theta" / "step" / "zarr.json").exists():
            create_array(self._store, f"{self._group}/theta/step", step)
        empty: dict[str, Any] = {"arrays": {}, "config": {}, "findings": [], "metrics": {}}
        write_sealed(self.folder / RUN_RECORD, {"name": name, "source": source, **empty})
        self.seal()

    @property
    def commits(self) -> tuple[Commit, ...]:
        """What stood committed when the writer was opened, in step order."""
        return self._run.commits

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """Arrays of weights by path."""
        return self._run.arrays

    @property
    def next_slot(self) -> int:
        """First free slot.

        Raises
        ------
        DamagedArchiveError
            If a commit record is missing before the last one: its slot must not be given away.
        """
        for slot in range(len(self._steps)):
            if slot not in self._steps:
                path = self.folder / COMMITS / f"{slot:06d}.json"
                raise DamagedArchiveError(f"{path}: the commit record is missing; run `sedarchive verify`")
        return len(self._steps)

    def _note(self, commit: Commit) -> None:
        """Remember what a commit keeps where."""
        self._steps[commit.slot] = commit.step
        for stored in commit.tensors.values():
            self._kept.setdefault(stored.array, set()).add(commit.slot)

    @property
    def source(self) -> str:
        """Folder that the run was first ingested from."""
        return str(self._record["source"])

    @property
    def config(self) -> dict[str, Any]:
        """Config that is recorded so far."""
        return dict(self._record["config"])

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of all checkpoints, those written by this writer too, in order."""
        return tuple(sorted(set(self._steps.values())))

    @property
    def findings(self) -> list[Finding]:
        """What earlier ingests noticed, as far as it stood after the last one."""
        return self._run.findings

    def metrics(self) -> list[Metric]:
        """Logged metrics that are recorded so far."""
        return self._run.metrics()

    def describe(self, config: Mapping[str, Any], findings: Iterable[Finding]) -> None:
        """Record the config, and all findings that stand: they take the place of those before."""
        self._record["findings"] = [asdict(finding) for finding in dict.fromkeys(findings)]
        self._record["config"] = dict(config) or self._record["config"]
        self._write_record()

    def _write_record(self) -> None:
        write_sealed(self.folder / RUN_RECORD, self._record)

    def make_arrays(
        self, specs: Iterable[TensorSpec], n_slots: int, steps: ChunkSteps, codec: str
    ) -> dict[TensorSpec, ArrayInfo]:
        """Array for each tensor as it is shaped and typed now, with room for ``n_slots`` checkpoints."""
        self._begun.clear()
        known = {info.spec: info for info in self._run.arrays.values()}
        taken = {info.path for info in known.values()}
        new: list[ArrayInfo] = []
        for spec in specs:
            if spec not in known:
                path = _free_path(stored_name(spec.name), taken)
                known[spec] = ArrayInfo(path, spec, _grid(spec, known.values(), steps))
                taken.add(path)
                new.append(known[spec])
        self._make_and_grow(known.values(), new, n_slots, codec)
        return known

    def _make_and_grow(self, arrays: Iterable[ArrayInfo], new: Sequence[ArrayInfo], n_slots: int, codec: str) -> None:
        """Arrays are listed before they are made and sealed after, so that a crash leaves nothing unknown."""
        self._record["arrays"].update({info.path: info.to_json() for info in new})
        self._run.arrays.update({info.path: info for info in new})
        self._write_record()
        for info in arrays:
            path = f"{self._group}/theta/{info.path}"
            if (metadata := self.folder / "theta" / info.path / "zarr.json").exists():
                self._handles[info.path] = _grown(open_array(self._store, path), n_slots)
            elif self._kept.get(info.path):
                raise DamagedArchiveError(f"{metadata}: the array's metadata are missing; run `sedarchive verify`")
            else:
                self._handles[info.path] = create_array(self._store, path, _array_spec(info, n_slots, codec))
        _grown(open_array(self._store, f"{self._group}/theta/step"), n_slots)
        self._run.forget_handles()
        self.seal()

    def write(self, info: ArrayInfo, slots: tuple[int, int], rows: tuple[int, int], block: NDArray[Any]) -> None:
        """Write a block ``(slots, rows, columns)``: all of a chunk's new slots at once.

        Committed steps in a partly filled chunk are read, checked and written again with it.
        """
        array = self._handles[info.path]
        plain = PlainChunks.of(self._store, array)
        for first, last in info.grid.step_groups(slots):
            fresh = self._begin_chunk(info, first // info.grid.steps, rows)
            part = block[first - slots[0] : last - slots[0]]
            if plain is None or not plain.write((first, last), rows, part, fresh=fresh):
                region = (slice(first, last), slice(*rows))[: array.ndim]
                shape = (rows[1] - rows[0], *info.spec.shape[1:]) if info.spec.shape else ()
                write_region(array, region, part.reshape(last - first, *shape))

    def _begin_chunk(self, info: ArrayInfo, group: int, rows: tuple[int, int]) -> bool:
        """Before a chunk is first written to: check what is committed in it, remove what is not.

        Returns whether it holds nothing.

        A chunk that is missing or damaged must not be completed with fill values under a new checksum.
        """
        parts = (group, rows[0] // info.grid.slab_rows, *[0] * (len(info.spec.shape) - 1))[: 1 + len(info.spec.shape)]
        path = (self.folder / "theta" / info.path / "c").joinpath(*map(str, parts))
        if path in self._begun:
            return False
        self._begun.add(path)
        first = group * info.grid.steps
        slots = self._kept.get(info.path, set()).intersection(range(first, first + info.grid.steps))
        if slots:
            self._run.read_slots(info, rows, [min(slots)])
        else:
            path.unlink(missing_ok=True)
        return not slots

    def commit(self, commits: Sequence[Commit]) -> None:
        """Make checkpoints exist: steps, sync, one record each."""
        for entry in commits:
            self._note(entry)
        steps = np.array([self._steps[slot] for slot in sorted(self._steps)], dtype="<i8")
        write_region(open_array(self._store, f"{self._group}/theta/step"), (slice(0, len(steps)),), steps)
        os.sync()  # every chunk must be on the disk before a record speaks of it
        for entry in commits:
            write_sealed(self.folder / COMMITS / f"{entry.slot:06d}.json", entry.to_json())
        self.seal()

    def write_metrics(self, metrics: Sequence[Metric]) -> None:
        """Store logged metrics, new over old; a log that is gone takes nothing with it."""
        known = self._run.metrics()
        before, merged = _by_name(known), _by_name([*known, *metrics])
        for name, series in merged.items():
            if series != before.get(name):
                self._record["metrics"][name] = {"path": self._new_path(name), "sources": _run_lengths(series)}
                self._write_series(self._record["metrics"][name]["path"], series)
        self._write_record()
        self._remove_unnamed_series()
        self.seal()

    def _new_path(self, name: str) -> str:
        """Folder for a changed series: never the one that stands, which the record names until the new one is whole."""
        path = stored_name(name)
        taken = self._record["metrics"].get(name, {}).get("path")
        path = f"{path}~1" if taken == path else path
        remove_arrays(self.folder / "metrics" / path)
        return path

    def _remove_unnamed_series(self) -> None:
        named = {entry["path"] for entry in self._record["metrics"].values()}
        for folder in (self.folder / "metrics").iterdir():
            if folder.is_dir() and folder.name not in named:
                remove_arrays(folder)

    def _write_series(self, path: str, series: Sequence[Metric]) -> None:
        make_group(self._store, f"{self._group}/metrics/{path}")
        steps = np.array([metric.step for metric in series], dtype="<i8")
        values = np.array([metric.value for metric in series], dtype="<f8")
        for part, column, fill in (("step", steps, -1), ("value", values, float("nan"))):
            full = f"{self._group}/metrics/{path}/{part}"
            spec = ArraySpec((len(series),), (METRIC_CHUNK,), column.dtype.str, fill, ["step"], {})
            write_region(create_array(self._store, full, spec), (slice(None),), column)

    def seal(self) -> None:
        """Bring the run's manifest up to date with what was written through this writer's store."""
        write_manifest(self.folder, self._store)

    def clear_up(self) -> None:
        """Remove chunks and series that no record speaks of, left by an interrupted writer or a refused checkpoint."""
        for info in self._run.arrays.values():
            used = {str(slot // info.grid.steps) for slot in self._kept.get(info.path, ())}
            for group in (self.folder / "theta" / info.path / "c").glob("*"):
                if group.name not in used:
                    shutil.rmtree(group) if group.is_dir() else group.unlink()
        self._remove_unnamed_series()


def _grid(spec: TensorSpec, known: Iterable[ArrayInfo], steps: ChunkSteps) -> ChunkGrid:
    """Chunks of a new array; where only the dtype changed those of the last, or a sweep would decode some twice."""
    before = (info.grid for info in known if (info.spec.name, info.spec.shape) == (spec.name, spec.shape))
    return next(before, None) or chunk_grid(spec.rows, spec.row_bytes, steps)


def _free_path(base: str, taken: set[str]) -> str:
    """The name itself for a tensor's first array, ``name~1`` ... once its dtype or shape has changed."""
    segment = 0
    while (path := f"{base}~{segment}" if segment else base) in taken:
        segment += 1
    return path


def _array_spec(info: ArrayInfo, n_slots: int, codec: str) -> ArraySpec:
    dtype = DTYPES[info.spec.dtype]
    attributes = {"tensor": info.spec.name, "dtype": info.spec.dtype}
    if dtype.is_bits:
        attributes["encoding"] = "bits"
    inner = [f"axis{axis}_{length}" for axis, length in enumerate(info.spec.shape)]
    return ArraySpec(
        (n_slots, *info.spec.shape),
        (info.grid.steps, *((info.grid.slab_rows, *info.spec.shape[1:]) if info.spec.shape else ())),
        dtype.storage,
        dtype.fill,
        ["step", *inner],
        attributes,
        codec,
    )


def _grown(array: "zarr.Array[Any]", n_slots: int) -> "zarr.Array[Any]":
    if array.shape[0] < n_slots:
        array.resize((n_slots, *array.shape[1:]))
    return array


def _by_name(metrics: Iterable[Metric]) -> dict[str, list[Metric]]:
    """Series by name, in the order of steps; of two values for a step the later one."""
    latest = {(metric.name, metric.step): metric for metric in metrics}
    series: dict[str, list[Metric]] = {}
    for name, step in sorted(latest):
        series.setdefault(name, []).append(latest[name, step])
    return series


def _run_lengths(series: Sequence[Metric]) -> list[tuple[str, int]]:
    """Sources of a series, as (source, count) runs."""
    runs: list[tuple[str, int]] = []
    for metric in series:
        if runs and runs[-1][0] == metric.source:
            runs[-1] = (metric.source, runs[-1][1] + 1)
        else:
            runs.append((metric.source, 1))
    return runs
