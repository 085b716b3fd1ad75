"""One look at the header of every checkpoint of a run: which can be read, what they hold, where it would be stored."""

import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sedarchive.errors import HistoryError, MemoryBudgetError
from sedarchive.executor import Progress
from sedarchive.history import CheckpointSource, Finding, RunSource, TensorSpec
from sedarchive.inspection import Hints, Inspection, inspect_reader
from sedarchive.plan.grid import ChunkSteps
from sedarchive.readers import CheckpointReader, open_checkpoint
from sedarchive.readers.bounds import check_bounds
from sedarchive.readers.faults import left_out
from sedarchive.readers.toldsteps import ToldStep, told_findings, told_step
from sedarchive.sources import IngestOptions


@dataclass(frozen=True)
class Survey:
    """What the headers of a run say."""

    readable: tuple[CheckpointSource, ...]
    """Checkpoints that can be opened, in step order."""
    formats: tuple[str, ...]
    """Formats that they have, the commonest first."""
    slots: Mapping[TensorSpec, tuple[int, ...]]
    """Stored tensors of those that are not archived yet, and in which of these, counted from 0, each stands."""
    newest: Inspection | None
    """What the last of them holds; None if there is none."""
    refusal: str | None
    """Why the run would be refused as a whole: numbers of heads that its model cannot have."""
    findings: tuple[Finding, ...]
    """What was noticed in them, and on each that cannot be opened why."""
    meta: Mapping[str, Any]
    """Plain values beside the weights of the last of them that has some."""
    optimizers: Mapping[int, Mapping[str, Any]]
    """Step to the settings of the optimizer in that checkpoint."""


@dataclass
class _Headers:
    """Headers seen so far."""

    archived: Collection[int]
    readable: list[CheckpointSource] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    slots: dict[TensorSpec, list[int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    meta: Mapping[str, Any] = field(default_factory=dict)
    optimizers: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    told: list[ToldStep] = field(default_factory=list)
    _n_new: int = 0

    def add(self, checkpoint: CheckpointSource, reader: CheckpointReader) -> None:
        """Take in one checkpoint."""
        self.readable.append(checkpoint)
        self.formats[reader.format] += 1
        self.findings += [replace(found, step=checkpoint.step) for found in reader.findings]
        self.meta = reader.meta or self.meta
        self.told.append(told_step(checkpoint, reader.meta))
        if "optimizer" in reader.meta:
            self.optimizers[checkpoint.step] = reader.meta["optimizer"]
        if checkpoint.step in self.archived:
            return
        for name, spec in reader.specs.items():
            if name not in reader.ties:
                self.slots.setdefault(spec, []).append(self._n_new)
        self._n_new += 1


def chunk_steps(source: RunSource, archived: Collection[int], options: IngestOptions) -> ChunkSteps:
    """What the chunks of a run would depend on, if it were new."""
    found = {*archived, *(checkpoint.step for checkpoint in source.checkpoints)}
    return ChunkSteps(options.steps_per_chunk, len(found))


def survey_run(
    source: RunSource, archived: Collection[int], options: IngestOptions, hints: Hints, progress: Progress
) -> Survey:
    """Open every checkpoint of a run, one after the other, and refuse those that the ingest would refuse.

    Parameters
    ----------
    source
        The run as it was found.
    archived
        Steps that the archive holds already.
    options
        As for the ingest itself.
    hints
        What the user tells of the model.
    progress
        Called after each checkpoint.
    """
    headers = _Headers(archived)
    steps = chunk_steps(source, archived, options)
    for done, checkpoint in enumerate(source.checkpoints, start=1):
        try:
            with _opened(checkpoint) as reader:
                if checkpoint.step not in archived:
                    check_bounds(checkpoint.path, reader.specs.values(), options.max_mem, steps)
                headers.add(checkpoint, reader)
        except (HistoryError, MemoryBudgetError) as error:
            headers.findings.append(left_out(error, checkpoint.step))
        progress(f"look at {source.name}", done, len(source.checkpoints))
    newest, refusal = _newest(source, headers.readable[-1], hints) if headers.readable else (None, None)
    return Survey(
        readable=tuple(headers.readable),
        formats=tuple(name for name, _ in headers.formats.most_common()),
        slots={spec: tuple(slots) for spec, slots in headers.slots.items()},
        newest=newest,
        refusal=refusal,
        findings=(*headers.findings, *told_findings(headers.told)),
        meta=headers.meta,
        optimizers=headers.optimizers,
    )


def _newest(source: RunSource, checkpoint: CheckpointSource, hints: Hints) -> tuple[Inspection | None, str | None]:
    """What a checkpoint holds, or why that cannot be told."""
    try:
        with _opened(checkpoint) as reader:
            return inspect_reader(source, checkpoint, reader, hints), None
    except HistoryError as error:
        return None, str(error)


@contextmanager
def _opened(checkpoint: CheckpointSource) -> Iterator[CheckpointReader]:
    with tempfile.TemporaryDirectory(prefix="sedarchive-") as spool, open_checkpoint(checkpoint, Path(spool)) as reader:
        yield reader
