"""Which reader a log's name calls for."""

from collections.abc import Iterator
from pathlib import Path

from sedarchive.logs.mlflow import metric_name, metric_rows
from sedarchive.logs.rows import Row, csv_rows, json_rows, jsonl_rows, trainer_rows
from sedarchive.logs.tensorboard import event_rows
from sedarchive.logs.textlogs import text_rows
from sedarchive.logs.wandb import SUMMARY, export_columns, summary_rows

TEXT_SUFFIXES = frozenset({".log", ".out", ".txt"})
EVENTS = ".tfevents."
"""Part of the names of TensorBoard's files."""
_KNOWN = {"trainer_state.json": "Trainer", SUMMARY: "wandb summary"}


def log_kind(path: Path) -> str:
    """What a log is, by its name, in a word or two for people."""
    name, suffix = path.name, path.suffix.lower()
    if metric_name(path) is not None:
        return "MLflow"
    if EVENTS in name:
        return "TensorBoard"
    if name in _KNOWN:
        return _KNOWN[name]
    if suffix in TEXT_SUFFIXES:
        return "printed"
    return {".csv": "CSV", ".json": "JSON"}.get(suffix, "JSON lines")


def read_rows(path: Path, run: str = "") -> Iterator[Row | None]:
    """Rows of a log in file order; None for each entry that is malformed.

    Parameters
    ----------
    path
        The log; its name tells its format.
    run
        Name of the run, for files that hold several.

    Raises
    ------
    OSError, ValueError, RecursionError
        If the file cannot be read, or not from some place on; the rows before have been given.
    """
    name, suffix = path.name, path.suffix.lower()
    metric = metric_name(path)
    if metric is not None:
        return metric_rows(path, metric)
    if EVENTS in name:
        return event_rows(path)
    if suffix == ".csv":
        return csv_rows(path, lambda names: export_columns(names, run))
    if suffix in TEXT_SUFFIXES:
        return text_rows(path)
    if suffix == ".json":
        return {"trainer_state.json": trainer_rows, SUMMARY: summary_rows}.get(name, json_rows)(path)
    return jsonl_rows(path)
