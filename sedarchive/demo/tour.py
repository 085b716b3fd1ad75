"""The whole way once: train, ingest, compute, draw."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sedarchive.archive import Archive
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.demo.pair import runs_to_train, train_pair
from sedarchive.demo.story import WINDOW_SIZE, found, sentences
from sedarchive.demo.train import TrainSettings, require_torch
from sedarchive.errors import ArchiveNotFoundError, HistoryError, SedarchiveError
from sedarchive.figure import draw_edge, require_matplotlib
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.result import Result
from sedarchive.tables import Database

_RUNS, _ARCHIVE, _DATABASE = "runs", "archive.zarr", "archive.duckdb"


@dataclass(frozen=True)
class Tour:
    """What the demonstration made."""

    runs: Path
    archive: Path
    database: Path
    figure: Path
    table: Result
    sentences: list[str]


def check_way(folder: Path, settings: TrainSettings) -> tuple[str, ...]:
    """Names of the runs that :func:`take_tour` would train in ``folder``: those that are not complete there.

    Raises
    ------
    MissingExtraError
        If torch or matplotlib is not installed.
    HistoryError
        If what the folder holds is not of a demo with these settings, or only half of one is left.
    """
    require_torch()
    require_matplotlib()
    to_train = runs_to_train(folder / _RUNS, settings)
    archive, database = folder / _ARCHIVE, folder / _DATABASE
    try:
        archived = Archive(archive).run_names
    except ArchiveNotFoundError:
        archived = ()
    for name in to_train:
        if name in archived:  # the new one need not be equal to the bit, and would be refused after it was trained
            raise HistoryError(
                f"{archive} holds {name} already, but {folder / _RUNS / name} is no longer complete; "
                "choose another folder"
            )
    if database.exists() and not archive.exists():
        raise HistoryError(f"{database} holds the tables of an archive that is gone; choose another folder")
    return to_train


def take_tour(folder: Path, settings: TrainSettings, workers: int, progress: Callable[[str, int, int], None]) -> Tour:
    """Train two runs in ``folder``, archive and analyse them, and draw their edge ratio; what stands is used again.

    Raises
    ------
    MissingExtraError, HistoryError
        As :func:`check_way`, before anything is done.
    """
    check_way(folder, settings)
    runs, archive, database = folder / _RUNS, folder / _ARCHIVE, folder / _DATABASE
    figure = folder / "edge.png"
    train_pair(runs, settings, lambda run, step: progress(f"train {run}", step, settings.steps))
    for report in ingest([runs], archive, IngestOptions(workers=workers), progress):
        if report.error:
            raise SedarchiveError(report.error)
    for computed in compute(archive, database, ComputeOptions(windows=(WINDOW_SIZE,), workers=workers), progress):
        if computed.error:
            raise SedarchiveError(computed.error)
    with Database.read(database) as tables:
        table = found(tables)
        draw_edge(tables, figure, WINDOW_SIZE)
    return Tour(runs, archive, database, figure, table, sentences(table))
