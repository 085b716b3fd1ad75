"""The application: its commands and its version."""

from typing import Annotated

import typer

from sedarchive import __version__
from sedarchive.cli import (
    archive_commands,
    audit_command,
    compute_command,
    demo_command,
    inspect_commands,
    model_commands,
    table_commands,
)

_EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 usage, 3 findings under --strict, 4 nothing matched, 130 interrupted.\n\n"
    "Example: sedarchive ingest runs/ && sedarchive compute --window 10 && sedarchive query lag_flip"
)
app = typer.Typer(
    name="sedarchive",
    help="The spectral history of a training run: checkpoints to an archive, sweeps to tables, SQL to results.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich's help costs 0.15 s a call
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sedarchive {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of no command; the help is the application's own."""


app.command()(archive_commands.ingest)
app.command()(compute_command.compute)
app.command()(table_commands.query)
app.command()(table_commands.recipes)
app.command()(table_commands.export)
app.command()(table_commands.plot)
app.command()(table_commands.explain)
app.command()(audit_command.audit)
app.command()(archive_commands.status)
app.command()(archive_commands.verify)
app.command()(archive_commands.restore)
app.command()(model_commands.prune)
app.command()(model_commands.warmup)
app.command()(inspect_commands.inspect)
app.add_typer(inspect_commands.arch_app, name="arch")
app.command()(demo_command.demo)


def main() -> None:
    """Run the command line."""
    app()
