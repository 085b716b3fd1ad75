"""Brings ``phases`` and ``events`` of a run up to date, from the tables of windows and metrics alone."""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.inference.phase_rows import (
    NULL_WALKS,
    LogSeries,
    WindowedScope,
    grok_rows,
    rows_of_size,
)
from sedarchive.compute.keyed import WHOLE, KeyedRows, Outstanding, Owned, Pair
from sedarchive.compute.rolling.standing import StandingWindows
from sedarchive.compute.rolling.window_tables import read_windows, window_keys
from sedarchive.compute.row_columns import Row, columns_of
from sedarchive.compute.stages import Stage, of_one_size
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.tables import Database

ALGORITHM = "phases-5"
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
_INPUTS = ("step", "step_first", "edge_ratio", "edge_ratio_null", "signal_rank", "p_eff")


def keyed_phases(run: str) -> KeyedRows:
    """Rows of ``phases`` and ``events`` of one run."""
    tables = Owned("phases"), Owned("events", kind="event", kinds=_EVENTS)
    return KeyedRows(run, "phases", ALGORITHM, tables, json.dumps({"null_walks": NULL_WALKS}))


def wanted_phases(database: Database, run: str, sizes: Collection[int]) -> dict[Pair, str]:
    """Keys of what should stand, by scope and size: a hash of the windows and the logs."""
    return _wanted(database, run, sizes, _Logs.read(database, run))


def phase_stages(run: str, sizes: Collection[int], turns: Turns) -> list[Stage[Any]]:
    """Stages that derive the phases and events of a run that are missing or stale; none if all stand.

    ``sizes`` are the window sizes that were asked for, whose null is in the tables.
    """
    started = datetime.now(UTC)
    keyed = keyed_phases(run)
    logs = _Logs.read(turns.database, run)
    work = keyed.outstanding(turns.database, _wanted(turns.database, run, sizes, logs))
    if not work:
        return []
    windows = _read(turns.database, run, work, logs)

    def write(found: Iterator[tuple[list[Row], list[Row]]]) -> None:
        phases, events = _merged(found)
        if WHOLE in work.keys:
            events += grok_rows(logs.accuracy)
        rows = {"phases": [columns_of(phases, _PHASE_COLUMNS)], "events": [columns_of(events, _EVENT_COLUMNS)]}
        keyed.write(turns.database, work, rows, started)

    tasks = [partial(rows_of_size, together) for together in of_one_size(windows)]
    return [Stage(tasks, len(tasks), write, sum(len(one.step) for one in windows))]


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
    keys: dict[Pair, str | None] = {WHOLE: None}
    keys |= {pair: key for pair, key in window_keys(database, run).items() if pair[1] in sizes}
    return {pair: canonical_digest([ALGORITHM, NULL_WALKS, key, logs.digest])[:16] for pair, key in keys.items()}


def _merged(found: Iterable[tuple[list[Row], list[Row]]]) -> tuple[list[Row], list[Row]]:
    phases: list[Row] = []
    events: list[Row] = []
    for more_phases, more_events in found:
        phases += more_phases
        events += more_events
    return phases, events


def _read(database: Database, run: str, work: Outstanding, logs: _Logs) -> list[WindowedScope]:
    steps = database.rows("SELECT step FROM checkpoints WHERE run = ? ORDER BY step", [run]).column("step")
    checkpoints = np.array(steps, dtype=np.int64)
    standing = read_windows(database, run, work.pairs, _INPUTS, ("ratio",))
    return [_windowed(one, checkpoints, logs.loss) for one in standing]


def _windowed(standing: StandingWindows, checkpoints: NDArray[np.int64], loss: LogSeries | None) -> WindowedScope:
    columns = standing.windows
    return WindowedScope(
        scope=standing.scope,
        size=standing.size,
        checkpoints=checkpoints,
        step=columns["step"],
        step_first=columns["step_first"],
        edge_ratio=columns["edge_ratio"],
        edge_ratio_null=columns["edge_ratio_null"],
        ratio=standing.sigmas["ratio"],
        signal_rank=np.nan_to_num(columns["signal_rank"]).astype(np.int64),
        norms=standing.norms,
        p_eff=standing.p_eff,
        loss=loss,
    )
