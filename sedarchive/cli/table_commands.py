"""Commands on the tables: compute, query, recipes, export, explain."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

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
    JsonOption,
    MaxMemOption,
    QuietOption,
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


def compute(
    window: Annotated[
        list[str] | None, typer.Option("--window", "-w", help="Updates a window: 10, or 5,10, or 5..30. Repeats.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            "-s",
            help="all, trunk, attention, mlp, layer:N or A-B or *, role:R or *, tensor:NAME, NAME=glob,glob. Repeats.",
        ),
    ] = None,
    spectra: Annotated[bool, typer.Option(help="Singular values of every matrix.")] = True,
    every: Annotated[int, typer.Option("--every", min=1, help="Spectra at every so many checkpoints.")] = 1,
    exact: Annotated[bool, typer.Option("--exact", help="LAPACK for every matrix.")] = False,
    band: Annotated[int | None, typer.Option(min=2, help="Keep products of updates up to this distance only.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads, where no config says.")] = None,
    kv_heads: Annotated[int | None, typer.Option(min=1, help="Key and value heads, where no config says.")] = None,
    arch: ArchOption = None,
    projection: Annotated[
        list[str] | None,
        typer.Option("--projection", help="Errors of random projections to 100, or 50,100, dimensions. Repeats."),
    ] = None,
    projection_seeds: Annotated[
        int | None, typer.Option(min=1, help="Random projections of each.", show_default="3")
    ] = None,
    runs_info: Annotated[Path | None, typer.Option(help="CSV with a column run and facts about runs.")] = None,
    scheduler: Annotated[str, typer.Option(help="threads (Dask) or serial.")] = "threads",
    cluster: Annotated[
        str | None,
        typer.Option(
            envvar="DASK_SCHEDULER_ADDRESS",
            help="Where the sweeps run: local (a process for each worker), tcp://HOST:PORT (its workers) or none.",
            show_default="none",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show bytes, blocks and memory; compute nothing.")] = False,
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    database: DatabaseOption = DEFAULT_DATABASE,
    workers: WorkersOption = DEFAULT_WORKERS,
    max_mem: MaxMemOption = "2GB",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compute windows and spectra of every run into the tables.

    Windows of 5, 10, 15, 20, 25 and 30 updates are always derived, and all that was asked for before is kept fresh.

    Example: sedarchive compute --window 10 --scope 'layer:*'
    """
    from sedarchive.compute.refresh import ComputeOptions, plan_compute
    from sedarchive.compute.refresh import compute as compute_tables
    from sedarchive.compute.requests import parse_dimensions, parse_windows

    if scheduler not in ("threads", "serial"):
        raise typer.BadParameter("use threads or serial", param_hint="--scheduler")
    if cluster not in (None, "local", "none") and ":" not in cluster:
        raise typer.BadParameter(f"{cluster!r} is not local, tcp://HOST:PORT or none", param_hint="--cluster")
    try:
        windows = tuple(parse_windows(window or []))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--window") from error
    try:
        projections = tuple(parse_dimensions(projection or []))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--projection") from error
    with handled(GOES_ON):
        options = ComputeOptions(
            windows=windows,
            scopes=tuple(scope or ()),
            spectra=spectra,
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
            projections=projections,
            projection_seeds=projection_seeds,
        )
        if dry_run:
            plans = plan_compute(archive, database, options)
            _show_plans([plan.summary() for plan in plans], json_output)
            return
        with progress_bar(quiet) as progress:
            reports = compute_tables(archive, database, options, progress)
    if json_output:
        write_json([asdict(report) for report in reports])
    for report in reports:
        say(printable(report.describe()))
        say_findings(report.findings)
    left_out = [f"{tensor} of {report.run}" for report in reports for tensor in report.gram.failed]
    without_spectra = [f"spectra of {tensor} of {report.run}" for report in reports for tensor in report.spectra.failed]
    unread = left_out + without_spectra
    if left_out:
        say(printable(f"error: left out of every scope, since they cannot be read: {', '.join(left_out)}"))
    if unread:
        say("run `sedarchive verify`; once the files are whole again, the same command completes the tables")
    if unread or any(report.error for report in reports):
        raise typer.Exit(FAILED)


def _facts_of_runs(path: Path, archive: Path) -> dict[str, dict[str, str]]:
    """Rows of ``--runs-info``; what of it is not used is said."""
    from sedarchive.archive import Archive
    from sedarchive.compute.requests import read_runs_info

    info = read_runs_info(path)
    for note in info.notes(Archive(archive).run_names):
        say(printable(note))
    return info.facts


def _show_plans(plans: list[dict[str, Any]], json_output: bool) -> None:
    if json_output:
        write_json(plans)
        return
    from sedarchive.render import write_result
    from sedarchive.result import Result

    columns = list(plans[0]) if plans else ["run"]
    write_result(
        Result(columns, ["VARCHAR"] * len(columns), [tuple(plan.values()) for plan in plans]), "table", sys.stdout
    )


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
    database: DatabaseOption = DEFAULT_DATABASE,
    json_output: JsonOption = False,
) -> None:
    """Run a recipe, a file or a SELECT of your own on the tables.

    Exit code 4 if it gives no row.

    Example: sedarchive query lag_flip -p scope=all
    """
    from sedarchive.query import answer, choose_format, why_no_rows, write_answer

    if json_output and output_format not in (None, "json"):
        raise typer.BadParameter(f"--json and --format {output_format} exclude each other", param_hint="--format")
    values = _pairs(param or [])
    with handled():
        form = choose_format("json" if json_output else output_format, output)
        result = answer(database, what, values)
        write_answer(result, form, output)
        if not result.rows:
            say(printable("\n  ".join(["no rows", *why_no_rows(database, what, values)])))
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
    from sedarchive.render import counted
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
    window: Annotated[int, typer.Option("--window", "-w", min=2, help="Updates a window.")] = 10,
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
    from sedarchive.tables import Database

    try:
        check_suffix(output)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    with handled(), Database.read(database) as tables:
        missing = draw_edge(tables, output, window, scope, metric or "val_loss", metric_needed=metric is not None)
    say(printable("\n".join([*missing, str(output)])))


def explain(
    name: Annotated[str | None, typer.Argument(help="A table, or a column.", show_default="list the tables")] = None,
    json_output: JsonOption = False,
) -> None:
    """Say what a table's columns mean, with their units.

    Example: sedarchive explain edge_ratio
    """
    from sedarchive.query import explain as explain_name
    from sedarchive.render import write_result

    with handled():
        found = explain_name(name)
    write_result(found, "json" if json_output else "table", sys.stdout)
    if name is None:
        say("\n`sedarchive explain NAME` gives the columns of one of them, or the meaning of a column")
