"""One run of an archive, write side: arrays, chunks, commits, manifest.

The order of writes is the promise. Arrays are made and resized first, and the
manifest sealed over their metadata; then chunks; then a sync; then one commit
record a checkpoint. What a crash leaves before its commit is invisible and is
overwritten by the next ingest.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from sedarchive.archive.names import stored_name
from sedarchive.archive.records import write_sealed
from sedarchive.archive.run import COMMITS, MANIFEST, RUN_RECORD, ArrayInfo, Commit, RunArchive, run_group
from sedarchive.archive.store import ArraySpec, CheckedStore, create_array, open_array
from sedarchive.history import DTYPES, Finding, Metric, TensorSpec
from sedarchive.plan import chunk_grid

_METRIC_CHUNK = 1_024
_STEP_CHUNK = 1_024


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
        self._run = RunArchive(store, root, name)
        self._record = self._run.record

    def _create(self, name: str, source: str) -> None:
        parts = self._group.split("/")
        for depth in range(1, len(parts) + 1):
            zarr.open_group(self._store, path="/".join(parts[:depth]), mode="a", zarr_format=3)
        for inner in ("theta", "metrics", "gram"):
            zarr.open_group(self._store, path=f"{self._group}/{inner}", mode="a", zarr_format=3)
        step = ArraySpec((0,), (_STEP_CHUNK,), "<i8", -1, ["step"], {"description": "optimizer step of each slot"})
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
    def source(self) -> str:
        """Folder that the run was first ingested from."""
        return str(self._record["source"])

    def describe(self, config: Mapping[str, Any], findings: Iterable[Finding]) -> None:
        """Record the config and what ingest noticed, beside what earlier ingests did."""
        known = self._record["findings"]
        known += [found for finding in findings if (found := asdict(finding)) not in known]
        self._record["config"] = dict(config) or self._record["config"]
        self._write_record()

    def _write_record(self) -> None:
        write_sealed(self.folder / RUN_RECORD, self._record)

    def make_arrays(
        self, specs: Iterable[TensorSpec], n_slots: int, steps_per_chunk: int | None, codec: str
    ) -> dict[TensorSpec, ArrayInfo]:
        """Array for each tensor as it is shaped and typed now, with room for ``n_slots`` checkpoints."""
        known = {info.spec: info for info in self._run.arrays.values()}
        taken = {info.path for info in known.values()}
        new: list[ArrayInfo] = []
        for spec in specs:
            if spec not in known:
                path = _free_path(stored_name(spec.name), taken)
                known[spec] = ArrayInfo(path, spec, chunk_grid(spec.rows, spec.row_bytes, steps_per_chunk))
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
            if (self.folder / "theta" / info.path / "zarr.json").exists():
                _grow(open_array(self._store, path), n_slots)
            else:
                create_array(self._store, path, _array_spec(info, n_slots, codec))
        _grow(open_array(self._store, f"{self._group}/theta/step"), n_slots)
        self._run.forget_handles()
        self.seal()

    def write(self, info: ArrayInfo, slots: tuple[int, int], rows: tuple[int, int], block: NDArray[Any]) -> None:
        """Write a block ``(slots, rows, columns)``: all of a chunk's new slots at once.

        Committed steps in a partly filled chunk are read, checked and written again with it.
        """
        array = self._run.open(info.path)
        region = (slice(*slots), slice(*rows))[: array.ndim]
        target = (slots[1] - slots[0], *((rows[1] - rows[0], *info.spec.shape[1:]) if info.spec.shape else ()))
        array[region] = block.reshape(target)

    def commit(self, commits: Sequence[Commit]) -> None:
        """Make checkpoints exist: steps, sync, one record each."""
        step = open_array(self._store, f"{self._group}/theta/step")
        for entry in commits:
            step[entry.slot] = entry.step
        os.sync()  # every chunk must be on the disk before a record speaks of it
        for entry in commits:
            write_sealed(self.folder / COMMITS / f"{entry.slot:06d}.json", entry.to_json())
        self.seal()

    def write_metrics(self, metrics: Sequence[Metric]) -> None:
        """Store logged metrics, new over old; a log that is gone takes nothing with it."""
        merged = {(metric.name, metric.step): metric for metric in [*self._run.metrics(), *metrics]}
        by_name: dict[str, list[Metric]] = {}
        for key in sorted(merged):
            by_name.setdefault(key[0], []).append(merged[key])
        for name, series in by_name.items():
            self._record["metrics"][name] = {"path": stored_name(name), "sources": _run_lengths(series)}
            self._write_series(stored_name(name), series)
        self._write_record()
        self.seal()

    def _write_series(self, path: str, series: Sequence[Metric]) -> None:
        zarr.open_group(self._store, path=f"{self._group}/metrics/{path}", mode="a", zarr_format=3)
        steps = np.array([metric.step for metric in series], dtype="<i8")
        values = np.array([metric.value for metric in series], dtype="<f8")
        for part, column, fill in (("step", steps, -1), ("value", values, float("nan"))):
            full = f"{self._group}/metrics/{path}/{part}"
            spec = ArraySpec((len(series),), (_METRIC_CHUNK,), column.dtype.str, fill, ["step"], {})
            exists = (self.folder / "metrics" / path / part / "zarr.json").exists()
            array = open_array(self._store, full) if exists else create_array(self._store, full, spec)
            if array.shape != column.shape:
                array.resize(column.shape)
            array[:] = column

    def seal(self) -> None:
        """Write the manifest: a digest of every metadata file of the run, and the number of commits."""
        write_manifest(self.folder)


def write_manifest(folder: Path) -> None:
    """Seal the metadata files below a run's folder (nested runs have their own manifest)."""
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in metadata_files(folder)
    }
    n_commits = sum(1 for _ in (folder / COMMITS).glob("*.json"))
    write_sealed(folder / MANIFEST, {"files": files, "n_commits": n_commits})


def metadata_files(folder: Path) -> list[Path]:
    """Metadata files of one run: its own group's and those of its arrays."""
    inner = [path for part in ("theta", "metrics", "gram") for path in (folder / part).rglob("zarr.json")]
    return sorted([*folder.glob("zarr.json"), *inner])


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


def _grow(array: "zarr.Array[Any]", n_slots: int) -> None:
    if array.shape[0] < n_slots:
        array.resize((n_slots, *array.shape[1:]))


def _run_lengths(series: Sequence[Metric]) -> list[tuple[str, int]]:
    """Sources of a series, as (source, count) runs."""
    runs: list[tuple[str, int]] = []
    for metric in series:
        if runs and runs[-1][0] == metric.source:
            runs[-1] = (metric.source, runs[-1][1] + 1)
        else:
            runs.append((metric.source, 1))
    return runs
