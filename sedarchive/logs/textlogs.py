"""Lines that trainers print: nanoGPT, llm.c, Megatron, torchtitan and their kin."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sedarchive.logs.rows import Row
from sedarchive.sizes import KIB, MIB

_LINE_LIMIT = 16 * KIB
_FILE_LIMIT = 1024 * MIB
_NUMBER = r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:e[-+]?\d{1,4})?|nan|[-+]?inf(?:inity)?"
_STEP = r"(?P<step>\d{1,18})"
_COLOUR = re.compile(r"\x1b\[[0-9;]{0,16}m")
_WORTH = re.compile(r"^s:\d|^\d+ (?:train|val|hella) |step|iter", re.IGNORECASE)
_ITEM = re.compile(rf"([A-Za-z][^:|,]{{0,60}}?)(?: ?: ?| )({_NUMBER})(?: \([^()]{{0,40}}\))?", re.IGNORECASE)
_PAIR = re.compile(rf"(?<!\S)([A-Za-z]\w{{0,60}}):\s{{0,8}}({_NUMBER})(?!\S)", re.IGNORECASE)


def _items(rest: str) -> Iterator[tuple[str, float]]:
    """Numbers with their names, between ``|`` or commas: ``loss: 1.2 | lr 1e-4``; those with a unit are left out."""
    for part in re.split(r"[|,]", rest):
        if match := _ITEM.fullmatch(" ".join(part.split())):
            yield match[1], float(match[2])


def _pairs(rest: str) -> Iterator[tuple[str, float]]:
    """Numbers with their names, joined by colons: ``trl:5.2 lr:1e-4``."""
    for match in _PAIR.finditer(rest):
        yield match[1], float(match[2])


@dataclass(frozen=True)
class _Line:
    """One kind of line: what begins it, how its numbers stand, and what they mean."""

    trainer: str
    pattern: re.Pattern[str]
    numbers: Callable[[str], Iterator[tuple[str, float]]]
    names: Mapping[str, str]
    """Name in the line to the name to keep; others keep their own."""

    def row(self, line: str) -> Row | None:
        """Read a line, which may be of another kind: None then, and where it holds no number."""
        match = self.pattern.search(line)
        if match is None:
            return None
        row = Row({self.names.get(name, name): value for name, value in self.numbers(match["rest"])})
        return row | {"step": int(match["step"])} if row else None


def _kind(trainer: str, pattern: str, numbers: Callable[[str], Iterator[tuple[str, float]]], **names: str) -> _Line:
    spelled = {name.replace("_", " ") if numbers is _items else name: own for name, own in names.items()}
    return _Line(trainer, re.compile(pattern, re.IGNORECASE), numbers, spelled)


_KINDS = (
    _kind(
        "llm.c", rf"^s:{_STEP} (?P<rest>.*)$", _pairs,
        tel="val_loss", trl="train_loss", norm="grad_norm", eval="hellaswag_acc",
    ),
    _kind("nanoGPT", rf"^(?:step|iter) {_STEP}: (?P<rest>.*)$", _items),
    _kind(
        "llm.c", rf"^step\s{{1,16}}{_STEP}(?:/\d{{1,18}})?\s{{0,8}}\|(?P<rest>.*)$", _items,
        norm="grad_norm",
    ),
    _kind(
        "Megatron", rf"\bvalidation loss at iteration {_STEP}(?: on validation set)?\s{{0,8}}\|(?P<rest>.*)$", _items,
        lm_loss_value="val_loss", lm_loss_PPL="val_ppl",
    ),
    _kind(
        "Megatron", rf"\bvalidation loss at iteration {_STEP} on test set\s{{0,8}}\|(?P<rest>.*)$", _items,
        lm_loss_value="test_loss", lm_loss_PPL="test_ppl",
    ),
    _kind(
        "Megatron", rf"\biteration\s{{1,16}}{_STEP}\s{{0,16}}/\s{{0,16}}\d{{1,18}}\s{{0,8}}\|(?P<rest>.*)$", _items,
        lm_loss="train_loss",
    ),
    _kind("torchtitan", rf"\bstep:\s{{0,8}}{_STEP}(?:/\d{{1,18}})?\s{{1,8}}(?P<rest>.*)$", _pairs),
    _kind(
        "build-nanogpt", rf"^{_STEP} (?P<rest>(?:train|val|hella) (?:{_NUMBER}))$", _items,
        train="train_loss", val="val_loss", hella="hellaswag_acc",
    ),
)  # fmt: skip
TRAINERS = tuple(dict.fromkeys(kind.trainer for kind in _KINDS))
"""Trainers whose lines are known."""


def text_rows(path: Path) -> Iterator[Row | None]:
    """Rows of a text log in file order; lines that are none of a known trainer's are passed over.

    A last line without an end is one of them: its number may have been cut.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or is larger than 1 GiB.
    """
    if path.stat().st_size > _FILE_LIMIT:
        raise ValueError("larger than 1 GiB")
    for line in _lines(path):
        if row := _row(line):
            yield row


def _lines(path: Path) -> Iterator[str]:
    """Whole lines that may be rows, without colours; a progress bar ends a line as it returns to its start."""
    with path.open(encoding="utf-8", errors="replace") as file:
        begun = True
        while line := file.readline(_LINE_LIMIT):
            ended = line.endswith("\n")
            if begun and ended and _WORTH.search(line):
                yield _COLOUR.sub("", line).rstrip()
            begun = ended


def _row(line: str) -> Row | None:
    return next((row for kind in _KINDS if (row := kind.row(line))), None)
