"""Commands on the archive: ingest, status, verify, restore."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sedarchive.cli.common import (
    DEFAULT_ARCHIVE,
    DEFAULT_DATABASE,
    DEFAULT_WORKERS,
    FAILED,
    GOES_ON,
    ArchiveOption,
    ArchOption,
    DatabaseOption,
    HeadsOption,
    JsonOption,
    KvHeadsOption,
    MaxMemOption,
    QuietOption,
    StepRegexOption,
    WorkersOption,
    checked_family,
    fail,
    handled,
    printable,
    progress_bar,
    say,
    say_findings,
    size_option,
    terminal_width,
    write_json,
)
from sedarchive.words import counted, did_you_mean

if TYPE_CHECKING:
    from sedarchive.sources import IngestOptions


def _run_name(name: str | None) -> str | None:
    """Name for a run, each part of which (between slashes) can be that of a folder."""
    if name is not None and not all(part.strip(". ") for part in name.split("/")):
        raise typer.BadParameter(f"{name!r} names no run; write my-run, or group/my-run with no part empty or all dots")
    return name


def _known_codec(name: str) -> str:
    if name != "none":
        from sedarchive.archive.store import CODECS

        if name not in CODECS:
            raise typer.BadParameter(f"{name!r}{did_you_mean(name, CODECS)} is not one of {', '.join(CODECS)}")
    return name


PathsArgument = Annotated[
    list[Path], typer.Argument(help="Folders with runs, runs, or checkpoints.", show_default=False)
]
RunNameOption = Annotated[
    str | None, typer.Option("--run", callback=_run_name, help="Name of the run, where one is found.")
]
StepsPerChunkOption = Annotated[
    int | None,
    typer.Option("--steps-per-chunk", min=1, max=64, help="Checkpoints a chunk; 1 suits a run that grows one by one."),
]
StepsMapOption = Annotated[
    Path | None, typer.Option("--steps-map", help="CSV with columns label, step[, tokens]: what each label means.")
]
EveryOption = Annotated[
    int, typer.Option("--every", min=1, help="Take the first checkpoint of a run and each N-th after it.")
]
IncludeOption = Annotated[
    list[str] | None, typer.Option("--include", help="Glob on labels or paths below PATH; repeats.")
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option("--exclude", help="Glob on labels or paths to pass over; repeats.")
]
KeyOption = Annotated[
    str | None, typer.Option("--key", help="Nested key that holds the weights, such as ema or model_ema.")
]
CodecOption = Annotated[
    str,
    typer.Option("--codec", callback=_known_codec, help="none, lz4 (bf16 shrinks by a quarter) or small (slow)."),
]
VerifySourcesOption = Annotated[
    bool, typer.Option("--verify-sources", help="Read archived checkpoints' sources again and compare digests.")
]
ReplaceOption = Annotated[
    list[int] | None,
    typer.Option("--replace", help="Step whose file is the right one: archive it in place of the other; repeats."),
]
AliasesOption = Annotated[
    Path | None, typer.Option("--aliases", help="TOML file with names in your logs: val_loss = ['dev/nll'].")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be ingested; write nothing.")]


def ingest(
    paths: PathsArgument,
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    run: RunNameOption = None,
    steps_per_chunk: StepsPerChunkOption = None,
    step_regex: StepRegexOption = None,
    steps_map: StepsMapOption = None,
    every: EveryOption = 1,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    key: KeyOption = None,
    codec: CodecOption = "none",
    verify_sources: VerifySourcesOption = False,
    replace: ReplaceOption = None,
    aliases: AliasesOption = None,
    arch: ArchOption = None,
    heads: HeadsOption = None,
    kv_heads: KvHeadsOption = None,
    dry_run: DryRunOption = False,
    workers: WorkersOption = DEFAULT_WORKERS,
    max_mem: MaxMemOption = "512MB",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add checkpoint histories to the archive.

    Run the same command again after an interruption or when the run has grown: only what is new is read.

    Example: sedarchive ingest runs/
    """
    from sedarchive.logs import Aliases, read_aliases
    from sedarchive.readers.selection import Selection, read_steps_map
    from sedarchive.sources import IngestOptions

    if arch and not dry_run:
        raise typer.BadParameter("it tells --dry-run what tensors are; give it to compute as well", param_hint="--arch")
    with handled():
        steps = read_steps_map(steps_map) if steps_map else None
        options = IngestOptions(
            run=run,
            steps_per_chunk=steps_per_chunk,
            codec=codec,
            workers=workers,
            max_mem=size_option(max_mem),
            verify_sources=verify_sources,
            replace=tuple(replace or ()),
            step_pattern=step_regex,
            aliases=read_aliases(aliases) if aliases else Aliases(),
            selection=Selection(steps, every, tuple(include or ()), tuple(exclude or ()), key),
            heads=heads,
            kv_heads=kv_heads,
        )
    if dry_run:
        _show_plan(paths, archive, options, arch, json_output, quiet)
    else:
        _ingest(paths, archive, options, json_output, quiet)


def _ingest(paths: list[Path], archive: Path, options: "IngestOptions", json_output: bool, quiet: bool) -> None:
    from sedarchive.ingest import ingest as ingest_paths

    with handled(GOES_ON), progress_bar(quiet) as progress:
        reports = ingest_paths(paths, archive, options, progress)
    if json_output:
        write_json([asdict(report) for report in reports])
    for report in reports:
        say(printable(report.describe()))
        say_findings(report.findings)
    refused = [report for report in reports if report.error]
    for report in refused:
        say(f"error: {printable(report.error or '')}")
    if refused or not any(report.added or report.already for report in reports):
        raise typer.Exit(FAILED)


def _show_plan(
    paths: list[Path], archive: Path, options: "IngestOptions", arch: Path | None, json_output: bool, quiet: bool
) -> None:
    """Show what an ingest would do; exit code 1 if something would stop it."""
    from sedarchive.families import parse_family
    from sedarchive.preview import plan_ingest, plan_text

    with handled():
        families = (parse_family(checked_family(arch), str(arch)),) if arch else ()
        with progress_bar(quiet) as progress:
            plan = plan_ingest(paths, archive, options, families, progress)
    if json_output:
        write_json(asdict(plan))
    else:
        typer.echo(printable(plan_text(plan, terminal_width())))
    if plan.obstacles:
        raise typer.Exit(FAILED)


def status(
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    database: DatabaseOption = DEFAULT_DATABASE,
    json_output: JsonOption = False,
) -> None:
    """Show what the archive and the database hold.

    Example: sedarchive status
    """
    import sys

    from sedarchive.render import write_result
    from sedarchive.status import archive_status, status_table

    with handled():
        found = archive_status(archive, database)
    if json_output:
        write_json(found)
        return
    write_result(status_table(found), "table", sys.stdout)
    if found["interrupted"]:
        say("a writer was interrupted; the same ingest or compute command again completes its work")
    for run in found["runs"]:
        if run["stale"]:
            say(printable(f"{run['run']}: {run['stale']}; `sedarchive compute` brings them up to date"))
    if found["database_problem"]:
        say(str(found["database_problem"]))


def verify(archive: ArchiveOption = DEFAULT_ARCHIVE, json_output: JsonOption = False) -> None:
    """Check every byte of the archive against its digests.

    Exit code 1 if anything is damaged or missing.

    Example: sedarchive verify
    """
    from sedarchive.archive.verify import verify as verify_archive

    with handled():
        if not archive.exists():
            fail(f"{archive}: there is no archive here; make one with `sedarchive ingest PATH --archive {archive}`")
        findings = verify_archive(archive)
    if json_output:
        write_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(printable(f"{finding.severity}: {finding.detail}"))
    damaged = sum(finding.severity == "error" for finding in findings)
    if damaged:
        fail(
            f"{archive}: {counted(damaged, 'file')} damaged or missing; take them from a copy, or delete the run's "
            "folder and ingest it again from its checkpoints"
        )
    say(f"{archive}: every file is as it was written")


def restore(
    run: Annotated[str, typer.Argument(help="Name of the run.", show_default=False)],
    step: Annotated[
        list[int] | None, typer.Option("--step", help="Step to restore; repeats. Default: the last.")
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="Folder for the files.")] = Path(),
    everything: Annotated[bool, typer.Option("--all", help="Every step of the run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    json_output: JsonOption = False,
) -> None:
    """Write archived checkpoints back as safetensors files. They are bit-exact, in a folder for the run.

    Example: sedarchive restore my-run --step 1000 --to restored/
    """
    from sedarchive.archive import Archive
    from sedarchive.restore import restore_steps

    if everything and step:
        raise typer.BadParameter("--all and --step exclude each other", param_hint="--all")
    written = []
    with handled("files named above are complete; --force replaces them", to, "--to"):
        opened = Archive(archive).run(run)
        steps = opened.steps if everything else (step or opened.steps[-1:])
        for restored in restore_steps(opened, steps, to, force):
            written.append(asdict(restored))
            say(printable(restored.path))
    if json_output:
        write_json(written)
