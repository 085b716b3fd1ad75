"""Which checkpoints of a history are taken, and what steps their labels mean: the user's own word on both."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sedarchive.errors import HistoryError
from sedarchive.readers.steps import StepName, step_in_name, tokens_in_name
from sedarchive.sizes import MIB

_MAP_LIMIT = 16 * MIB
_MAP_COLUMNS = ("label", "step", "tokens")
_MAP_FORM = "a CSV file with the columns label, step and, if known, tokens"


@dataclass(frozen=True)
class MappedStep:
    """What a steps map says of one label."""

    step: int
    tokens: int | None = None


@dataclass(frozen=True)
class Selection:
    """The user's choice among what is found.

    Raises
    ------
    HistoryError
        If `every` is below 1.
    """

    steps: Mapping[str, MappedStep] | None = None
    """Step of each label; where it is given, a checkpoint that it does not name is passed over."""
    every: int = 1
    """Take the first checkpoint of each run, in the order of steps, and each N-th one after it."""
    include: tuple[str, ...] = ()
    """Globs, one of which must match a checkpoint's label or its path below the folder given; none: all are taken."""
    exclude: tuple[str, ...] = ()
    """Globs of which none may match."""
    key: str | None = None
    """Nested key of each file that holds the weights."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise HistoryError(f"--every {self.every}: it must be 1 (all) or more")

    @property
    def is_whole(self) -> bool:
        """Whether every checkpoint found is taken."""
        return self.steps is None and self.every == 1 and not self.include and not self.exclude

    def takes(self, label: str, path: str) -> bool:
        """Whether the globs let a checkpoint pass; in a glob, ``*`` also matches the ``/`` of a path."""
        if self.include and not _matches(self.include, label, path):
            return False
        return not _matches(self.exclude, label, path)

    def step(self, name: str, stem: str, pattern: re.Pattern[str] | None) -> StepName | None:
        """Step of a file or folder: that of the map if there is one, else that in its name."""
        if self.steps is None:
            return step_in_name(stem, pattern)
        mapped = self.steps.get(name) or self.steps.get(stem)
        return None if mapped is None else StepName(mapped.step)

    def tokens(self, name: str, stem: str) -> int | None:
        """Tokens seen at a checkpoint, as the map or its name says; None if neither does."""
        if self.steps is None:
            return tokens_in_name(stem)
        mapped = self.steps.get(name) or self.steps.get(stem)
        return None if mapped is None else mapped.tokens


def _matches(globs: tuple[str, ...], label: str, path: str) -> bool:
    return any(fnmatchcase(text, glob) for glob in globs for text in (label, path))


def read_steps_map(path: Path) -> Mapping[str, MappedStep]:
    """Read a file that says which step each label is.

    Parameters
    ----------
    path
        A CSV file with a header and the columns ``label``, ``step`` and, optionally, ``tokens`` (whole numbers;
        empty where unknown). Labels are names of files, of files without their suffix, of folders, or of the
        revisions of a Hugging Face cache.

    Raises
    ------
    HistoryError
        If it cannot be read; the message names the file and the line.
    """
    try:
        if path.stat().st_size > _MAP_LIMIT:
            raise HistoryError(f"{path}: the map of steps is larger than 16 MiB; give {_MAP_FORM}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise HistoryError(f"{path}: the map of steps cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError:
        raise HistoryError(f"{path}: the map of steps is not text in UTF-8; give {_MAP_FORM}") from None
    try:
        return _parsed(path, csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise HistoryError(f"{path}: the map of steps is no CSV ({error}); give {_MAP_FORM}") from None


def _parsed(path: Path, rows: Iterator[list[str]]) -> dict[str, MappedStep]:
    header = [name.strip().lower() for name in next(rows, [])]
    if not {"label", "step"} <= set(header) <= set(_MAP_COLUMNS):
        raise HistoryError(f"{path}: its first line is {', '.join(header)[:80]!r}; give {_MAP_FORM}")
    found: dict[str, MappedStep] = {}
    for number, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        label = cells.get("label", "")
        if not label or label in found:
            problem = f"the label {label[:80]!r} stands twice" if label else "there is no label"
            raise HistoryError(f"{path}, line {number}: {problem}; give each label one line")
        step = _number(path, number, "step", cells.get("step", ""))
        tokens = cells.get("tokens", "")
        found[label] = MappedStep(step, _number(path, number, "tokens", tokens) if tokens else None)
    if not found:
        raise HistoryError(f"{path}: the map of steps is empty; give {_MAP_FORM}")
    return found


def _number(path: Path, line: int, column: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise HistoryError(f"{path}, line {line}: the {column} {text[:40]!r} is not a whole number of up to 18 digits")
    return int(text)
