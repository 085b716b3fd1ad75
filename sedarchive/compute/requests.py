"""What the user has asked of an archive so far: kept in the database, refreshed by every ``compute``."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedarchive.errors import HistoryError
from sedarchive.leaves import DEFAULT_SCOPES
from sedarchive.tables import Database

OpenDatabase = Callable[[], AbstractContextManager[Database]]
"""Opens the database for one short transaction, so that readers get their turn."""
DEFAULT_WINDOWS = (5, 10, 15, 20, 25, 30)
DEFAULT_WINDOW = 10
RUNS_INFO_COLUMNS = (
    *("run_group", "family", "task", "seed", "optimizer", "beta1", "beta2", "lr", "weight_decay", "arm", "dose"),
    *("parent_run", "parent_step"),
)


@dataclass(frozen=True)
class Requests:
    """Everything asked for: defaults, earlier requests and this one's."""

    windows: tuple[int, ...]
    """Window sizes to derive."""
    windows_with_null: frozenset[int]
    """Of these the ones asked for, whose null is sampled: that costs far more than the windows themselves."""
    scopes: tuple[str, ...]
    runs_info: dict[str, dict[str, str]]
    """Run -> column -> value, from ``--runs-info``."""


def parse_windows(values: Iterable[str]) -> list[int]:
    """Window sizes from ``10``, ``5,10`` and ``5..30``.

    Raises
    ------
    ValueError
        If a value is none of these, or a window is shorter than 2 updates.
    """
    sizes: set[int] = set()
    for part in (part for value in values for part in value.split(",")):
        first, dots, last = part.strip().partition("..")
        try:
            span = range(int(first), int(last if dots else first) + 1)
        except ValueError:
            span = range(0)
        if not span or span[0] < 2:
            raise ValueError(f"{part!r} is not a window size; write 10, or 5,10, or 5..30; at least 2")
        sizes.update(span)
    return sorted(sizes)


def read_runs_info(path: Path) -> dict[str, dict[str, str]]:
    """Facts about runs from a CSV file with a column ``run``.

    Raises
    ------
    HistoryError
        If the file cannot be read or has other columns.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HistoryError(f"{path}: cannot be read as CSV ({error})") from error
    columns = set(rows[0]) if rows else set()
    if "run" not in columns or not columns <= {"run", *RUNS_INFO_COLUMNS}:
        raise HistoryError(f"{path}: needs a column run, and of others only {', '.join(RUNS_INFO_COLUMNS)}")
    return {row["run"]: {name: value for name, value in row.items() if name != "run" and value} for row in rows}


def record_requests(
    database: Database,
    windows: Sequence[int],
    scopes: Sequence[str],
    runs_info: dict[str, dict[str, str]],
    layout: Mapping[str, int | None],
) -> Requests:
    """Add a request to those recorded, and return all of them."""
    known: dict[str, list[str]] = {}
    for kind, value in database.rows("SELECT kind, value FROM requests ORDER BY kind, value").rows:
        known.setdefault(kind, []).append(value)
    asked = sorted({*map(int, known.get("window", [])), *windows}) or [DEFAULT_WINDOW]
    kept = [scope for scope in known.get("scope", []) if _own_name(scope) not in {*map(_own_name, scopes)} - {None}]
    all_scopes = list(dict.fromkeys([*DEFAULT_SCOPES, *kept, *scopes]))
    info: dict[str, dict[str, str]] = json.loads(known.get("runs_info", ["{}"])[0]) | runs_info
    recorded = [("window", str(size)) for size in asked] + [("scope", scope) for scope in all_scopes]
    recorded += [(name, str(value)) for name, value in sorted(layout.items()) if value is not None]
    recorded += [("runs_info", json.dumps(info, sort_keys=True))] if info else []
    kinds, values = zip(*recorded, strict=True)
    database.replace("requests", {}, {"kind": list(kinds), "value": list(values)})
    return Requests(tuple(sorted({*DEFAULT_WINDOWS, *asked})), frozenset(asked), tuple(all_scopes), info)


def recorded_layout(database: Database) -> dict[str, int]:
    """Options that change what leaves and Gram matrices are, as they were last asked for: heads, kv_heads, band."""
    sql = "SELECT kind, value FROM requests WHERE kind IN ('heads', 'kv_heads', 'band')"
    return {kind: int(value) for kind, value in database.rows(sql).rows}


def _own_name(scope: str) -> str | None:
    """NAME of a scope NAME=glob,glob; None for the others. A new definition replaces the old one."""
    name, equals, _ = scope.partition("=")
    return name if equals else None


def run_facts(config: dict[str, Any], info: dict[str, str]) -> dict[str, Any]:
    """Columns of ``runs`` that come from a config or, overruling it, from ``--runs-info``."""
    betas = _find(config, "betas")
    pair = betas if isinstance(betas, list) and len(betas) == 2 else [None, None]
    facts = {name: _scalar(_find(config, *_CONFIG_KEYS.get(name, (name,)))) for name in RUNS_INFO_COLUMNS}
    facts["beta1"] = facts["beta1"] if facts["beta1"] is not None else _scalar(pair[0])
    facts["beta2"] = facts["beta2"] if facts["beta2"] is not None else _scalar(pair[1])
    typed = {name: _typed(name, value) for name, value in facts.items()}
    return typed | {name: _typed(name, value) for name, value in info.items()}


_CONFIG_KEYS = {
    "lr": ("lr", "learning_rate", "max_lr"),
    "weight_decay": ("weight_decay", "wd"),
    "optimizer": ("optimizer", "optim"),
    "beta1": ("beta1", "adam_beta1"),
    "beta2": ("beta2", "adam_beta2"),
    "family": ("model_type", "family"),
}
_WHOLE = frozenset({"seed", "parent_step"})
_REAL = frozenset({"beta1", "beta2", "lr", "weight_decay", "dose"})


def _find(config: dict[str, Any], *keys: str) -> Any:
    """First of some keys at the top of a config or one level down."""
    levels = [config, *(value for value in config.values() if isinstance(value, dict))]
    return next((level[key] for level in levels for key in keys if level.get(key) is not None), None)


def _scalar(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _typed(name: str, value: Any) -> Any:
    """Value in its column's type; None where it does not fit."""
    if value is None or name not in _WHOLE | _REAL:
        return None if value is None else str(value)
    try:
        return int(value) if name in _WHOLE else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
