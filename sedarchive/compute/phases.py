"""Brings ``phases`` and ``events`` of a run up to date, from the tables of windows and metrics alone."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive import __version__
from sedarchive.archive.records import canonical_digest
from sedarchive.compute.phase_rows import (
    NULL_WALKS,
    LogSeries,
    Row,
    WindowedScope,
    columns_of,
    event_rows,
    grok_rows,
    phase_rows,
)
from sedarchive.compute.requests import OpenDatabase
from sedarchive.executor import Executor
from sedarchive.tables import Database

ALGORITHM = "phases-1"
PHASE_TABLES = ("phases", "events")
_EVENTS = ("collapse", "stabilisation", "shift", "grok")
"""Kinds of events that are written here."""
_PHASE_COLUMNS = (
    *("scope", "window_size", "k", "method", "phase", "step_from", "step_to", "threshold", "is_modal", "peak_ratio"),
    *("null_peak_ratio", "null_share", "null_walks", "status"),
)
_EVENT_COLUMNS = (
    *("scope", "window_size", "event", "method", "step", "low", "high", "p", "causal", "feature", "k", "change"),
    "status",
)
Pair = tuple[str | None, int | None]
"""(scope, window size); (None, None) stands for what a run has once."""


def refresh_phases(run: str, sizes: Collection[int], open_database: OpenDatabase, executor: Executor) -> int:
    """Derive the phases and events of a run that are missing or stale; return how many (scope, size) pairs were.

    ``sizes`` are the window sizes that were asked for, whose null is in the tables.
    """
    started = datetime.now(UTC)
    with open_database() as database:
        logs = _Logs.read(database, run)
        wanted = _wanted(database, run, sizes, logs)
        known = _known(database, run)
        new = [pair for pair, key in wanted.items() if known.get(pair) != key]
        gone = [pair for pair in known if pair not in wanted]
        if not new and not gone:
            return 0
        windows = _read_windows(database, run, [pair for pair in new if pair[0] is not None], logs)
    found = executor.map(_rows_of_pair, windows)
    phases, events = _merged(found)
    if (None, None) in new:
        events += grok_rows(logs.accuracy)
    with open_database() as database, database.transaction():
        for pair in [*(pair for pair in new if pair in known), *gone]:
            _remove(database, run, pair)
        for table, rows, names in (("phases", phases, _PHASE_COLUMNS), ("events", events, _EVENT_COLUMNS)):
            if rows:
                database.insert(table, {"run": run, **columns_of(rows, names)})
        _record(database, run, {pair: wanted[pair] for pair in new}, started)
    return len(new)


@dataclass(frozen=True)
class _Logs:
    """What of a run's metrics is looked at."""

    loss: LogSeries | None
    """Validation loss at the checkpoints; training loss if there is none."""
    accuracy: LogSeries | None
    """Validation accuracy, at the steps of its log."""

    @classmethod
    def read(cls, database: Database, run: str) -> "_Logs":
        at_checkpoints = (
            "SELECT step, value FROM checkpoint_metrics "
            "WHERE run = ? AND name = ? AND join_rule = 'interpolate' ORDER BY step"
        )
        as_logged = (
            "SELECT step, min_by(value, coalesce(source, '')) FROM metrics "
            "WHERE run = ? AND name = ? AND isfinite(value) GROUP BY step ORDER BY step"
        )
        loss = _log(database, at_checkpoints, run, "val_loss") or _log(database, at_checkpoints, run, "train_loss")
        return cls(loss, _log(database, as_logged, run, "val_acc"))

    @property
    def digest(self) -> str:
        series = [one for one in (self.loss, self.accuracy) if one is not None]
        return canonical_digest([[one.name, one.steps.tolist(), one.values.tolist()] for one in series])


def _log(database: Database, sql: str, run: str, name: str) -> LogSeries | None:
    rows = database.rows(sql, [run, name]).rows
    if not rows:
        return None
    steps, values = zip(*rows, strict=True)
    return LogSeries(name, np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))


def _wanted(database: Database, run: str, sizes: Collection[int], logs: _Logs) -> dict[Pair, str]:
    """Keys of what should stand, by scope and size: a hash of the windows and the logs."""
    sql = "SELECT scope, window_size, key FROM computations WHERE run = ? AND table_name = 'windows' ORDER BY ALL"
    keys: dict[Pair, Any] = {(None, None): None}
    keys |= {(scope, size): key for scope, size, key in database.rows(sql, [run]).rows if size in sizes}
    return {pair: canonical_digest([ALGORITHM, NULL_WALKS, key, logs.digest])[:16] for pair, key in keys.items()}


def _known(database: Database, run: str) -> dict[Pair, str]:
    sql = "SELECT scope, window_size, key FROM computations WHERE run = ? AND table_name = 'phases'"
    return {(scope, size): key for scope, size, key in database.rows(sql, [run]).rows}


def _rows_of_pair(windows: WindowedScope) -> tuple[list[Row], list[Row]]:
    named: Row = {"scope": windows.scope, "window_size": windows.size}
    return [named | row for row in phase_rows(windows)], [named | row for row in event_rows(windows)]


def _merged(found: Any) -> tuple[list[Row], list[Row]]:
    phases: list[Row] = []
    events: list[Row] = []
    for more_phases, more_events in found:
        phases += more_phases
        events += more_events
    return phases, events


def _read_windows(database: Database, run: str, pairs: Sequence[Pair], logs: _Logs) -> list[WindowedScope]:
    steps = database.rows("SELECT step FROM checkpoints WHERE run = ? ORDER BY step", [run]).column("step")
    checkpoints = np.array(steps, dtype=np.int64)
    return [
        _read_pair(database, run, scope, size, checkpoints, logs.loss)
        for scope, size in pairs
        if scope is not None and size is not None
    ]


def _read_pair(
    database: Database,
    run: str,
    scope: str,
    size: int,
    checkpoints: NDArray[np.int64],
    loss: LogSeries | None,
) -> WindowedScope:
    of_windows = (
        "SELECT step, step_first, edge_ratio, edge_ratio_null, signal_rank, p_eff FROM windows "
        "WHERE run = ? AND scope = ? AND window_size = ? ORDER BY step"
    )
    of_sigmas = "SELECT ratio FROM window_sigmas WHERE run = ? AND scope = ? AND window_size = ? ORDER BY step, k"
    of_updates = "SELECT norm FROM updates WHERE run = ? AND scope = ? ORDER BY step"
    windows = _floats(database, of_windows, [run, scope, size])
    return WindowedScope(
        scope=scope,
        size=size,
        checkpoints=checkpoints,
        step=windows[:, 0].astype(np.int64),
        step_first=windows[:, 1].astype(np.int64),
        edge_ratio=windows[:, 2],
        edge_ratio_null=windows[:, 3],
        ratio=_floats(database, of_sigmas, [run, scope, size]).reshape(len(windows), size),
        signal_rank=np.nan_to_num(windows[:, 4]).astype(np.int64),
        norms=_floats(database, of_updates, [run, scope])[:, 0],
        p_eff=float(windows[0, 5]) if len(windows) else 1.0,
        loss=loss,
    )


def _floats(database: Database, sql: str, parameters: Sequence[Any]) -> NDArray[np.float64]:
    """Rows of numbers (n, columns), NULL as NaN."""
    result = database.rows(sql, parameters)
    return np.array(result.rows, dtype=np.float64).reshape(len(result.rows), len(result.columns))


def _remove(database: Database, run: str, pair: Pair) -> None:
    where: Mapping[str, Any] = {"run": run, "scope": pair[0], "window_size": pair[1]}
    database.replace("phases", where, {})
    for event in _EVENTS:
        database.replace("events", {**where, "event": event}, {})
    database.replace("computations", {**where, "table_name": "phases"}, {})


def _record(database: Database, run: str, keys: Mapping[Pair, str], started: datetime) -> None:
    if not keys:
        return
    shared = {
        "options": json.dumps({"null_walks": NULL_WALKS}),
        "versions": f"sedarchive {__version__}, numpy {np.__version__}, {ALGORITHM}",
        "started": started,
        "finished": datetime.now(UTC),
    }
    columns = {name: [value] * len(keys) for name, value in shared.items()}
    columns |= {"scope": [pair[0] for pair in keys], "window_size": [pair[1] for pair in keys]}
    database.insert("computations", {"run": run, "table_name": "phases", "key": list(keys.values()), **columns})
