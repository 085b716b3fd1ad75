"""What the commands share: options, output, progress, and one handler for all errors."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sedarchive.cli.interrupts import INTERRUPTED, raised
from sedarchive.errors import (
    NothingMatchedError,
    RecipeError,
    SedarchiveError,
    UnknownNameError,
)
from sedarchive.history import Finding

DONE, FAILED, USAGE, FINDINGS, NOTHING = 0, 1, 2, 3, 4

ArchiveOption = Annotated[
    Path,
    typer.Option("--archive", envvar="SEDARCHIVE_ARCHIVE", help="The archive.", show_default=True),
]
DatabaseOption = Annotated[
    Path, typer.Option("--db", envvar="SEDARCHIVE_DB", help="The DuckDB file with the tables.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Parallel workers, one BLAS thread each.")]
ArchOption = Annotated[
    Path | None, typer.Option("--arch", help="Family file of your own, tried first; `sedarchive arch` tells more.")
]
MaxMemOption = Annotated[str, typer.Option("--max-mem", help="Working memory of all workers, such as 512MB or 2GB.")]
HeadsOption = Annotated[int | None, typer.Option("--heads", min=1, help="Attention heads, where no config says.")]
KvHeadsOption = Annotated[
    int | None, typer.Option("--kv-heads", min=1, help="Key and value heads, where no config says.")
]


def _checked_pattern(text: str | None) -> str | None:
    """A step pattern that is a regular expression with one group; a usage error if it is none."""
    if text is not None:
        from sedarchive.readers.steps import compile_step_pattern

        _usage(compile_step_pattern, text)
    return text


def _checked_scopes(values: list[str] | None) -> list[str] | None:
    """Scopes that are written as scopes are; a usage error if one is not."""
    if values:
        from sedarchive.leaves import resolve_scopes

        for value in values:
            _usage(resolve_scopes, value, ())
    return values


def _usage(check: Callable[..., object], *values: object) -> None:
    """Turn what a check raises into a usage error."""
    try:
        check(*values)
    except SedarchiveError as error:
        raise typer.BadParameter(printable(str(error))) from error


StepRegexOption = Annotated[
    str | None,
    typer.Option(
        "--step-regex", callback=_checked_pattern, help="Regular expression whose first group is the step in a name."
    ),
]
ScopesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--scope",
        "-s",
        callback=_checked_scopes,
        help="all, trunk, attention, mlp, layer:N or A-B or *, role:R or *, tensor:NAME, NAME=glob,glob. Repeats.",
    ),
]

DEFAULT_ARCHIVE = Path("archive.zarr")
DEFAULT_DATABASE = Path("archive.duckdb")
DEFAULT_WORKERS = os.cpu_count() or 1


def say(text: str) -> None:
    """Words for people: stderr, so that stdout holds data alone."""
    typer.echo(text, err=True)


def fail(text: str, code: int = FAILED) -> NoReturn:
    """End with a message and an exit code."""
    typer.echo(f"error: {printable(text)}", err=True)
    raise typer.Exit(code)


def printable(text: str) -> str:
    """Text without control characters: names in files are hostile, also to terminals."""
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


def write_json(content: Any) -> None:
    """Write one JSON document to stdout."""
    import json

    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    typer.echo(text if _is_writable(text) else json.dumps(content, indent=2, default=str))


def _is_writable(text: str) -> bool:
    """Whether UTF-8 can hold a text; names of files may be no UTF-8, and then JSON has an escape for them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def size_option(text: str) -> int:
    """Bytes of a ``--max-mem`` value; a usage error if it is none."""
    from sedarchive.sizes import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--max-mem") from error


def checked_family(path: Path) -> str:
    """Text of a family file that is sound."""
    from sedarchive.families import family_text, parse_family

    text = family_text(path)
    parse_family(text, str(path))
    return text


GOES_ON = "what was finished is kept, and the same command goes on from there"


@contextmanager
def handled(after_interrupt: str = "", output: Path | None = None, way_out: str = "--output") -> Iterator[None]:
    """Turn the errors of the library into one line on stderr and an exit code.

    Parameters
    ----------
    after_interrupt
        What Ctrl-C leaves behind, if there is anything to say.
    output
        File or folder that is written, if one is.
    way_out
        What names another one.
    """
    interrupted = "; ".join(filter(None, ("interrupted", after_interrupt)))
    try:
        with raised():
            yield
    except SedarchiveError as error:
        fail(str(error), exit_code(error))
    except KeyboardInterrupt:
        fail(interrupted, INTERRUPTED)
    except RuntimeError as error:
        if str(error) != "Query interrupted":  # what DuckDB makes of Ctrl-C
            raise
        fail(interrupted, INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as `head` does
        raise typer.Exit(DONE) from None
    except OSError as error:
        fail(_what_failed(error, output, way_out))


def _what_failed(error: OSError, output: Path | None, way_out: str) -> str:
    """Words on a file: of one that was to be written also the way out."""
    cause, name = error.strerror or str(error), str(error.filename or "")
    if output is not None and output in (Path(name), *Path(name).parents):
        return f"{name} cannot be written ({cause}); name another place, in a folder that you may write, with {way_out}"
    return f"{name}: {cause}".removeprefix(": ")


def exit_code(error: SedarchiveError) -> int:
    """Exit code of an error: what was asked wrongly is 2, what does not exist is 4, the rest is 1."""
    if isinstance(error, RecipeError):
        return USAGE
    return NOTHING if isinstance(error, UnknownNameError | NothingMatchedError) else FAILED


def say_findings(findings: Sequence[Finding], shown: int = 20) -> None:
    """Findings of severity warning and above, errors first, a line for those that differ in nothing but their step."""
    worth = sorted((one for one in findings if one.severity != "info"), key=lambda one: one.severity != "error")
    alike: dict[Finding, list[Finding]] = {}
    for finding in worth:
        alike.setdefault(replace(finding, step=None), []).append(finding)
    lines = [finding_line(*members) for members in alike.values()]
    for line in lines[:shown]:
        say(printable(line))
    if len(lines) > shown:
        say(f"  and {len(lines) - shown} more; all are in the table audit")


def finding_line(finding: Finding, *others: Finding) -> str:
    """One finding as a line, with how many others say the same of other steps."""
    step = f"step {finding.step}" if finding.step is not None else ""
    if step and others:
        step += f" and {len(others)} more, the last {others[-1].step}"
    place = ", ".join(filter(None, [step, finding.tensor]))
    return f"  {finding.severity}: {finding.check_name}{f' ({place})' if place else ''}: {finding.detail}"


def terminal_width() -> int:
    """Columns of the terminal; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


@contextmanager
def progress_bar(quiet: bool, in_lines: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Progress on stderr: a bar on a terminal; elsewhere nothing, or a line at each quarter of a stage."""
    if quiet or not sys.stderr.isatty():
        yield _quarters() if in_lines and not quiet else lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        stages: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(printable(stage), total=total)
            bar.update(stages[stage], completed=done, total=total)

        yield update


def _quarters() -> Callable[[str, int, int], None]:
    """Progress as lines: one where a stage begins to be seen, and one for each quarter of it."""
    said: dict[str, int] = {}

    def update(stage: str, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if said.get(stage) != quarter:
            said[stage] = quarter
            say(printable(f"{stage}: {done} of {total}"))

    return update
