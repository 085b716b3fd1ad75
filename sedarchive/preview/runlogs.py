"""What each log of a run says: its kind, its metrics and their steps."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sedarchive.history import Finding, Metric, RunSource
from sedarchive.logs import CANONICAL, Aliases, log_kind, read_metrics


@dataclass(frozen=True)
class LogPlan:
    """What one log adds to the metrics of its run."""

    path: str
    """Relative to the run's folder."""
    kind: str
    metrics: tuple[str, ...]
    """Names under which its values stand, those that the analyses know first; none where newer logs say it all."""
    values: int
    first_step: int | None
    last_step: int | None


def look_at_logs(source: RunSource, aliases: Aliases) -> tuple[list[LogPlan], tuple[Metric, ...], tuple[Finding, ...]]:
    """Read the logs of a run as an ingest does.

    Returns
    -------
    logs : list of LogPlan
        Those that add values first.
    metrics : tuple of Metric
        All values.
    findings : tuple of Finding
        What was skipped in the logs.
    """
    metrics, findings = read_metrics(source.logs, source.folder, aliases)
    by_file: dict[str, list[Metric]] = {}
    for metric in metrics:
        by_file.setdefault(metric.source, []).append(metric)
    logs = [_log(path, Path(os.path.relpath(path, source.folder)).as_posix(), by_file) for path in source.logs]
    return sorted(logs, key=lambda log: not log.values), metrics, findings


def _log(path: Path, name: str, by_file: dict[str, list[Metric]]) -> LogPlan:
    values: Sequence[Metric] = by_file.get(name, ())
    names = sorted({metric.name for metric in values}, key=lambda each: (each not in CANONICAL, each))
    steps = [metric.step for metric in values]
    return LogPlan(
        path=name,
        kind=log_kind(path),
        metrics=tuple(names),
        values=len(values),
        first_step=min(steps, default=None),
        last_step=max(steps, default=None),
    )
