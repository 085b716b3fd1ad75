"""Damage that ``verify`` found, kept beside the runs until it finds none: the audit reads no weights itself."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sedarchive.archive.records import read_sealed, sealed_content, write_sealed
from sedarchive.errors import DamagedArchiveError

DAMAGE_RECORD = "damage.json"
_KEPT = 1_000


@dataclass(frozen=True)
class Damage:
    """One file that is not what it should be."""

    path: Path
    cause: str
    leftover: bool = False
    """Whether an interrupted writer would leave the same."""


@dataclass(frozen=True)
class KnownDamage:
    """What the last ``verify`` found."""

    day: str
    damages: tuple[Damage, ...]
    """The first thousand."""


def keep_damage(archive: Path, damages: Sequence[Damage]) -> None:
    """Record what is damaged now; where nothing is, no record is left. An archive that may not be written has none."""
    path = archive / DAMAGE_RECORD
    found = [(damage.path.relative_to(archive).as_posix(), damage.cause) for damage in damages]
    with suppress(OSError):
        if found:
            day = datetime.now(UTC).date().isoformat()
            write_sealed(path, {"day": day, "damages": found[:_KEPT]})
        else:
            path.unlink(missing_ok=True)


def known_damage(archive: Path) -> KnownDamage:
    """Read what the last ``verify`` recorded; nothing, if it found nothing.

    Raises
    ------
    DamagedArchiveError
        If the record itself is damaged.
    """
    path = archive / DAMAGE_RECORD
    if not path.exists():
        return KnownDamage("", ())
    record = read_sealed(path)
    with sealed_content(path):
        damages = tuple(Damage(archive / name, str(cause)) for name, cause in record["damages"])
        if not all(damage.path.is_relative_to(archive) for damage in damages):
            raise DamagedArchiveError(f"{path}: it speaks of files elsewhere; run `sedarchive verify`")
        return KnownDamage(str(record["day"]), damages)
