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

_AFTER_INTERRUPT = "a run that was trained to its end is kept, and the same command goes on with it"


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
    """Train two small transformers and analyse their histories. One of them groks; it takes up to 3 minutes.

    In a folder that it was run in before, with the same seed and steps, it goes on.

    Example: sedarchive demo
    """
    import shlex
    import textwrap

    from sedarchive.demo.story import short_table
    from sedarchive.demo.tour import check_way, take_tour
    from sedarchive.demo.train import TrainSettings
    from sedarchive.render import write_result

    settings = TrainSettings(seed=seed) if steps is None else TrainSettings(seed=seed, steps=steps)
    with handled():
        to_train = check_way(folder, settings)
    trained = f"training transformers on addition modulo {settings.modulus}: {' and '.join(to_train)} ..."
    say(trained if to_train else f"{folder} holds both runs, trained with these settings; they are used again")
    with handled(_AFTER_INTERRUPT), progress_bar(quiet, in_lines=True) as progress:
        tour = take_tour(folder, settings, workers, progress)
    if json_output:
        write_json({"rows": tour.table.dicts(), "figure": str(tour.figure), "database": str(tour.database)})
        return
    write_result(short_table(tour.table), "table", sys.stdout)
    for sentence in tour.sentences:
        typer.echo("\n" + textwrap.fill(sentence, 80))
    typer.echo(f"\nFigure: {tour.figure}\n\nTry next:")
    option = f"--db {shlex.quote(str(tour.database))}"
    typer.echo(f"  sedarchive query lag_flip {option}")
    typer.echo(f"  sedarchive query spectral_edge -p scope=attention {option}")
    typer.echo(f"  sedarchive export {shlex.quote(str(folder / 'csv'))} {option}")
