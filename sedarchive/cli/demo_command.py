"""The command that shows everything on a freshly trained tiny history."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sedarchive.cli.common import (
    DEFAULT_WORKERS,
    JsonOption,
    QuietOption,
    WorkersOption,
    handled,
    progress_bar,
    say,
    write_json,
)


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for runs, archive, database and figure.")] = Path(
        "sedarchive-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of data split and initial weights.")] = 0,
    steps: Annotated[int | None, typer.Option(min=300, help="Training steps of each run.")] = None,
    workers: WorkersOption = DEFAULT_WORKERS,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train two small transformers, one of which groks, and analyse their histories. Takes up to 3 minutes.

    Example: sedarchive demo
    """
    import textwrap

    from sedarchive.demo.story import short_table
    from sedarchive.demo.tour import take_tour
    from sedarchive.demo.train import TrainSettings
    from sedarchive.render import write_result

    settings = TrainSettings(seed=seed) if steps is None else TrainSettings(seed=seed, steps=steps)
    say(f"training two transformers on addition modulo {settings.modulus}, with and without weight decay ...")
    with handled(), progress_bar(quiet) as progress:
        tour = take_tour(folder, settings, workers, progress)
    if json_output:
        write_json({"rows": tour.table.dicts(), "figure": str(tour.figure), "database": str(tour.database)})
        return
    write_result(short_table(tour.table), "table", sys.stdout)
    for sentence in tour.sentences:
        typer.echo("\n" + textwrap.fill(sentence, 100))
    typer.echo(f"\nFigure: {tour.figure}\n\nTry next:")
    typer.echo(f"  sedarchive query lag_flip --db {tour.database}")
    typer.echo(f"  sedarchive query spectral_edge -p scope=attention --db {tour.database}")
    typer.echo(f"  sedarchive export {folder / 'csv'} --db {tour.database}")
