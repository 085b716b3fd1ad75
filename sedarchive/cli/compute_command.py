"""The command ``compute``: what it is asked for, and what it says of what it did."""

import sys
from collections.abc import Callable, Sequence
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
    ScopesOption,
    WorkersOption,
    checked_family,
    handled,
    printable,
    progress_bar,
    say,
    say_findings,
    size_option,
    write_json,
)

if TYPE_CHECKING:
    from sedarchive.compute.refresh import ComputeOptions, RunComputed


def _known_windows(values: list[str] | None) -> list[str] | None:
    from sedarchive.compute.requests import parse_windows

    return _parsed(parse_windows, values)


def _known_dimensions(values: list[str] | None) -> list[str] | None:
    from sedarchive.compute.requests import parse_dimensions

    return _parsed(parse_dimensions, values)


def _parsed(parse: Callable[[list[str]], object], values: list[str] | None) -> list[str] | None:
    """Values as they were given, once they are known to mean something."""
    try:
        parse(values or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return values


def _known_scheduler(name: str) -> str:
    if name not in ("threads", "serial"):
        raise typer.BadParameter("use threads or serial")
    return name


def _known_cluster(place: str | None) -> str | None:
    if place not in (None, "local", "none") and ":" not in place:
        raise typer.BadParameter(f"{place!r} is not local, tcp://HOST:PORT or none")
    return place


def _known_presets(names: list[str] | None) -> list[str] | None:
    if names:
        from sedarchive.presets import PRESETS
        from sedarchive.words import did_you_mean

        for name in names:
            if name not in PRESETS:
                raise typer.BadParameter(f"{name!r}{did_you_mean(name, PRESETS)} is not one of {', '.join(PRESETS)}")
    return names


WindowsOption = Annotated[
    list[str] | None,
    typer.Option("--window", "-w", callback=_known_windows, help="Updates a window: 10, or 5,10, or 5..30. Repeats."),
]
SpectraOption = Annotated[bool, typer.Option("--spectra/--no-spectra", help="Singular values of every matrix.")]
InferenceOption = Annotated[
    bool, typer.Option("--inference/--no-inference", help="Phases, couplings and fits; left out, they wait.")
]
EveryOption = Annotated[int, typer.Option("--every", min=1, help="Spectra at every so many checkpoints.")]
ExactOption = Annotated[bool, typer.Option("--exact", help="LAPACK for every matrix.")]
BandOption = Annotated[
    int | None, typer.Option("--band", min=2, help="Keep products of updates up to this distance only.")
]
RunsInfoOption = Annotated[Path | None, typer.Option("--runs-info", help="CSV with a column run and facts about runs.")]
ImportanceOption = Annotated[
    Path | None, typer.Option("--importance", help="CSV or Parquet with run, layer, importance[, metric].")
]
SchedulerOption = Annotated[
    str, typer.Option("--scheduler", callback=_known_scheduler, help="threads (Dask) or serial.")
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        envvar="DASK_SCHEDULER_ADDRESS",
        callback=_known_cluster,
        help="Where the sweeps run: local (a process for each worker), tcp://HOST:PORT (its workers) or none.",
        show_default="none",
    ),
]
ProjectionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--projection",
        callback=_known_dimensions,
        help="Errors of random projections to 100, or 50,100, dimensions. Repeats.",
    ),
]
ProjectionSeedsOption = Annotated[
    int | None, typer.Option("--projection-seeds", min=1, help="Random projections of each.", show_default="3")
]
ForgetWindowOption = Annotated[
    list[str] | None,
    typer.Option("--forget-window", callback=_known_windows, help="Withdraw what was asked for: 5, or 5,10. Repeats."),
]
ForgetScopeOption = Annotated[
    list[str] | None, typer.Option("--forget-scope", help="Withdraw a scope that was asked for. Repeats.")
]
PresetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        callback=_known_presets,
        help="Follow a paper's authors too, in rows of their own: xu2026 (Spectral Edge Dynamics). Repeats.",
    ),
]
FixedAspectOption = Annotated[
    list[float] | None,
    typer.Option(
        "--fixed-aspect",
        min=1,
        help="Exponents over sub-matrices of this aspect ratio too, 1 for squares; reads the weights. Repeats.",
    ),
]
TruncatedOption = Annotated[
    bool, typer.Option("--truncated", help="Fit power laws with an exponential end to every spectrum too.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show bytes, blocks and memory; compute nothing.")]


def compute(
    window: WindowsOption = None,
    scope: ScopesOption = None,
    spectra: SpectraOption = True,
    inference: InferenceOption = True,
    every: EveryOption = 1,
    exact: ExactOption = False,
    band: BandOption = None,
    heads: HeadsOption = None,
    kv_heads: KvHeadsOption = None,
    arch: ArchOption = None,
    projection: ProjectionOption = None,
    projection_seeds: ProjectionSeedsOption = None,
    preset: PresetOption = None,
    truncated: TruncatedOption = False,
    fixed_aspect: FixedAspectOption = None,
    runs_info: RunsInfoOption = None,
    importance: ImportanceOption = None,
    forget_window: ForgetWindowOption = None,
    forget_scope: ForgetScopeOption = None,
    scheduler: SchedulerOption = "threads",
    cluster: ClusterOption = None,
    dry_run: DryRunOption = False,
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    database: DatabaseOption = DEFAULT_DATABASE,
    workers: WorkersOption = DEFAULT_WORKERS,
    max_mem: MaxMemOption = "2GB",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compute windows and spectra of every run into the tables.

    Windows of 5, 10, 15, 20, 25 and 30 updates are always derived, and all that was asked for before is kept fresh,
    until --forget-window or --forget-scope withdraws it.

    Example: sedarchive compute --window 10 --scope 'layer:*'
    """
    from sedarchive.compute.refresh import ComputeOptions
    from sedarchive.compute.requests import MatrixRequests, Withdrawn, parse_dimensions, parse_windows
    from sedarchive.presets import windows_asked

    with handled():
        options = ComputeOptions(
            windows=windows_asked(parse_windows(window or []), preset or []),
            scopes=tuple(scope or ()),
            presets=tuple(preset or ()),
            spectra=spectra,
            inference=inference,
            every=every,
            exact=exact,
            band=band,
            max_mem=size_option(max_mem),
            workers=workers,
            scheduler=scheduler,
            cluster=cluster,
            heads=heads,
            kv_heads=kv_heads,
            arch=checked_family(arch) if arch else None,
            runs_info=_facts_of_runs(runs_info, archive) if runs_info else {},
            importance=_importance(importance) if importance else {},
            projections=tuple(parse_dimensions(projection or [])),
            projection_seeds=projection_seeds,
            matrices=MatrixRequests(truncated, tuple(fixed_aspect or ())),
            forget=Withdrawn(tuple(parse_windows(forget_window or [])), tuple(forget_scope or ())),
        )
    if dry_run:
        _show_plans(archive, database, options, json_output)
    else:
        _compute(archive, database, options, json_output, quiet)


def _compute(archive: Path, database: Path, options: "ComputeOptions", json_output: bool, quiet: bool) -> None:
    from sedarchive.compute.refresh import compute as compute_tables

    with handled(GOES_ON), progress_bar(quiet) as progress:
        reports = compute_tables(archive, database, options, progress)
    if json_output:
        write_json([asdict(report) for report in reports])
    for report in reports:
        say(printable(report.describe()))
        say_findings(report.findings)
    if options.importance:
        _say_unmatched(database)
    if _say_unread(reports) or any(report.error for report in reports):
        raise typer.Exit(FAILED)


def _say_unread(reports: "Sequence[RunComputed]") -> bool:
    """Say which tensors could not be read; whether there are any."""
    left_out = [f"{tensor} of {report.run}" for report in reports for tensor in report.gram.failed]
    without_spectra = [tensor for report in reports for tensor in report.spectra.failed]
    if left_out:
        say(printable(f"error: left out of every scope, since they cannot be read: {', '.join(left_out)}"))
    if left_out or without_spectra:
        say("run `sedarchive verify`; once the files are whole again, the same command completes the tables")
    return bool(left_out or without_spectra)


def _facts_of_runs(path: Path, archive: Path) -> dict[str, dict[str, str]]:
    """Rows of ``--runs-info``; what of it is not used is said."""
    from sedarchive.archive import Archive
    from sedarchive.compute.requests import read_runs_info

    info = read_runs_info(path)
    for note in info.notes(Archive(archive).run_names):
        say(printable(note))
    return info.facts


def _importance(path: Path) -> dict[tuple[str, str], dict[int, float]]:
    """Rows of ``--importance``; what of it is not used is said."""
    from sedarchive.compute.lifecycle.importance_file import read_importance

    found = read_importance(path)
    for note in found.ignored:
        say(printable(note))
    return found.values


def _say_unmatched(database: Path) -> None:
    """Say what of a table of importance names nothing in the archive."""
    from sedarchive.compute.lifecycle.importance_rows import unmatched_importance
    from sedarchive.tables import Database

    with handled(), Database.read(database) as tables:
        for line in unmatched_importance(tables):
            say(printable(f"importance, not used: {line}"))


def _show_plans(archive: Path, database: Path, options: "ComputeOptions", json_output: bool) -> None:
    """Show what the sweeps would read and hold."""
    from sedarchive.compute.refresh import plan_compute
    from sedarchive.render import write_result
    from sedarchive.result import Result

    with handled():
        plans = [plan.summary() for plan in plan_compute(archive, database, options)]
    if json_output:
        write_json(plans)
        return
    columns = list(plans[0]) if plans else ["run"]
    rows = [tuple(plan.values()) for plan in plans]
    write_result(Result(columns, ["VARCHAR"] * len(columns), rows), "table", sys.stdout)
