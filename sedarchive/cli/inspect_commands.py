"""Commands that read headers alone: inspect, and arch list, show, test."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sedarchive.cli.common import (
    FAILED,
    FINDINGS,
    ArchOption,
    HeadsOption,
    JsonOption,
    KvHeadsOption,
    StepRegexOption,
    checked_family,
    handled,
    printable,
    say,
    say_findings,
    write_json,
)

if TYPE_CHECKING:
    from sedarchive.inspection import Hints, Inspection

PathArgument = Annotated[Path, typer.Argument(help="A checkpoint, a run, or a folder of runs.", show_default=False)]

arch_app = typer.Typer(
    help="List, show and test families of architectures. They are the names and fused layouts that are known.\n\n"
    "A file of your own is given as --arch FILE to inspect, ingest --dry-run and compute.\n\n"
    "Example: sedarchive arch test checkpoint/ --arch mine.toml",
    no_args_is_help=True,
)


def inspect(
    path: PathArgument,
    every: Annotated[bool, typer.Option("--all", help="A line for every tensor.")] = False,
    heads: HeadsOption = None,
    kv_heads: KvHeadsOption = None,
    arch: ArchOption = None,
    step_regex: StepRegexOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show what a checkpoint holds. Format, architecture, tensors, splits and ties: only headers are read.

    Of a folder, the newest checkpoint of each run is shown.

    Example: sedarchive inspect runs/my-run
    """
    from sedarchive.inspection import inspect as inspect_path
    from sedarchive.inspection import tensor_table
    from sedarchive.render import write_result

    with handled():
        found = inspect_path(path, _hints(heads, kv_heads, arch, step_regex))
    if json_output:
        write_json([asdict(one) for one in found])
    else:
        for one in found:
            typer.echo(printable(one.describe()))
            if one.tensors:
                write_result(tensor_table(one, every), "table", sys.stdout)
            say_findings(one.findings)
    _end_with_errors(found)


@arch_app.command("list")
def list_families(json_output: JsonOption = False) -> None:
    """List the families that are known.

    Example: sedarchive arch list
    """
    from sedarchive.families import load_families
    from sedarchive.render import write_result
    from sedarchive.result import Result

    families = load_families().values()
    if json_output:
        keys = ("name", "model_types", "evidence")
        write_json([{key: getattr(one, key) for key in keys} | {"entries": len(one.rules)} for one in families])
        return
    rows = [(one.name, ", ".join(one.model_types) or None, len(one.rules)) for one in families]
    write_result(
        Result(["family", "model_types", "entries"], ["VARCHAR", "VARCHAR", "BIGINT"], rows), "table", sys.stdout
    )


@arch_app.command("show")
def show_family(name: Annotated[str, typer.Argument(help="Name of a family, as `arch list` has it.")]) -> None:
    """Print the file of a family: the example for one of your own.

    Example: sedarchive arch show gpt_neox
    """
    from sedarchive.families import shipped_text

    with handled():
        typer.echo(shipped_text(name), nl=False)


@arch_app.command("test")
def try_family(
    path: PathArgument,
    arch: ArchOption = None,
    heads: HeadsOption = None,
    kv_heads: KvHeadsOption = None,
    step_regex: StepRegexOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show which entry of which family knows each tensor of a checkpoint, what none knows, and the splits.

    Exit code 3 if there is a tensor that no entry knows.

    Example: sedarchive arch test checkpoint/ --arch mine.toml
    """
    from sedarchive.inspection import inspect as inspect_path
    from sedarchive.inspection import match_table
    from sedarchive.recipes import shortened
    from sedarchive.render import write_result

    with handled():
        found = inspect_path(path, _hints(heads, kv_heads, arch, step_regex))
    if json_output:
        write_json([asdict(one) for one in found])
    for one in found if not json_output else []:
        typer.echo(printable(one.describe()))
        if one.tensors:
            write_result(match_table(one), "table", sys.stdout)
    _end_with_errors(found)
    unknown = [tensor.name for one in found for tensor in one.tensors if tensor.pattern is None]
    if unknown:
        say(printable(f"no entry knows {shortened(unknown)}"))
        raise typer.Exit(FINDINGS)


def _hints(heads: int | None, kv_heads: int | None, arch: Path | None, step_pattern: str | None) -> "Hints":
    from sedarchive.families import parse_family
    from sedarchive.inspection import Hints

    families = (parse_family(checked_family(arch), str(arch)),) if arch else ()
    return Hints(heads, kv_heads, families, step_pattern)


def _end_with_errors(found: "list[Inspection]") -> None:
    """End with exit code 1 if a checkpoint could not be read."""
    errors = [one.error for one in found if one.error]
    for error in errors:
        say(f"error: {printable(error)}")
    if errors:
        raise typer.Exit(FAILED)
