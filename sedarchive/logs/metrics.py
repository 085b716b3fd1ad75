"""Metrics of a run from its log files, under canonical names."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedarchive.history import Finding, Metric
from sedarchive.logs.names import canonical_names
from sedarchive.logs.rows import Row, read_rows

_STEP_NAMES = ("step", "global_step", "iter", "iter_num", "iteration", "_step")
_SPLIT_NAMES = ("split", "phase")
_BOOKKEEPING = frozenset({*_STEP_NAMES, *_SPLIT_NAMES})


@dataclass
class _Log:
    """Numbers of one file, by the file's own names, and what was not taken."""

    path: Path
    values: list[tuple[str, int, float]] = field(default_factory=list)
    malformed: int = 0
    stepless: int = 0
    not_numbers: int = 0
    not_finite: int = 0
    problem: str = ""

    def add(self, row: Row | None) -> None:
        if row is None:
            self.malformed += 1
            return
        step = _step(row)
        if step is None:
            self.stepless += 1
            return
        prefix = _split(row)
        for name, value in row.items():
            if name not in _BOOKKEEPING and isinstance(name, str):
                self._add_value(prefix + name, step, value)

    def _add_value(self, name: str, step: int, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.not_numbers += 1
        elif (isinstance(value, int) and value.bit_length() > 1000) or not math.isfinite(value):
            self.not_finite += 1
        else:
            self.values.append((name, step, float(value)))

    def findings(self, n_conflicts: int) -> list[Finding]:
        """At most one finding on what was skipped, and one each on a broken file and on contradictions."""
        found = []
        if self.problem:
            detail = f"{self.path}: it cannot be read as a log ({self.problem[:200]}); what stands before is kept"
            found.append(Finding("unreadable_log", "warning", detail))
        counts = {
            "malformed rows": self.malformed,
            "rows without a step": self.stepless,
            "values that are not numbers": self.not_numbers,
            "values that are not finite": self.not_finite,
        }
        if any(counts.values()):
            words = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            found.append(Finding("skipped_log_values", "info", f"{self.path}: skipped {words}"))
        if n_conflicts:
            detail = f"{self.path}: {n_conflicts} values differ from ones read before for the same step; the first stay"
            found.append(Finding("conflicting_log_values", "info", detail))
        return found


def read_metrics(logs: Sequence[Path], root: Path) -> tuple[tuple[Metric, ...], tuple[Finding, ...]]:
    """Metrics of a run.

    Parameters
    ----------
    logs
        Log files (JSON lines, CSV, ``trainer_state.json``), newest first: the first value of a name and
        step stays, later files fill what is missing.
    root
        Folder of the run, to which the metrics' sources are relative.

    Returns
    -------
    metrics : tuple of Metric
        Sorted by name and step; finite values only.
    findings : tuple of Finding
        What was skipped, a count a file. Malformed files give findings, never exceptions.
    """
    first: dict[tuple[str, int], Metric] = {}
    findings: list[Finding] = []
    for path in logs:
        log = _read(path)
        findings += log.findings(_merge(log, path, root, first))
    return tuple(first[key] for key in sorted(first)), tuple(findings)


def _read(path: Path) -> _Log:
    log = _Log(path)
    try:
        for row in read_rows(path):
            log.add(row)
    except (OSError, ValueError, RecursionError) as error:
        log.problem = f"{type(error).__name__}: {error}"
    return log


def _merge(log: _Log, path: Path, root: Path, first: dict[tuple[str, int], Metric]) -> int:
    """Add the values of one log where there is none yet; the number of contradictions."""
    names = canonical_names(name for name, _, _ in log.values)
    source = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    n_conflicts = 0
    for raw, step, value in log.values:
        metric = Metric(names[raw], step, value, source)
        kept = first.setdefault((metric.name, step), metric)
        n_conflicts += kept.value != value
    return n_conflicts


def _step(row: Row) -> int | None:
    """Step of a row: a whole number from 0 that 64 bits hold."""
    value = next((row[name] for name in _STEP_NAMES if name in row), None)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**63 else None


def _split(row: Row) -> str:
    """Prefix for the names of a row that says which data it is about (``{"split": "val", "loss": 2.3}``)."""
    value = next((row[name] for name in _SPLIT_NAMES if isinstance(row.get(name), str)), "")
    return f"{value}/" if value else ""
