"""Status: what an archive holds, and how far its tables are."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sedarchive.archive import Archive, RunArchive
from sedarchive.archive.lock import was_interrupted
from sedarchive.audit import merged
from sedarchive.errors import DatabaseError
from sedarchive.freshness import stale_runs
from sedarchive.lowrank.products import find_products
from sedarchive.lowrank.settings import adapter_of
from sedarchive.result import Result
from sedarchive.sizes import format_size
from sedarchive.tables import Database
from sedarchive.words import counted


def archive_status(archive: Path, database: Path) -> dict[str, Any]:
    """Runs of an archive with their sizes, and for each the rows that its tables hold.

    Returns
    -------
    dict
        ``archive``, ``archive_id``, ``interrupted``, ``database`` (None, or why it cannot be read, if it cannot) and
        ``runs``, a list of dicts.
    """
    opened = Archive(archive)
    runs = opened.runs()
    rows, problem = _table_rows(database, opened.archive_id, runs)
    missing = {"windows": 0, "spectra": 0, "stale": None}
    return {
        "archive": str(archive),
        "archive_id": opened.archive_id,
        "interrupted": was_interrupted(archive),
        "database": str(database) if problem is None else None,
        "database_problem": problem,
        "runs": [{**run_status(run), **missing, **rows.get(run.name, {})} for run in runs],
    }


def status_table(status: dict[str, Any]) -> Result:
    """Return the runs of a status as rows for people."""
    columns = [
        "run",
        "checkpoints",
        "first_step",
        "last_step",
        "tensors",
        "size",
        "metrics",
        "windows",
        "spectra",
        "tables",
        "errors",
    ]
    rows = [tuple(_shown(run)[name] for name in columns) for run in status["runs"]]
    return Result(columns, ["VARCHAR"] * len(columns), rows)


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run, as people read it."""
    tables = "stale" if run["stale"] else "fresh"
    products = f" and {counted(run['products'], 'product')}" if run["products"] else ""
    return {
        **run,
        "size": format_size(run["bytes"]),
        "metrics": ", ".join(run["metrics"]),
        "tables": tables if run["windows"] or run["spectra"] else "none",
        "tensors": f"{run['tensors']}{products}",
    }


def run_status(run: RunArchive) -> dict[str, Any]:
    """Counts of one run."""
    steps, findings = run.steps, merged(run.findings)
    tensors = (stored for commit in run.commits for stored in commit.tensors.values())
    stored_in = Counter(stored.array for stored in tensors if stored.shared_with is None)
    nbytes = sum(times * run.arrays[array].spec.nbytes for array, times in stored_in.items())
    return {
        "run": run.name,
        "checkpoints": len(steps),
        "first_step": steps[0] if steps else None,
        "last_step": steps[-1] if steps else None,
        "tensors": len(run.tensors),
        "products": len(find_products((one.spec for one in run.tensors.values()), adapter_of(run.config)).formed),
        "bytes": nbytes,
        "metrics": sorted(run.record["metrics"]),
        "findings": len(findings),
        "errors": sum(finding.severity == "error" for finding in findings),
        "source": run.record["source"],
    }


def _table_rows(
    database: Path, archive_id: str, held: Sequence[RunArchive]
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Rows of windows and spectra for each run, and why they are not those of the archive if they are not."""
    if not database.exists():
        return {}, f"{database} does not exist yet; `sedarchive compute` makes it"
    sql = "SELECT run, count(*) FROM {} GROUP BY run"
    try:
        with Database.read(database, archive_id) as tables:
            windows = dict(tables.rows(sql.format("windows")).rows)
            spectra = dict(tables.rows(sql.format("matrix_spectra")).rows)
            stale = stale_runs(held, tables, thoroughly=True)
    except DatabaseError as error:
        return {}, str(error)
    runs = windows.keys() | spectra.keys() | stale.keys()
    return {
        run: {"windows": windows.get(run, 0), "spectra": spectra.get(run, 0), "stale": stale.get(run)} for run in runs
    }, None
