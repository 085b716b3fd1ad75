"""Mutations of files that are read: what comes out is a result or an error of sedarchive, soon, and nothing else.

Run the full count with ``python -m pytest -m campaign tests/test_fuzz.py``.
"""

import json
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from sedarchive.archive.damage import DAMAGE_RECORD

SECONDS = 10
"""No case may take longer: most take a millisecond."""
MEMORY = 1024 * 2**20
"""No case may raise the peak by more."""
_INTERESTING = [b"\x00", b"\xff", b"\x80", b"{", b"}", b"[", b"]", b'"', b",", b":", b"-1", b"1e999", b"NaN", b"\n"]
_INTERESTING += [n.to_bytes(8, "little", signed=False) for n in (0, 1, 2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1)]
_VALUES = [None, True, -1, 0, 1, 7, 2**31, 2**63, 2**80, 1.5, -1e300, "", "x", "../x", "/x", "\0", "\ud800", "x" * 5000]
_VALUES += [[], {}, [[]], [None], {"x": 1}, [1, 2, 3], ["a", "b"]]
_INTERESTING += [b"..", b"/", b"\\", b"cos\nsystem\n", b"R", b"(", b".", b"q\x00", b"h\x00", b"\x8a\xff"]


def mutated_json(data: bytes, choose: random.Random) -> bytes:
    """Return a JSON document with one or two of its values replaced, taken away, or put in twice."""
    content = json.loads(data)
    for _ in range(choose.choice((1, 1, 2))):
        places = list(_places(content))
        if places:
            holder, key = choose.choice(places)
            _change(holder, key, choose)
    return json.dumps(content).encode()


def _places(value: object) -> Iterator[tuple]:
    """Every container of a document with each of its keys or indices."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(pairs):
        yield value, key
        yield from _places(part)


def _change(holder, key, choose: random.Random) -> None:
    kind = choose.random()
    if kind < 0.7:
        holder[key] = deepcopy(choose.choice(_VALUES))
    elif kind < 0.85:
        del holder[key]
    elif isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[choose.choice(("x", "../x", "", "name", "a/b"))] = holder[key]


def mutated(data: bytes, choose: random.Random) -> bytes:
    """Return the bytes with one to four things wrong; more often near the start, where headers are."""
    for _ in range(choose.choice((1, 1, 2, 4))):
        data = choose.choice((_flip, _overwrite, _insert, _delete, _repeat, _cut, _swap))(data, choose)
    return data


@dataclass(frozen=True)
class Target:
    """Files to damage one of, and how they are read."""

    name: str
    write: Callable[[Path], Path | Sequence[Path]]
    """Writes valid files into a folder; returns the one to damage, or those of which each case damages one."""
    read: Callable[[Path], object]
    """Reads what stands in the folder."""
    mutate: Callable[[bytes, random.Random], bytes] = mutated
    weight: float = 1.0
    """Share of the cases, for what takes long."""


def _at(data: bytes, choose: random.Random) -> int:
    limit = min(len(data), choose.choice((16, 256, 2048, len(data))))
    return choose.randrange(limit + 1) if limit else 0


def _flip(data: bytes, choose: random.Random) -> bytes:
    at = min(_at(data, choose), len(data) - 1)
    return data[:at] + bytes([data[at] ^ (1 << choose.randrange(8))]) + data[at + 1 :] if data else data


def _overwrite(data: bytes, choose: random.Random) -> bytes:
    at, new = _at(data, choose), choose.choice(_INTERESTING)
    return data[:at] + new + data[at + len(new) :]


def _insert(data: bytes, choose: random.Random) -> bytes:
    at = _at(data, choose)
    return data[:at] + choose.choice(_INTERESTING) * choose.choice((1, 1, 3, 1000)) + data[at:]


def _delete(data: bytes, choose: random.Random) -> bytes:
    at = _at(data, choose)
    return data[:at] + data[at + choose.choice((1, 2, 8, 100)) :]


def _repeat(data: bytes, choose: random.Random) -> bytes:
    at, length = _at(data, choose), choose.choice((1, 8, 64, 512))
    return data[:at] + data[at : at + length] * choose.choice((2, 3, 50)) + data[at + length :]


def _cut(data: bytes, choose: random.Random) -> bytes:
    return data[: _at(data, choose)]


def _swap(data: bytes, choose: random.Random) -> bytes:
    a, b = sorted((_at(data, choose), _at(data, choose)))
    return data[:a] + data[b : b + 16] + data[a + 16 : b] + data[a : a + 16] + data[b + 16 :]


class TooSlowError(BaseException):
    """A case ran out of time; no reader may catch it."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer."""

    def stop(*_: object) -> None:
        raise TooSlowError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Outcome:
    """What some cases came to."""

    cases: int = 0
    refused: int = 0
    slowest: float = 0.0
    peak: int = 0


def attack(target: Target, folder: Path, seeds: range, allowed: type[Exception]) -> Outcome:
    """Damage the target's file anew for every seed and read it.

    Raises
    ------
    AssertionError
        At the first case that raises another error, takes too long, or changes a file; the message names its seed.
    """
    written = target.write(folder)
    victims = {path: path.read_bytes() for path in ([written] if isinstance(written, Path) else written)}
    target.read(folder)
    outcome = Outcome()
    standing = _listing(folder)
    before = _peak()
    for seed in seeds:
        choose = random.Random(f"{target.name} {seed}")
        victim = choose.choice(list(victims))
        victim.write_bytes(target.mutate(victims[victim], choose))
        start = time.perf_counter()
        try:
            with within(SECONDS):
                target.read(folder)
        except BaseException as error:
            names_it = isinstance(error, allowed) and (folder.name in str(error) or victim.name in str(error))
            if not names_it:
                raise AssertionError(f"{target.name}, seed {seed}: {type(error).__name__}: {error}") from error
            outcome.refused += 1
        victim.write_bytes(victims[victim])
        outcome.slowest = max(outcome.slowest, time.perf_counter() - start)
        outcome.cases += 1
    assert _listing(folder) == standing, f"{target.name}: files appeared or vanished"
    outcome.peak = _peak() - before
    assert outcome.peak < MEMORY, f"{target.name}: {outcome.peak} bytes more memory"
    return outcome


def _listing(folder: Path) -> list[str]:
    """Everything in a folder but what ``verify`` writes down of the damage that it finds."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != DAMAGE_RECORD)
    return sorted(paths)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
