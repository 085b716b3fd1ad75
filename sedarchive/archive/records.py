"""Sealed records: small JSON files that carry their own digest and replace atomically."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sedarchive.errors import DamagedArchiveError, SedarchiveError

_SEAL = b', "record_digest": "%s"}\n'
_SEAL_BYTES = len(_SEAL % (b"0" * 64))


def sealed(content: Mapping[str, Any]) -> bytes:
    """JSON text of a record with its own digest, as it stands on disk: the digest is that of the bytes before it."""
    text = json.dumps(dict(content), sort_keys=True).encode()[:-1]
    return text + _SEAL % hashlib.sha256(text).hexdigest().encode()


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record so that a reader sees the old one or the new one, never a part."""
    write_atomic(path, sealed(content))


def write_atomic(path: Path, data: bytes) -> None:
    """Write, sync and rename one file, then sync its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def sealed_content(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the content of a record into damage: an archive may come from others, seals and all.

    Raises
    ------
    DamagedArchiveError
        In place of an error of a missing key, another type, or a number out of range.
    """
    try:
        yield
    except SedarchiveError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DamagedArchiveError(
            f"{path}: the record is sealed, but not what sedarchive writes ({error!r}); ingest the run again"
        ) from error


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a record and check its digest.

    Raises
    ------
    DamagedArchiveError
        If the file is missing, not JSON, or not what was sealed to the byte.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedArchiveError(f"{path}: the record is missing; run `sedarchive verify`") from error
    except OSError as error:
        raise DamagedArchiveError(f"{path}: the record cannot be read ({error}); run `sedarchive verify`") from error
    text = data[:-_SEAL_BYTES]
    if data[-_SEAL_BYTES:] != _SEAL % hashlib.sha256(text).hexdigest().encode():
        raise DamagedArchiveError(f"{path}: the record fails its digest; run `sedarchive verify`")
    with sealed_content(path):
        return dict(json.loads(text + b"}"))
