"""Whether the tables hold what the archive holds: runs grow, and tables are made by ``compute`` alone."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sedarchive.archive import Archive, RunArchive
from sedarchive.archive.commits import COMMITS
from sedarchive.errors import ArchiveError, DatabaseError
from sedarchive.tables import Database
from sedarchive.words import counted

_Checkpoints = list[tuple[int, str]]
"""Step and digest of each."""


def stale_runs(runs: Iterable[RunArchive], tables: Database, *, thoroughly: bool) -> dict[str, str]:
    """Why the tables of some runs are not those of the archive, by run.

    Parameters
    ----------
    runs
        The runs of an archive.
    tables
        Its tables.
    thoroughly
        Read the commit records of every run; otherwise only where their number is not that of the tables.
    """
    held: dict[str, _Checkpoints] = {}
    for run, step, digest in tables.rows("SELECT run, step, digest FROM checkpoints ORDER BY run, step").rows:
        held.setdefault(run, []).append((step, digest))
    found = {}
    for run in runs:
        before = held.get(run.name, [])
        if thoroughly or _n_records(run) != len(before):
            with suppress(ArchiveError):  # of a damaged run others tell
                found[run.name] = _difference([(one.step, one.digest) for one in run.commits], before)
    return {run: why for run, why in found.items() if why}


def stale_words(archive: Path, database: Path) -> list[str]:
    """Sentences on runs whose tables are behind; none where the archive is not the one of the database, or gone."""
    try:
        opened = Archive(archive)
        with Database.read(database, opened.archive_id) as tables:
            stale = stale_runs(opened.runs(), tables, thoroughly=False)
    except (ArchiveError, DatabaseError):
        return []
    return [f"{run}: {why}; `sedarchive compute` brings them up to date" for run, why in stale.items()]


def _n_records(run: RunArchive) -> int:
    return sum(1 for _ in (run.folder / COMMITS).glob("*.json"))


def _difference(archived: _Checkpoints, held: _Checkpoints) -> str:
    """What the tables lack; empty if nothing."""
    if archived == held:
        return ""
    if not held:
        return "the tables hold nothing of it yet"
    missing, gone = len(set(archived) - set(held)), len(set(held) - set(archived))
    if not gone:
        return f"the tables lack {counted(missing, 'checkpoint')} that came since"
    return f"the tables are of other content at {counted(max(missing, gone), 'checkpoint')}"
