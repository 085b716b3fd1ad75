"""Commands on the tables: compute, query, recipes, export, explain."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated

import typer

from sedarchive.cli.common import (
    DEFAULT_ARCHIVE,
    DEFAULT_DATABASE,
    DEFAULT_WORKERS,
    FAILED,
    GOES_ON,
    NOTHING,
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
from sedarchive.words import counted

if TYPE_CHECKING:
    from sedarchive.compute.refresh import ComputeOptions, RunComputed
    from sedarchive.result import Result


def _known_windows(values: list[str] | None) -> list[str] | None:
    if values:
        from sedarchive.compute.requests import parse_windows

        try:
            parse_windows(values)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return values


def _known_dimensions(values: list[str] | None) -> list[str] | None:
    if values:
        from sedarchive.compute.requests import parse_dimensions

        try:
            parse_dimensions(values)
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


def _complete_recipes(incomplete: str) -> list[str]:
    from sedarchive.recipes import find_recipes

    return [name for name in sorted(find_recipes()) if name.startswith(incomplete)]


def query(
    what: Annotated[
        str,
        typer.Argument(
            help="A recipe, a .sql FILE, or SQL text.", show_default=False, autocompletion=_complete_recipes
        ),
    ],
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="A recipe's parameter, as name=value. Repeats.")
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="table, csv, json, jsonl, markdown or parquet.",
            show_default="by the file's suffix, else table",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File instead of stdout.")] = None,
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    database: DatabaseOption = DEFAULT_DATABASE,
    json_output: JsonOption = False,
) -> None:
    """Run a recipe, a file or a SELECT of your own on the tables.

    Exit code 4 if it gives no row.

    Example: sedarchive query lag_flip -p scope=all
    """
    from sedarchive.query import answer, choose_format, hints, write_answer

    if json_output and output_format not in (None, "json"):
        raise typer.BadParameter(f"--json and --format {output_format} exclude each other", param_hint="--format")
    values = _pairs(param or [])
    with handled():
        form = choose_format("json" if json_output else output_format, output)
        result = answer(database, what, values)
        write_answer(result, form, output)
        for hint in hints(database, archive, what, values):
            say(printable(hint))
        _say_what_is_missing(database, what, values, result)


def _say_what_is_missing(database: Path, what: str, values: dict[str, str], result: "Result") -> None:
    """Say why there is no row, or none that says anything; exit code 4 unless only a default is to blame for that."""
    from sedarchive.query import why_no_rows
    from sedarchive.recipes import has_usable_rows

    if has_usable_rows(result):
        return
    absent = why_no_rows(database, what, values)
    head = "no row says anything" if result.rows else "no rows"
    say(printable("\n  ".join([head, *absent.values()])))
    if not result.rows or absent.keys() & values.keys():
        raise typer.Exit(NOTHING)


def _pairs(values: list[str]) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise typer.BadParameter(f"{value!r} is not name=value", param_hint="--param")
        pairs[name.strip()] = text
    return pairs


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one whole.", autocompletion=_complete_recipes)] = None,
    json_output: JsonOption = False,
) -> None:
    """List the recipes, or show one with its parameters and its SQL.

    Example: sedarchive recipes lag_flip
    """
    from sedarchive.query import recipe_details, recipe_list
    from sedarchive.render import write_result

    with handled():
        if name:
            details = recipe_details(name)
            write_json(details) if json_output else typer.echo(details["text"])
            return
        found = recipe_list()
    write_result(found, "json" if json_output else "table", sys.stdout)


def export(
    folder: Annotated[Path, typer.Argument(help="Folder for the files.", show_default=False)],
    output_format: Annotated[str, typer.Option("--format", "-f", help="csv or parquet.")] = "csv",
    database: DatabaseOption = DEFAULT_DATABASE,
    json_output: JsonOption = False,
) -> None:
    """Write every table and every recipe to a file.

    Example: sedarchive export paper/ --format csv
    """
    from sedarchive.export import export as export_tables
    from sedarchive.tables import Database

    if output_format not in ("csv", "parquet"):
        raise typer.BadParameter("use csv or parquet", param_hint="--format")
    with handled(), Database.read(database) as tables:
        written = list(export_tables(tables, folder, "csv" if output_format == "csv" else "parquet"))
    if json_output:
        write_json([{"path": str(file.path), "rows": file.n_rows} for file in written])
    say(f"{counted(len(written), 'file')} in {folder}, {sum(file.n_rows > 0 for file in written)} of them with rows")


def plot(
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG, PDF or SVG file.")] = Path("edge.png"),
    window: Annotated[
        int | None,
        typer.Option("--window", "-w", min=2, help="Updates a window.", show_default="10, or what was asked for"),
    ] = None,
    scope: Annotated[str, typer.Option("--scope", "-s", help="Scope of the windows.")] = "all",
    metric: Annotated[
        str | None, typer.Option(help="Logged metric drawn beside it.", show_default="val_loss, where it is logged")
    ] = None,
    database: DatabaseOption = DEFAULT_DATABASE,
) -> None:
    """Draw the edge ratio of each run over steps, with its null and a logged metric.

    Example: sedarchive plot -o edge.pdf --scope attention
    """
    from sedarchive.figure import check_suffix, draw_edge
    from sedarchive.recipes import asked_window
    from sedarchive.tables import Database

    try:
        check_suffix(output)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    with handled(), Database.read(database) as tables:
        size = window or asked_window(tables.connection, 10)
        missing = draw_edge(tables, output, size, scope, metric or "val_loss", metric_needed=metric is not None)
    say(printable("\n".join([*missing, str(output)])))


def explain(
    name: Annotated[
        str | None, typer.Argument(help="A table, a column, or a recipe.", show_default="list the tables")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Say what a table, a column (its formula, source, null and pitfalls) or a recipe means.

    Example: sedarchive explain windows.edge_ratio
    """
    from sedarchive.explain import explain as explain_name
    from sedarchive.explain import table_list
    from sedarchive.render import write_result

    if name is None:
        write_result(table_list(), "json" if json_output else "table", sys.stdout)
        say("\n`sedarchive explain NAME` gives the columns of one of them, or all about a column or a recipe")
        return
    with handled():
        found = explain_name(name, min(get_terminal_size().columns, 100))
    write_json(found.content) if json_output else typer.echo(found.text)
