"""Commands that make checkpoints from archived ones: prune, warmup."""

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from sedarchive.cli.common import (
    DEFAULT_ARCHIVE,
    DEFAULT_DATABASE,
    ArchiveOption,
    DatabaseOption,
    JsonOption,
    handled,
    printable,
    say,
    write_json,
)
from sedarchive.words import did_you_mean

RunArgument = Annotated[str, typer.Argument(help="Name of the run.", show_default=False)]
StepOption = Annotated[int | None, typer.Option("--step", help="Step of the checkpoint.", show_default="the last")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


def _known_rule(name: str) -> str:
    from sedarchive.lifecycle.pruning import RULES

    if name not in RULES:
        raise typer.BadParameter(f"{name!r}{did_you_mean(name, RULES)} is not one of {', '.join(RULES)}")
    return name


def prune(
    run: RunArgument,
    k: Annotated[int, typer.Option("-k", min=1, help="Layers to remove.", show_default=False)],
    rule: Annotated[
        str,
        typer.Option("--rule", callback=_known_rule, help="spectral, last, first, random or worst: what is written."),
    ] = "spectral",
    protect: Annotated[
        int | None,
        typer.Option("--protect", min=0, help="Layers at each end that stay.", show_default="1; 2 if more than 16"),
    ] = None,
    alpha: Annotated[str, typer.Option("--alpha", help="Exponent of matrix_stats to go by.")] = "alpha",
    step: StepOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random choices.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the pruned model; without it, only the plan.")
    ] = None,
    force: ForceOption = False,
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    database: DatabaseOption = DEFAULT_DATABASE,
    json_output: JsonOption = False,
) -> None:
    """Choose layers to remove by their spectra. Simpler rules stand beside; -o writes the model without them.

    Example: sedarchive prune my-run -k 3 -o pruned/
    """
    from sedarchive.derived.prune import PruneOptions, describe, plan_json, plan_pruning, plan_table, write_pruned
    from sedarchive.render import write_result

    options = PruneOptions(k, rule, protect, alpha, seed)
    with handled(output=output):
        plan = plan_pruning(archive, database, run, step, options)
        written = write_pruned(plan, plan.chosen(rule), output, force) if output else []
    if json_output:
        write_json({**plan_json(plan), "rule": rule, "written": [str(path) for path in written]})
    else:
        write_result(plan_table(plan), "table", sys.stdout)
    say(printable(describe(plan)))
    _say_written(written)


def _say_written(written: Sequence[Path]) -> None:
    from sedarchive.derived.files import without_config

    for path in written:
        say(printable(str(path)))
    if missing := without_config(written):
        say(missing)


def _known_scale(name: str) -> str:
    from sedarchive.matrix.warmup import SCALES

    if name not in SCALES:
        raise typer.BadParameter(f"{name!r}{did_you_mean(name, SCALES)} is not one of {', '.join(SCALES)}")
    return name


_FACTOR = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}|/[1-9][0-9]{0,5})?")
_LARGEST_FACTOR = 64
"""Wider models are taken for a slip of the hand: their matrices are made in memory."""


def _factor(text: str | None) -> Fraction | None:
    """Number as it is written, without rounding: 2, 1.5 or 3/2."""
    if text is None:
        return None
    if not _FACTOR.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is no number above 0; write 2, 1.5 or 3/2", param_hint="--width")
    factor = Fraction(text)
    if not 0 < factor <= _LARGEST_FACTOR:
        raise typer.BadParameter(f"{text} is not above 0 and at most {_LARGEST_FACTOR}", param_hint="--width")
    return factor


def warmup(
    run: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.", show_default=False)],
    step: StepOption = None,
    scale: Annotated[
        str,
        typer.Option(
            "--scale", callback=_known_scale, help="Norm of the default start that is met: frobenius, spectral or none."
        ),
    ] = "frobenius",
    like: Annotated[
        Path | None,
        typer.Option("--like", help="Checkpoint, perhaps of another width, that gives shapes, vectors and norms."),
    ] = None,
    width: Annotated[
        str | None,
        typer.Option("--width", metavar="FACTOR", help="Times as wide: 2, 1.5 or 3/2; heads keep their length."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random singular vectors.")] = 0,
    force: ForceOption = False,
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    database: DatabaseOption = DEFAULT_DATABASE,
    json_output: JsonOption = False,
) -> None:
    """Write a fresh model with the spectra of an archived checkpoint. Its singular vectors are random.

    Example: sedarchive warmup my-run --step 1000 -o warm/
    """
    from sedarchive.derived.warmup import WarmupOptions, warm_up

    if like and width:
        raise typer.BadParameter("--like gives a width already; leave --width out", param_hint="--width")
    options = WarmupOptions(scale, like, seed, _factor(width))
    with handled(output=output):
        warmed = warm_up(archive, database, run, step, options, output, force)
    if json_output:
        write_json({**asdict(warmed), "written": [str(path) for path in warmed.written]})
    say(printable(warmed.describe()))
    _say_written(warmed.written)
