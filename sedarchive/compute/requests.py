"""What the user has asked of an archive so far: kept in the database, refreshed by every ``compute``."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sedarchive.errors import HistoryError, UnknownNameError
from sedarchive.families import Family, parse_family
from sedarchive.leaves import DEFAULT_SCOPES
from sedarchive.presets import PRESETS
from sedarchive.recipes import shortened
from sedarchive.tables import Database

DEFAULT_WINDOWS = (5, 10, 15, 20, 25, 30)
DEFAULT_WINDOW = 10
DEFAULT_PROJECTION_SEEDS = 3
RUNS_INFO_COLUMNS = (
    *("run_group", "family", "task", "seed", "optimizer", "beta1", "beta2", "lr", "weight_decay", "arm", "dose"),
    *("parent_run", "parent_step"),
)


@dataclass(frozen=True)
class MatrixRequests:
    """What is wanted of the matrices beside the metrics that all have."""

    truncated: bool = False
    """Power laws with an exponential end."""
    aspects: tuple[float, ...] = ()
    """Aspect ratios of sub-matrices, for which weights are read."""

    @classmethod
    def of(cls, known: Mapping[str, Sequence[str]]) -> "MatrixRequests":
        """Those of recorded values by kind."""
        return cls("truncated" in known, tuple(map(float, known.get("fixed_aspect", ()))))

    def and_those(self, before: "MatrixRequests") -> "MatrixRequests":
        """These and earlier ones."""
        aspects = {*before.aspects, *self.aspects}
        return MatrixRequests(self.truncated or before.truncated, tuple(sorted(aspects)))

    @property
    def recorded(self) -> list[tuple[str, str]]:
        """As kind and value."""
        aspects = [("fixed_aspect", repr(aspect)) for aspect in self.aspects]
        return aspects + ([("truncated", "yes")] if self.truncated else [])


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
    projections: tuple[int, ...] = ()
    """Dimensions of random projections, for windows with null."""
    projection_seeds: int = DEFAULT_PROJECTION_SEEDS
    presets: tuple[str, ...] = ()
    """Names of presets to follow."""
    matrices: MatrixRequests = field(default_factory=MatrixRequests)

    @property
    def projected_scopes(self) -> tuple[str, ...]:
        """Scopes whose updates are projected: all parameters, and what was asked for by name."""
        return ("all", *(scope for scope in self.scopes if scope not in DEFAULT_SCOPES))


@dataclass(frozen=True)
class Withdrawn:
    """Earlier requests that are wanted no more."""

    windows: tuple[int, ...] = ()
    scopes: tuple[str, ...] = ()

    def check(self, windows: Iterable[int], scopes: Iterable[str]) -> None:
        """Refuse to withdraw what nobody has asked for.

        Raises
        ------
        UnknownNameError
            Naming what was.
        """
        for what, names, known in (("window", self.windows, windows), ("scope", self.scopes, scopes)):
            held = [str(name) for name in known]
            names_held = {*held, *filter(None, map(_own_name, held))}
            for name in names:
                if str(name) not in names_held:
                    listed = shortened(held)
                    raise UnknownNameError(
                        f"{what} {name} was not asked for, so it cannot be withdrawn; asked: {listed}"
                    )

    def keeps(self, scope: str) -> bool:
        """Whether a scope stays, however it is named."""
        return scope not in self.scopes and _own_name(scope) not in self.scopes


@dataclass(frozen=True)
class Asked:
    """What one command asks for."""

    windows: Sequence[int]
    scopes: Sequence[str]
    runs_info: dict[str, dict[str, str]]
    layout: "Layout"
    projections: Sequence[int] = ()
    projection_seeds: int | None = None
    """None: as before."""
    forget: Withdrawn = field(default_factory=Withdrawn)
    presets: Sequence[str] = ()
    matrices: MatrixRequests = field(default_factory=MatrixRequests)


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


def parse_dimensions(values: Iterable[str]) -> list[int]:
    """Dimensions of projections from ``100`` and ``50,100``.

    Raises
    ------
    ValueError
        If a value is not a whole number of at least 2.
    """
    found = {part.strip() for value in values for part in value.split(",")}
    for part in found:
        if not part.isascii() or not part.isdigit() or int(part) < 2:
            raise ValueError(f"{part!r} is not a dimension; write 100, or 50,100; at least 2")
    return sorted(map(int, found))


@dataclass(frozen=True)
class RunsInfo:
    """Facts about runs, as a file gives them."""

    path: Path
    facts: dict[str, dict[str, str]]
    """Run -> column -> value, each of which fits its column."""
    ignored: tuple[str, ...] = ()
    """A line for people on each value that is left out, and why."""

    def notes(self, run_names: Sequence[str]) -> list[str]:
        """Lines for people: what is ignored, and which rows wait for a run that is not in the archive yet."""
        held = shortened(run_names)
        return list(self.ignored) + [
            f"{self.path}: run {run} is not in the archive, which holds {held}; its row is kept for when it is"
            for run in self.facts
            if run not in run_names
        ]


def read_runs_info(path: Path) -> RunsInfo:
    """Facts about runs from a CSV file with a column ``run``.

    Raises
    ------
    HistoryError
        If the file cannot be read or has other columns.
    """
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HistoryError(f"{path}: cannot be read as CSV ({error})") from error
    others = [repr(name) for name in columns if name not in ("run", *RUNS_INFO_COLUMNS)]
    if "run" not in columns or others:
        found = f"; it also has {', '.join(others)}" if others else ""
        raise HistoryError(f"{path}: needs a column run, and of others only {', '.join(RUNS_INFO_COLUMNS)}{found}")
    facts: dict[str, dict[str, str]] = {}
    ignored: list[str] = []
    for number, row in enumerate(rows, start=1):
        why = _row_problem(row, facts)
        if why:
            ignored.append(f"{path}: row {number} (run {row['run'] or 'without a name'}) is ignored: {why}")
            continue
        given = {name: value for name, value in row.items() if name != "run" and value}
        facts[row["run"]] = {name: value for name, value in given.items() if _typed(name, value) is not None}
        ignored += [
            f"{path}: run {row['run']}, column {name}: {value!r} is ignored: it is not "
            + ("a whole number" if name in _WHOLE else "a finite number")
            for name, value in given.items()
            if name not in facts[row["run"]]
        ]
    return RunsInfo(path, facts, tuple(ignored))


def _row_problem(row: dict[str, str], facts: Mapping[str, Any]) -> str | None:
    if None in row:  # where DictReader puts what has no column
        return "it has more values than the file has columns"
    if not row["run"]:
        return "it names no run"
    return "the run has a row above" if row["run"] in facts else None


@dataclass(frozen=True)
class Layout:
    """Options that change what leaves and Gram matrices are."""

    heads: int | None = None
    kv_heads: int | None = None
    band: int | None = None
    arch: str | None = None
    """Text of a family file of the user's own."""

    @property
    def families(self) -> tuple[Family, ...]:
        """Families of the user's own."""
        return (parse_family(self.arch, "given by --arch"),) if self.arch else ()

    def or_else(self, before: "Layout") -> "Layout":
        """These options, and what they leave out as it was before."""
        return replace(before, **{name: value for name, value in asdict(self).items() if value is not None})


def record_requests(database: Database, asked: Asked) -> Requests:
    """Add a request to those recorded, less those that it withdraws, and return all of them.

    Raises
    ------
    UnknownNameError
        If it withdraws what was not asked for.
    """
    known = _recorded(database)
    before = [scope for scope in known.get("scope", []) if scope not in DEFAULT_SCOPES]
    asked.forget.check(map(int, known.get("window", [])), before)
    kept = {*map(int, known.get("window", []))} - {*asked.forget.windows}
    windows = sorted({*kept, *asked.windows}) or [DEFAULT_WINDOW]
    scopes = _all_scopes([scope for scope in before if asked.forget.keeps(scope)], asked.scopes)
    info: dict[str, dict[str, str]] = json.loads(known.get("runs_info", ["{}"])[0]) | asked.runs_info
    projections = sorted({*map(int, known.get("projection", [])), *asked.projections})
    presets = sorted({*known.get("preset", []), *asked.presets} & PRESETS.keys())
    seeds = asked.projection_seeds or int(known.get("projection_seeds", [str(DEFAULT_PROJECTION_SEEDS)])[0])
    recorded = [("window", str(size)) for size in windows] + [("scope", scope) for scope in scopes]
    recorded += [("projection", str(dimension)) for dimension in projections] + [("projection_seeds", str(seeds))]
    matrices = asked.matrices.and_those(MatrixRequests.of(known))
    recorded += [("preset", name) for name in presets] + matrices.recorded
    recorded += [(name, str(value)) for name, value in sorted(asdict(asked.layout).items()) if value is not None]
    recorded += [("runs_info", json.dumps(info, sort_keys=True))] if info else []
    kinds, values = zip(*recorded, strict=True)
    database.replace("requests", {}, {"kind": list(kinds), "value": list(values)})
    derived = tuple(sorted({*DEFAULT_WINDOWS, *windows}))
    return Requests(derived, frozenset(windows), scopes, info, tuple(projections), seeds, tuple(presets), matrices)


def _all_scopes(known: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    """Return the scopes of this request and those before; of a user's own name the last definition counts."""
    kept = [scope for scope in known if _own_name(scope) not in {*map(_own_name, asked)} - {None}]
    return tuple(dict.fromkeys([*DEFAULT_SCOPES, *kept, *asked]))


def recorded_matrices(database: Database) -> MatrixRequests:
    """What was asked for of the matrices so far."""
    return MatrixRequests.of(_recorded(database))


def _recorded(database: Database) -> dict[str, list[str]]:
    """Values of each kind of request."""
    known: dict[str, list[str]] = {}
    for kind, value in database.rows("SELECT kind, value FROM requests ORDER BY kind, value").rows:
        known.setdefault(kind, []).append(value)
    return known


def recorded_layout(database: Database) -> Layout:
    """Options that change what leaves and Gram matrices are, as last asked for."""
    sql = "SELECT kind, value FROM requests WHERE kind IN ('heads', 'kv_heads', 'band', 'arch')"
    known: dict[str, str] = dict(database.rows(sql).rows)
    heads, kv_heads, band = (int(known[name]) if name in known else None for name in ("heads", "kv_heads", "band"))
    return Layout(heads, kv_heads, band, known.get("arch"))


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
    return typed | {name: value for name, text in info.items() if (value := _typed(name, text)) is not None}


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
        return _whole(value) if name in _WHOLE else _real(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _real(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number


def _whole(value: Any) -> int:
    """Whole number of 64 bits; 3.0 is one, as tables with gaps write them."""
    number = _number(value) if isinstance(value, str) else value
    if number != int(number) or abs(number) >= 2**63:
        raise ValueError(f"{value!r} is not a whole number")
    return int(number)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
