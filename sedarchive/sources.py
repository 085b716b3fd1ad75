"""What an ingest is asked for, which runs it finds and takes, and what it reports of each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sedarchive.archive.commits import RUN_RECORD
from sedarchive.archive.run import run_group
from sedarchive.audit import merged
from sedarchive.errors import HistoryError, NoCheckpointsError
from sedarchive.history import Finding, RunSource
from sedarchive.logs import Aliases
from sedarchive.plan.grid import ChunkSteps
from sedarchive.readers.bounds import none_fits
from sedarchive.readers.discover import find_runs
from sedarchive.readers.selection import Selection
from sedarchive.sizes import MIB, format_size
from sedarchive.words import counted


@dataclass(frozen=True)
class IngestOptions:
    """How to ingest."""

    run: str | None = None
    """Name for the run, where one run is found."""
    steps_per_chunk: int | None = None
    codec: str = "none"
    workers: int = 1
    max_mem: int = 512 * MIB
    verify_sources: bool = False
    """Read every archived checkpoint's source again and compare its digest."""
    step_pattern: str | None = None
    aliases: Aliases = field(default_factory=Aliases)
    """The user's own names for logged metrics."""
    selection: Selection = field(default_factory=Selection)
    """Which of the checkpoints found are taken, and what their labels mean."""
    replace: tuple[int, ...] = ()
    """Steps whose source is the right one, though the archive holds other content: it is archived in its place."""
    heads: int | None = None
    """Attention heads, kept with the runs for all that is computed later."""
    kv_heads: int | None = None


@dataclass
class RunReport:
    """What ingest did for one run."""

    run: str
    found: int = 0
    """Checkpoints found on disk."""
    already: int = 0
    """Of these, archived before."""
    added: int = 0
    replaced: int = 0
    """Of the added ones, those that took the place of an archived one."""
    n_bytes: int = 0
    """Bytes of weights added."""
    metrics: int = 0
    findings: list[Finding] = field(default_factory=list)
    error: str | None = None
    """Why the run was refused, if it was, or which archived checkpoint's source has changed."""

    def describe(self) -> str:
        """One line for people."""
        done = f"{counted(self.added, 'checkpoint')} added ({format_size(self.n_bytes)})"
        done += f", {self.replaced} of them in place of archived ones" if self.replaced else ""
        done = "refused" if self.error and not self.added else done
        return f"{self.run}: {done}, {self.already} already archived, {counted(self.metrics, 'logged value')}"


def find_sources(paths: Sequence[Path], options: IngestOptions) -> tuple[list[RunSource], list[RunReport]]:
    """Runs found under some paths, and a report on each path or run that is refused; the others go on.

    Raises
    ------
    NoCheckpointsError
        If there is no run at all.
    """
    sources: dict[str, RunSource] = {}
    refused: list[RunReport] = []
    for path in paths:
        try:
            found = find_runs(path, run=options.run, step_pattern=options.step_pattern, selection=options.selection)
        except HistoryError as error:
            if len(paths) == 1:
                raise
            refused.append(RunReport(str(path), error=str(error)))
            continue
        for source in found:
            other = sources.setdefault(source.name, source)
            if other.folder != source.folder:
                refused.append(RunReport(source.name, error=_same_name(other, source)))
    if not sources:
        raise NoCheckpointsError("; ".join(str(report.error) for report in refused))
    return list(sources.values()), refused


def without_too_large(
    sources: Sequence[RunSource], archive: Path, options: IngestOptions
) -> tuple[list[RunSource], list[RunReport]]:
    """Runs to ingest, and a report on each new one of which no checkpoint fits: nothing is made for it."""
    fitting: list[RunSource] = []
    refused: list[RunReport] = []
    for source in sources:
        is_new = not (archive / run_group(source.name) / RUN_RECORD).exists()
        n, steps = len(source.checkpoints), ChunkSteps(options.steps_per_chunk, len(source.checkpoints))
        found = none_fits(source.checkpoints, options.max_mem, steps) if is_new else []
        if found:
            error = f"{source.name}: none of its checkpoints fits into --max-mem; nothing was written"
            refused.append(RunReport(source.name, n, findings=merged([*source.findings, *found]), error=error))
        else:
            fitting.append(source)
    return fitting, refused


def _same_name(first: RunSource, second: RunSource) -> str:
    return f"{second.folder}: {first.folder} is run {first.name} already; ingest this one on its own with --run NAME"
