"""The whole way once: train, ingest, compute, draw."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.demo.story import WINDOW_SIZE, found, sentences
from sedarchive.demo.train import TrainSettings, train_pair
from sedarchive.errors import SedarchiveError
from sedarchive.figure import draw_edge
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.result import Result
from sedarchive.tables import Database


@dataclass(frozen=True)
class Tour:
    """What the demonstration made."""

    runs: Path
    archive: Path
    database: Path
    figure: Path
    table: Result
    sentences: list[str]


def take_tour(folder: Path, settings: TrainSettings, workers: int, progress: Callable[[str, int, int], None]) -> Tour:
    """Train two runs in ``folder``, archive and analyse them, and draw their edge ratio.

    Raises
    ------
    MissingExtraError
        If torch or matplotlib is not installed.
    HistoryError
        If the folder holds runs already.
    """
    runs, archive, database = folder / "runs", folder / "archive.zarr", folder / "archive.duckdb"
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
