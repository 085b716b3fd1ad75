"""Commands on the tables: query, recipes, export, plot, explain."""

import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated

import typer

from sedarchive.cli.common import (
    DEFAULT_ARCHIVE,
    DEFAULT_DATABASE,
    NOTHING,
    ArchiveOption,
    DatabaseOption,
    JsonOption,
    handled,
    printable,
    say,
    write_json,
)
from sedarchive.words import counted

if TYPE_CHECKING:
    from sedarchive.export import ExportFormat
    from sedarchive.result import Result


def _complete_recipes(incomplete: str) -> list[str]:
    from sedarchive.recipes import recipe_files

    return [name for name in recipe_files() if name.startswith(incomplete)]


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
    with handled(output=output):
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

    CSV has no lists: the column sigma of matrix_spectra is in matrix_sigmas.csv alone, a row an entry.

    Example: sedarchive export paper/ --format csv
    """
    from sedarchive.export import export as export_tables
    from sedarchive.export import not_exported
    from sedarchive.tables import Database

    if output_format not in ("csv", "parquet"):
        raise typer.BadParameter("use csv or parquet", param_hint="--format")
    with handled(output=folder, way_out="FOLDER"), Database.read(database) as tables:
        form: ExportFormat = "csv" if output_format == "csv" else "parquet"
        written = list(export_tables(tables, folder, form))
    if json_output:
        write_json([{"path": str(file.path), "rows": file.n_rows} for file in written])
    say(f"{counted(len(written), 'file')} in {folder}, {sum(file.n_rows > 0 for file in written)} of them with rows")
    for sentence in not_exported(form):
        say(sentence)


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
    """Draw the edge ratio of each run over steps. Its null and a logged metric stand beside it.

    Example: sedarchive plot -o edge.pdf --scope attention
    """
    from sedarchive.figure import check_suffix, draw_edge
    from sedarchive.recipes import asked_window
    from sedarchive.tables import Database

    try:
        check_suffix(output)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    with handled(output=output), Database.read(database) as tables:
        size = window or asked_window(tables.connection, 10)
        missing = draw_edge(tables, output, size, scope, metric or "val_loss", metric_needed=metric is not None)
    say(printable("\n".join([*missing, str(output)])))


def explain(
    name: Annotated[
        str | None, typer.Argument(help="A table, a column, or a recipe.", show_default="list the tables")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Say what a table, a column or a recipe means. Of a column: formula, source, null and pitfalls.

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
