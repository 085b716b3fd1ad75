"""Checkpoints on disk to an archive: batch by batch, tensor by tensor, every byte digested.

A batch is the checkpoints that share a chunk. Each tensor of a batch is one
task that reads its rows slab by slab from every checkpoint, hashes them in
order, and writes each chunk once. A checkpoint that cannot be read becomes a
finding; the rest is ingested.
"""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sedarchive.archive import Archive
from sedarchive.archive.commits import Commit, latest, tensor_hash
from sedarchive.archive.store import CheckedStore
from sedarchive.archive.writer import RunWriter
from sedarchive.audit import (
    Look,
    RunDigests,
    digest_evidence,
    merged,
    runs_alike,
    standing,
    tracks_of,
    without_archived,
)
from sedarchive.batches import (
    CheckpointReadError,
    OpenedCheckpoint,
    TensorTask,
    Written,
    commit_of,
    read_rows,
    tensor_tasks,
)
from sedarchive.comparison import Archived, check_replaced, compare, digests_of
from sedarchive.errors import ArchiveError, HistoryError, MemoryBudgetError
from sedarchive.executor import Executor, Progress, no_progress
from sedarchive.floats import count_nonfinite
from sedarchive.history import DTYPES, CheckpointSource, RunSource, TensorSpec
from sedarchive.logs import coverage_findings, read_metrics
from sedarchive.lowrank.settings import ADAPTER
from sedarchive.modelconfig import config_to_keep, with_checkpoint, with_given
from sedarchive.plan.grid import ChunkSteps, chunk_grid
from sedarchive.plan.memory import copies_bytes
from sedarchive.plan.tasks import ingest_workers
from sedarchive.readers import CheckpointReader, fingerprint, open_checkpoint
from sedarchive.readers.adapters import without_contradiction
from sedarchive.readers.bounds import check_bounds
from sedarchive.readers.faults import left_out
from sedarchive.readers.toldsteps import ToldStep, told_findings, told_step
from sedarchive.readers.training import checkpoint_settings, training_facts, with_training
from sedarchive.roles import assign_roles, check_heads
from sedarchive.sizes import GIB, KIB
from sedarchive.sources import IngestOptions, RunReport, find_sources, without_too_large

__all__ = ["IngestOptions", "RunReport", "ingest"]

_BATCH = 8
"""Checkpoints a batch at least: the steps of most chunks."""
_BATCH_BYTES = 4 * GIB
"""Batches are larger, up to 64 checkpoints, where they come to no more than this: each costs the metadata of all arrays
and writes the partly filled chunks of small tensors again; no more than this is lost where a process dies."""
_TENSOR_BYTES = 2 * KIB
"""Of a tensor in an open checkpoint: its names, its spec, where it stands."""


def ingest(
    paths: Sequence[Path], archive: Path, options: IngestOptions, progress: Progress = no_progress
) -> list[RunReport]:
    """Add the checkpoint histories found under ``paths`` to an archive.

    Raises
    ------
    NoCheckpointsError
        If a path holds none.
    HistoryError
        If ``options.replace`` names steps that are not there, or several runs are found that have them.
    ArchiveLockedError
        If another process is writing the archive.
    """
    sources, refused = find_sources(paths, options)
    check_replaced(sources, options.replace)
    sources, too_large = without_too_large(sources, archive, options)
    refused += too_large
    if not sources:
        return refused
    with Archive.create_or_open(archive).writing("ingest") as store:
        runs: list[RunDigests] = []
        reports = [_ingest_guarded(source, store, archive, options, progress, runs) for source in sources]
        alike = runs_alike([*runs, *_other_digests(archive, {one.run for one in runs})])
    for report in reports:
        report.findings += alike.get(report.run, [])
    return refused + reports


def _other_digests(archive: Path, names: Collection[str]) -> list[RunDigests]:
    """Digests of the runs that came with earlier ingests; none where a damaged record hides which there are."""
    try:
        return digests_of(run for run in Archive(archive).runs() if run.name not in names)
    except ArchiveError:
        return []


def _ingest_guarded(
    source: RunSource,
    store: CheckedStore,
    archive: Path,
    options: IngestOptions,
    progress: Progress,
    runs: list[RunDigests],
) -> RunReport:
    """One refused run never stops the others; what was ingested is added to ``runs``."""
    report = RunReport(source.name, found=len(source.checkpoints), findings=list(source.findings))
    try:
        ingested = RunIngest(source, RunWriter(store, archive, source.name, str(source.folder)), options, report)
        ingested.run(progress)
        runs.append(ingested.audit())
    except (HistoryError, ArchiveError) as error:
        report.error = str(error)
    return report


class RunIngest:
    """Ingest of one run into its writer."""

    def __init__(self, source: RunSource, writer: RunWriter, options: IngestOptions, report: RunReport) -> None:
        self._source, self._writer, self._options, self.report = source, writer, options, report
        self._executor = Executor(options.workers)
        self._meta: Mapping[str, Any] = {}
        self._optimizers: dict[int, Mapping[str, Any]] = {}
        self._told: list[ToldStep] = []
        self._commits = list(writer.commits)
        self._look, self._replacing = Look((), ()), set[int]()
        self._steps = ChunkSteps(options.steps_per_chunk)

    def run(self, progress: Progress) -> None:
        """Check what is archived, add what is new, keep logs and findings."""
        new = self._new_checkpoints()
        self._check_heads(info.spec for info in self._writer.arrays.values())
        total = len(new)
        slot = self._writer.next_slot
        self._steps = ChunkSteps(self._options.steps_per_chunk, slot + total)
        queue = list(new)
        while queue:
            with ExitStack() as stack:
                spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sedarchive-")))
                opened, queue = self._open_batch(queue, slot, spool, stack)
                if opened:
                    self._check_heads(opened[0].reader.specs.values())
                    slot = self._ingest_batch(opened, slot)
            progress(f"ingest {self._source.name}", total - len(queue), total)
        self._keep_logs()

    def _new_checkpoints(self) -> list[CheckpointSource]:
        """Checkpoints to add; those of archived steps are checked, and said if they have changed."""
        writer, options = self._writer, self._options
        archived = Archived(writer.source, {commit.step: commit for commit in writer.commits})
        compared = compare(self._source, archived, options.replace, options.verify_sources)
        self.report.already = compared.unchanged + len(compared.changed)
        self.report.findings += compared.changed
        self.report.error = compared.changed[0].detail if compared.changed else None
        self._replacing, before = compared.replacing, writer.source
        self._look = Look(
            found={checkpoint.step for checkpoint in self._source.checkpoints},
            opened={checkpoint.step for checkpoint in compared.new},
            named=options.replace,
            same_folder=str(self._source.folder) == before or not Path(before).exists(),
            whole=options.selection.is_whole and self._source.whole,
        )
        return compared.new

    def _keep_logs(self) -> None:
        """Read the logs and the settings of the training; what the logs lack is told, but not kept: it may come."""
        source, before = self._source, self._writer.metrics()
        metrics, findings = read_metrics(source.logs, source.folder, self._options.aliases)
        labels = {checkpoint.step: checkpoint.label for checkpoint in source.checkpoints}
        added, disagreements = checkpoint_settings(self._optimizers, labels, [*before, *metrics])
        facts, problems = training_facts(source, self._meta)
        self.report.metrics = len(metrics)
        self.report.findings += [*findings, *disagreements, *problems, *told_findings(self._told)]
        if metrics or added:
            self._writer.write_metrics([*metrics, *added])
        still = standing(self._writer.findings, self._look, self._writer.steps)
        paths = {commit.source["path"] for commit in self._commits}
        self._writer.describe(self._config(facts), without_archived([*still, *self.report.findings], paths))
        lacking = coverage_findings(self._writer.steps, [*before, *metrics, *added])
        self.report.findings = merged([*self.report.findings, *lacking])

    def _config(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Config to keep: of the model, from the checkpoints, from the user, and facts on the training."""
        config = with_given(self._model_config(), self._options.heads, self._options.kv_heads)
        return with_training(config, self._writer.config, facts)

    def _model_config(self) -> dict[str, Any]:
        told = without_contradiction(self._source.config, self._writer.config)
        given = told if told.keys() - {ADAPTER} else {**self._writer.config, **told}
        return with_checkpoint(config_to_keep(given, self._writer.config), self._meta)

    def _check_heads(self, specs: Iterable[TensorSpec]) -> None:
        """Refuse numbers of heads that the user gives and the model cannot have, before anything is written."""
        heads, kv_heads = self._options.heads, self._options.kv_heads
        if heads or kv_heads:
            found = assign_roles({spec.name: spec for spec in specs}, self._model_config(), heads, kv_heads)
            check_heads(found, heads, kv_heads)

    def _note_settings(self, source: CheckpointSource, reader: CheckpointReader) -> None:
        """Remember what a checkpoint says of its training."""
        self._meta = reader.meta or self._meta
        self._told.append(told_step(source, reader.meta))
        if "optimizer" in reader.meta:
            self._optimizers[source.step] = reader.meta["optimizer"]

    def audit(self) -> RunDigests:
        """Report what the digests show; it is not recorded, since the commits say it."""
        commits = latest(self._commits)
        tracks = tracks_of(commits, self._writer.arrays)
        self.report.findings += [evidence.finding for evidence in digest_evidence(tracks)]
        digests = {commit.step: commit.digest for commit in commits}
        return RunDigests(self._source.name, tracks.steps, tuple(digests[step] for step in tracks.steps))

    def _batch_size(self, slot: int, first: OpenedCheckpoint, spooled: bool) -> int:
        """Checkpoints like this one up to the next border of a chunk; what is spooled waits on the disk, so few."""
        specs = first.stored_specs()
        grids = [(chunk_grid(one.rows, one.row_bytes, self._steps), one) for one in specs]
        slab = max((grid.slab_rows * one.row_bytes for grid, one in grids), default=0)
        size = self._options.steps_per_chunk or _BATCH
        if not self._options.steps_per_chunk and not spooled:
            share = self._options.max_mem // max(self._options.workers, 1)
            fits = (n for n in (64, 32, 16) if n * first.n_bytes <= _BATCH_BYTES and copies_bytes(slab, n) <= share)
            size = next(fits, _BATCH)
        one = max(copies_bytes(slab, 1), len(first.reader.specs) * _TENSOR_BYTES)
        while size > 1 and size * one > self._options.max_mem:
            size = (size + 1) // 2
        return size - slot % size

    # New checkpoints

    def _open_batch(
        self, queue: Sequence[CheckpointSource], slot: int, spool: Path, stack: ExitStack
    ) -> tuple[list[OpenedCheckpoint], list[CheckpointSource]]:
        """Open the next checkpoints, a batch of them; the ones that cannot be read become findings."""
        opened: list[OpenedCheckpoint] = []
        most = len(queue)
        for index, source in enumerate(queue):
            if len(opened) == most:
                return opened, list(queue[index:])
            try:
                mark = fingerprint(source.path, source.key)
                reader = stack.enter_context(open_checkpoint(source, spool))
                options = self._options
                check_bounds(source.path, reader.specs.values(), options.max_mem, self._steps)
            except (HistoryError, MemoryBudgetError) as error:
                self.report.findings.append(left_out(error, source.step))
                continue
            checkpoint = OpenedCheckpoint(source, reader, mark)
            most = min(most, self._batch_size(slot, checkpoint, any(spool.iterdir())))
            if opened and len(opened) >= most:  # it has larger tensors than those before it: a batch of its own
                return opened, list(queue[index:])
            self.report.findings += [replace(found, step=source.step) for found in reader.findings]
            self._note_settings(source, reader)
            opened.append(checkpoint)
        return opened, []

    def _ingest_batch(self, opened: list[OpenedCheckpoint], slot: int) -> int:
        """Write and commit a batch; a checkpoint that fails while it is read is left out and the batch redone."""
        while opened:
            try:
                commits = self._write_batch(opened, slot)
            except CheckpointReadError as error:
                self.report.findings.append(left_out(error.cause, opened[error.index].source.step))
                del opened[error.index]
                self._writer.clear_up()
                continue
            self._writer.commit(commits)
            self._commits += commits
            self.report.added += len(commits)
            self.report.replaced += sum(commit.step in self._replacing for commit in commits)
            self.report.n_bytes += sum(checkpoint.n_bytes for checkpoint in opened)
            return slot + len(commits)
        return slot

    def _write_batch(self, opened: Sequence[OpenedCheckpoint], slot: int) -> list[Commit]:
        specs = dict.fromkeys(spec for checkpoint in opened for spec in checkpoint.stored_specs())
        arrays = self._writer.make_arrays(specs, slot + len(opened), self._steps, self._options.codec)
        tasks = [task for spec in specs for task in tensor_tasks(arrays[spec], opened, slot)]
        tasks.sort(key=lambda task: -task.info.spec.nbytes)
        digests: dict[tuple[int, str], Written] = {}
        # Tasks of one tensor share chunks, so a tensor is one task; different tensors never share one.
        grids = [(task.info.spec.name, task.info.grid, task.info.spec.row_bytes) for task in tasks]
        workers = ingest_workers(grids, len(opened), self._options.max_mem, self._options.workers)
        for part in self._executor.at_most(workers).map(self._write_tensor, tasks):
            digests.update(part)
        return [
            commit_of(checkpoint, slot + index, index, arrays, digests, self._source.folder)
            for index, checkpoint in enumerate(opened)
        ]

    def _write_tensor(self, task: TensorTask) -> dict[tuple[int, str], Written]:
        """Copy one tensor of a batch into its array; what was seen of it by (index in the batch, tensor)."""
        spec = task.info.spec
        hashes, nonfinite = [tensor_hash(spec) for _ in task.members], [0] * len(task.members)
        height = min(task.info.grid.slab_rows, spec.rows)  # an empty tensor may have rows of any length
        block = np.empty((len(task.members), height, spec.columns), dtype=DTYPES[spec.dtype].storage)
        for start, stop in task.info.grid.slabs():
            for at, (index, reader) in enumerate(task.members):
                rows = block[at, : stop - start]
                read_rows(reader, spec.name, (start, stop), rows, index)
                hashes[at].update(rows.data)
                nonfinite[at] += count_nonfinite(rows, spec.dtype)
            for first, last, slot in task.runs():
                self._writer.write(
                    task.info, (slot, slot + last - first), (start, stop), block[first:last, : stop - start]
                )
        return {
            (index, spec.name): Written(hashes[at].hexdigest(), nonfinite[at])
            for at, (index, _) in enumerate(task.members)
        }
