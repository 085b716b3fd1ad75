"""Metrics of a run from its log files, under canonical names."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedarchive.history import Finding, Metric
from sedarchive.logs.formats import TEXT_SUFFIXES, read_rows
from sedarchive.logs.names import CANONICAL, NO_ALIASES, Aliases, canonical_names
from sedarchive.logs.rows import STEP_NAMES, Row
from sedarchive.logs.sessions import Sessions
from sedarchive.logs.textlogs import TRAINERS
from sedarchive.untrusted import writable
from sedarchive.words import counted

_SPLIT_NAMES = ("split", "phase")
_BOOKKEEPING = frozenset({"", *STEP_NAMES, *_SPLIT_NAMES, "_runtime", "_timestamp", "_wandb"})
_VALUE_LIMIT = 2_000_000
_NAME_LIMIT = 2_000  # each becomes a series of its own in the archive
_DISTINCT_LIMIT, _LONGEST_NAME = 20_000, 10_000
_ROUNDING, _PRINTED_ROUNDING = 1e-6, 1e-3
"""Relative difference of one number in two logs: event files hold float32, text logs a few digits."""


@dataclass
class _Log:
    """Numbers of one file, by the file's own names, and what was not taken."""

    path: Path
    values: list[tuple[str, int, float]] = field(default_factory=list)
    malformed: int = 0
    stepless: int = 0
    not_numbers: int = 0
    not_finite: int = 0
    long_names: int = 0
    superseded: int = 0
    problem: str = ""
    names: dict[str, str] = field(default_factory=dict)

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
        elif len(name) > _LONGEST_NAME:
            self.long_names += 1
        else:
            self.values.append((self._once(name), step, float(value)))

    def _once(self, name: str) -> str:
        """One string for all values of a name: every row brings its own."""
        if len(self.names) >= _DISTINCT_LIMIT and name not in self.names:
            raise ValueError(f"it holds more than {_DISTINCT_LIMIT} different names")
        return self.names.setdefault(name, name)

    def findings(self, n_conflicts: int) -> list[Finding]:
        """At most one finding on what was skipped, and one each on a broken file and on contradictions."""
        found = []
        if self.problem:
            detail = f"{self.path}: it cannot be read as a log ({self.problem[:200]}); what stands before is kept"
            found.append(Finding("unreadable_log", "warning", detail))
        counts = {
            ("malformed row", ""): self.malformed,
            ("row", " without a step"): self.stepless,
            ("value", " other than numbers"): self.not_numbers,
            ("value", " not finite"): self.not_finite,
            ("value", " under names of absurd length"): self.long_names,
            ("value", " of steps that a later session logs again"): self.superseded,
        }
        if any(counts.values()):
            words = ", ".join(f"{counted(count, noun)}{rest}" for (noun, rest), count in counts.items() if count)
            found.append(Finding("skipped_log_values", "info", f"{self.path}: skipped {words}"))
        elif not self.values and not self.problem:
            known = f"; the trainers known are {', '.join(TRAINERS)}" if _is_text(self.path) else ""
            found.append(Finding("no_log_values", "info", f"{self.path}: it holds no number with its step{known}"))
        if n_conflicts:
            values = counted(n_conflicts, "value")
            detail = f"{self.path}: {values} unlike what was read before for the same step; the first stay"
            found.append(Finding("conflicting_log_values", "info", detail))
        return found


def read_metrics(
    logs: Sequence[Path], root: Path, aliases: Aliases = NO_ALIASES
) -> tuple[tuple[Metric, ...], tuple[Finding, ...]]:
    """Metrics of a run.

    Parameters
    ----------
    logs
        Log files, newest first: the first value of a name and step stays, later files fill what is missing. Of the
        sessions of one logger (TensorBoard's files, wandb's and MLflow's runs) an older one counts up to the first
        step of the newer one, as the training that was resumed there did.
    root
        Folder of the run, to which the metrics' sources are relative.
    aliases
        Names of the user's own for names in logs.

    Returns
    -------
    metrics : tuple of Metric
        Sorted by name and step; finite values only.
    findings : tuple of Finding
        What was skipped, a count a file. Malformed files give findings, never exceptions.
    """
    first: dict[tuple[str, int], Metric] = {}
    findings: list[Finding] = []
    sessions = Sessions()
    for path in logs:
        log = _read(path, root, _VALUE_LIMIT - len(first))
        sessions.enter(path)
        n_conflicts = _merge(log, root, aliases, sessions, first)
        findings += log.findings(n_conflicts)
    kept = _few_names(first, findings)
    return tuple(first[key] for key in sorted(first) if key[0] in kept), tuple(findings)


def _few_names(first: Mapping[tuple[str, int], Metric], findings: list[Finding]) -> frozenset[str]:
    """Names to keep: all, or the canonical ones and as many others as there is room for."""
    names = sorted(dict.fromkeys(name for name, _ in first), key=lambda name: name not in CANONICAL)
    if len(names) > _NAME_LIMIT:
        detail = (
            f"the logs hold {len(names)} different metrics; {_NAME_LIMIT} are kept, {names[_NAME_LIMIT][:80]!r} is not"
        )
        findings.append(Finding("many_metrics", "warning", detail))
    return frozenset(names[:_NAME_LIMIT])


def _read(path: Path, root: Path, room: int) -> _Log:
    log = _Log(path)
    try:
        for row in read_rows(path, root.name):
            log.add(row)
            if len(log.values) > room:
                raise ValueError(f"the logs hold more than {_VALUE_LIMIT} values")
    except (OSError, ValueError, RecursionError) as error:
        log.problem = f"{type(error).__name__}: {error}"
    return log


def _merge(log: _Log, root: Path, aliases: Aliases, sessions: Sessions, first: dict[tuple[str, int], Metric]) -> int:
    """Add the values of one log where there is none yet; the number of contradictions."""
    names = canonical_names((name for name, _, _ in log.values), aliases)
    names = {raw: writable(name) for raw, name in names.items()}
    source = writable(Path(os.path.relpath(log.path, root)).as_posix())
    n_conflicts = 0
    for raw, step, value in log.values:
        if not sessions.admits(names[raw], step):
            log.superseded += 1
            continue
        metric = Metric(names[raw], step, value, source)
        kept = first.setdefault((metric.name, step), metric)
        n_conflicts += not _agree(kept, metric)
    return n_conflicts


def _agree(one: Metric, other: Metric) -> bool:
    """Whether two values are the same number, as far as their logs keep it."""
    printed = _is_text(Path(one.source)) or _is_text(Path(other.source))
    return math.isclose(one.value, other.value, rel_tol=_PRINTED_ROUNDING if printed else _ROUNDING)


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in TEXT_SUFFIXES


def _step(row: Row) -> int | None:
    """Step of a row: a whole number from 0 that 64 bits hold."""
    value = next((row[name] for name in STEP_NAMES if name in row), None)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**63 else None


def _split(row: Row) -> str:
    """Prefix for the names of a row that says which data it is about (``{"split": "val", "loss": 2.3}``)."""
    value = next((row[name] for name in _SPLIT_NAMES if isinstance(row.get(name), str)), "")
    return f"{value}/" if value else ""
