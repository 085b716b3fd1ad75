"""The plan of an ingest: what would be archived and how it is understood, what it costs, and what stops it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedarchive.archive import Archive, RunArchive
from sedarchive.audit import merged
from sedarchive.comparison import check_replaced
from sedarchive.errors import ArchiveError
from sedarchive.executor import Progress, no_progress
from sedarchive.families import Family
from sedarchive.history import Finding, RunSource, TensorSpec
from sedarchive.inspection import Hints
from sedarchive.logs import coverage_findings
from sedarchive.modelconfig import heads_given
from sedarchive.plan.grid import ChunkGrid
from sedarchive.preview.disk import archive_bytes, archive_obstacles, free_bytes
from sedarchive.preview.model import ModelPlan, plan_model
from sedarchive.preview.runlogs import LogPlan, look_at_logs
from sedarchive.preview.strays import PassedOver, passed_over
from sedarchive.preview.survey import chunk_steps, survey_run
from sedarchive.readers.training import checkpoint_settings, training_facts
from sedarchive.sources import IngestOptions, find_sources


@dataclass(frozen=True)
class RunPlan:
    """What ingest would do for one run."""

    run: str
    folder: str
    steps: tuple[int, ...]
    """Of the checkpoints that can be read."""
    unreadable: int
    """Checkpoints that cannot be."""
    archived: int
    """Readable ones that the archive holds already."""
    formats: tuple[str, ...]
    """Formats of the checkpoints, the commonest first."""
    model: ModelPlan | None
    """What the newest readable checkpoint holds; None if there is none."""
    logs: tuple[LogPlan, ...]
    disk_bytes: int
    """What the new checkpoints would take in the archive, without a codec."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class IngestPlan:
    """What ingest would do."""

    archive: str
    runs: tuple[RunPlan, ...]
    new_checkpoints: int
    disk_bytes: int
    disk_free: int | None
    """Where the archive is, or would be; None if that cannot be told."""
    passed_over: tuple[PassedOver, ...]
    """Files and folders that belong to no run."""
    obstacles: tuple[str, ...]
    """What would stop the ingest, or that of a run."""


def plan_ingest(
    paths: Sequence[Path],
    archive: Path,
    options: IngestOptions,
    families: Sequence[Family] = (),
    progress: Progress = no_progress,
) -> IngestPlan:
    """What :func:`sedarchive.ingest.ingest` would add: headers and logs are read, no weights, and nothing is written.

    Parameters
    ----------
    paths
        Folders with runs, runs, or checkpoints.
    archive
        Where the archive is or would be; checkpoints that it holds are counted apart.
    options
        As for the ingest itself.
    families
        The user's own, tried before the shipped ones.
    progress
        Called after each checkpoint.

    Raises
    ------
    NoCheckpointsError
        If there is no run at all.
    HistoryError
        If ``options.replace`` names steps that are not there.
    """
    sources, refused = find_sources(paths, options)
    check_replaced(sources, options.replace)
    archived = _archived(archive)
    obstacles = [f"{report.run}: {report.error}" for report in refused]
    runs = []
    for source in sources:
        held = archived.get(source.name, _NOTHING)
        obstacles += _other_run(source, held)
        run, refusal = _plan_run(source, held, options, families, progress)
        runs.append(run)
        obstacles += [f"{source.name}: {refusal}"] if refusal else []
    if not any(run.steps for run in runs):
        obstacles.append("no checkpoint can be archived: the errors above say why")
    needed = sum(run.disk_bytes for run in runs)
    return IngestPlan(
        archive=str(archive),
        runs=tuple(runs),
        new_checkpoints=sum(len(run.steps) - run.archived for run in runs),
        disk_bytes=needed,
        disk_free=free_bytes(archive),
        passed_over=tuple(_strays(paths, sources, options)),
        obstacles=(*obstacles, *archive_obstacles(archive, needed)),
    )


def _strays(paths: Sequence[Path], sources: Sequence[RunSource], options: IngestOptions) -> Iterator[PassedOver]:
    """What belongs to no run; of several paths given each name says below which it is."""
    for path in paths:
        for group in passed_over(path, sources, options):
            named = (f"{path.as_posix()}/{name}" for name in group.paths)
            yield PassedOver(group.reason, tuple(named)) if paths[1:] else group


@dataclass(frozen=True)
class _Held:
    """What the archive has of a run."""

    source: str
    steps: tuple[int, ...]
    config: Mapping[str, Any]
    grids: Mapping[TensorSpec, ChunkGrid]
    """How its arrays are cut."""

    @classmethod
    def of(cls, run: RunArchive) -> "_Held":
        grids = {info.spec: info.grid for info in run.arrays.values()}
        return cls(str(run.record["source"]), run.steps, run.config, grids)


_NOTHING = _Held("", (), {}, {})


def _archived(archive: Path) -> dict[str, _Held]:
    """Runs in the archive; {} if there is none that can be read."""
    try:
        return {run.name: _Held.of(run) for run in Archive(archive).runs()}
    except ArchiveError:
        return {}


def _other_run(source: RunSource, held: _Held) -> list[str]:
    """Refusal of a run whose name another one has in the archive."""
    common = set(held.steps) & {checkpoint.step for checkpoint in source.checkpoints}
    if not held.steps or common or held.source == str(source.folder):
        return []
    return [f"{source.name}: the archive has a run of this name from {held.source}; name this one with --run NAME"]


def _plan_run(
    source: RunSource,
    held: _Held,
    options: IngestOptions,
    families: Sequence[Family],
    progress: Progress,
) -> tuple[RunPlan, str | None]:
    """Plan of one run, and why it would be refused if it would be."""
    archived, given = frozenset(held.steps) - {*options.replace}, heads_given(held.config)
    hints = Hints(options.heads or given[0], options.kv_heads or given[1], tuple(families))
    survey = survey_run(source, archived, options, hints, progress)
    steps = tuple(checkpoint.step for checkpoint in survey.readable)
    logs, metrics, log_findings = look_at_logs(source, options.aliases)
    labels = {checkpoint.step: checkpoint.label for checkpoint in survey.readable}
    added, disagreements = checkpoint_settings(survey.optimizers, labels, metrics)
    _, problems = training_facts(source, survey.meta)
    missing = coverage_findings(steps, [*metrics, *added])
    run = RunPlan(
        run=source.name,
        folder=str(source.folder),
        steps=steps,
        unreadable=len(source.checkpoints) - len(steps),
        archived=sum(step in archived for step in steps),
        formats=survey.formats,
        model=plan_model(survey.newest, families) if survey.newest else None,
        logs=tuple(logs),
        disk_bytes=archive_bytes(survey.slots, len(archived), chunk_steps(source, archived, options), held.grids),
        findings=tuple(
            merged([*source.findings, *survey.findings, *log_findings, *disagreements, *problems, *missing])
        ),
    )
    return run, survey.refusal
