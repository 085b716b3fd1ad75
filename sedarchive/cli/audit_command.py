"""The command ``audit``."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from sedarchive.cli.common import (
    DEFAULT_ARCHIVE,
    DEFAULT_DATABASE,
    FINDINGS,
    ArchiveOption,
    DatabaseOption,
    JsonOption,
    finding_line,
    handled,
    printable,
    say,
    write_json,
)
from sedarchive.history import Finding
from sedarchive.words import counted

_SEVERITIES = ("error", "warning", "info")


def audit(
    name: Annotated[str | None, typer.Argument(metavar="RUN", help="Only this run.", show_default="all runs")] = None,
    archive: ArchiveOption = DEFAULT_ARCHIVE,
    database: DatabaseOption = DEFAULT_DATABASE,
    run: Annotated[str | None, typer.Option("--run", help="The same as RUN.", show_default=False)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 3 if there is a warning or an error.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Show what is duplicated, mislabelled, broken or rounded away. It says what to do about it, too.

    Digests and values that are not finite are always checked; norms, distances and rounding where `sedarchive compute`
    has been run. What `sedarchive verify` and `compute` could not read is told, too. No weights are read.

    Example: sedarchive audit --strict
    """
    from sedarchive.compute.audits import audit_archive

    if name is not None and run not in (None, name):
        raise typer.BadParameter(f"{name} and --run {run} are two runs; name one", param_hint="RUN")
    with handled():
        audits = audit_archive(archive, database, name or run)
    if json_output:
        write_json([asdict(one) for one in audits])
    for one in audits:
        if not json_output:
            typer.echo(printable(f"{one.run}: {_counts(one.findings)}"))
            for severity in _SEVERITIES:
                _show([finding for finding in one.findings if finding.severity == severity])
        if one.unchecked:
            say(printable(f"{one.run}: norms, distances and rounding were not checked: {one.unchecked}"))
    if strict and any(finding.severity != "info" for one in audits for finding in one.findings):
        raise typer.Exit(FINDINGS)


def _show(findings: Sequence[Finding]) -> None:
    for finding in findings:
        typer.echo(printable(finding_line(finding)))


def _counts(findings: Sequence[Finding]) -> str:
    """``1 error, 2 warnings, 1 note``."""
    nouns: dict[Any, str] = {"error": "error", "warning": "warning", "info": "note"}
    counts = [(sum(one.severity == severity for one in findings), noun) for severity, noun in nouns.items()]
    return ", ".join(counted(count, noun) for count, noun in counts if count) or "nothing found"
