"""Commands on the archive: ingest, status, verify, restore."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

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
    JsonOption,
    MaxMemOption,
    QuietOption,
    WorkersOption,
    checked_family,
    fail,
    handled,
    printable,
    progress_bar,
    say,
    say_findings,
    size_option,
    write_json,
)


def _run_name(name: str | None) -> str | None:
    """Name for a run, each part of which (between slashes) can be that of a folder."""
    if name is not None and not all(part.strip(". ") for part in name.split("/")):
        raise typer.BadParameter(f"{name!r} names no run; write my-run, or group/my-run with no part empty or all dots")
    return name


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Folders with runs, runs, or checkpoints.", show_default=False)],
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    run: Annotated[
        str | None, typer.Option("--run", callback=_run_name, help="Name of the run, where one is found.")
    ] = None,
    steps_per_chunk: Annotated[
        int | None, typer.Option(min=1, max=64, help="Checkpoints a chunk; 1 suits a run that grows one by one.")
    ] = None,
    step_regex: Annotated[
        str | None, typer.Option("--step-regex", help="Regular expression whose first group is the step in a name.")
    ] = None,
    steps_map: Annotated[
        Path | None, typer.Option("--steps-map", help="CSV with columns label, step[, tokens]: what each label means.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Take the first checkpoint of a run and each N-th after it.")] = 1,
    include: Annotated[
        list[str] | None, typer.Option("--include", help="Glob on labels or paths below PATH; repeats.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Glob on labels or paths to pass over; repeats.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Nested key that holds the weights, such as ema or model_ema.")
    ] = None,
    codec: Annotated[str, typer.Option(help="none, lz4 (bf16 shrinks by a quarter) or small (slow).")] = "none",
    verify_sources: Annotated[
        bool, typer.Option("--verify-sources", help="Read archived checkpoints' sources again and compare digests.")
    ] = False,
    aliases: Annotated[
        Path | None, typer.Option("--aliases", help="TOML file with names in your logs: val_loss = ['dev/nll'].")
    ] = None,
    arch: ArchOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be ingested; write nothing.")] = False,
    workers: WorkersOption = DEFAULT_WORKERS,
    max_mem: MaxMemOption = "512MB",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add checkpoint histories to the archive.

    Run the same command again after an interruption or when the run has grown: only what is new is read.

    Example: sedarchive ingest runs/
    """
    from sedarchive.archive.store import CODECS
    from sedarchive.families import parse_family
    from sedarchive.ingest import IngestOptions
    from sedarchive.ingest import ingest as ingest_paths
    from sedarchive.logs import Aliases, read_aliases
    from sedarchive.preview import plan_ingest
    from sedarchive.readers.selection import Selection, read_steps_map

    if codec not in CODECS:
        raise typer.BadParameter(f"{codec!r} is not one of {', '.join(CODECS)}", param_hint="--codec")
    if arch and not dry_run:
        raise typer.BadParameter("it tells --dry-run what tensors are; give it to compute as well", param_hint="--arch")
    with handled(GOES_ON):
        names = read_aliases(aliases) if aliases else Aliases()
        steps = read_steps_map(steps_map) if steps_map else None
        selection = Selection(steps, every, tuple(include or ()), tuple(exclude or ()), key)
        options = IngestOptions(
            run,
            steps_per_chunk,
            codec,
            workers,
            size_option(max_mem),
            verify_sources,
            step_regex,
            aliases=names,
            selection=selection,
        )
        if dry_run:
            families = (parse_family(checked_family(arch), str(arch)),) if arch else ()
            plans = plan_ingest(paths, options, families)
            if json_output:
                write_json([asdict(plan) for plan in plans])
            for plan in plans if not json_output else []:
                typer.echo(printable(plan.describe()))
            return
        with progress_bar(quiet) as progress:
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
    if found["database_problem"]:
        say(str(found["database_problem"]))


def verify(archive: ArchiveOption = DEFAULT_ARCHIVE, json_output: JsonOption = False) -> None:
    """Check every byte of the archive against its digests.

    Exit code 1 if anything is damaged or missing.

    Example: sedarchive verify
    """
    from sedarchive.archive.verify import verify as verify_archive
    from sedarchive.render import counted

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
    """Write archived checkpoints back as safetensors files, bit-exact, to a folder for the run.

    Example: sedarchive restore my-run --step 1000 --to restored/
    """
    from sedarchive.archive import Archive
    from sedarchive.restore import restore_steps

    if everything and step:
        raise typer.BadParameter("--all and --step exclude each other", param_hint="--all")
    written = []
    with handled("files named above are complete; --force replaces them"):
        opened = Archive(archive).run(run)
        steps = opened.steps if everything else (step or opened.steps[-1:])
        for restored in restore_steps(opened, steps, to, force):
            written.append(asdict(restored))
            say(printable(restored.path))
    if json_output:
        write_json(written)
