"""One writer an archive: an advisory lock whose file names its owner.

The kernel releases the lock when its holder dies. The file itself stays after a
kill: that is how ``verify`` and ``status`` know that a writer was interrupted.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sedarchive.errors import ArchiveLockedError, SedarchiveError, UnwritableArchiveError

LOCK_NAME = "writer.lock"


@contextmanager
def writer_lock(archive: Path, purpose: str) -> Iterator[bool]:
    """Hold the writer's lock of the archive at ``archive``; yields whether the writer before was interrupted.

    Raises
    ------
    ArchiveLockedError
        If another process holds it; the message names that process.
    UnwritableArchiveError
        If nothing can be written there.
    """
    path = archive / LOCK_NAME
    with os.fdopen(_opened(path, purpose), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _locked(archive) from error
        if not _is_still(path, file.fileno()):  # its last holder removed it between our open and our lock
            raise ArchiveLockedError(f"{archive}: another writer was just finishing; run the same command again")
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "purpose": purpose,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        interrupted = os.fstat(file.fileno()).st_size > 0
        text = json.dumps(owner).encode()
        os.pwrite(file.fileno(), text, 0)  # over the old owner: the file is never empty once work has begun
        os.ftruncate(file.fileno(), len(text))
        try:
            yield interrupted
        except SedarchiveError:  # a refusal leaves nothing half done; whatever else ends us here does, like a kill
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def _opened(path: Path, purpose: str) -> int:
    """Descriptor of the lock's file."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        why = "keeps its Gram matrices in the archive" if purpose == "compute" else "writes into the archive"
        raise UnwritableArchiveError(
            f"{path.parent}: `sedarchive {purpose}` {why}, and this one cannot be written ({error.strerror}); make it "
            "writable, or copy it to where you may write and name the copy with --archive"
        ) from error


def was_interrupted(archive: Path) -> bool:
    """Whether a writer died before it finished (and none is running now)."""
    path = archive / LOCK_NAME
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except (FileNotFoundError, BlockingIOError):
        return False


def refuse_while_written(archive: Path) -> None:
    """Refuse to go on while another process writes the archive.

    Raises
    ------
    ArchiveLockedError
        If one does; the message names that process.
    """
    try:
        with (archive / LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError as error:
        raise _locked(archive) from error


def _locked(archive: Path) -> ArchiveLockedError:
    owner = _owner(archive / LOCK_NAME)
    return ArchiveLockedError(f"{archive}: {owner} is writing this archive; wait for it, or use another --archive")


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_bytes())
        return f"`{owner['purpose']}` (process {owner['pid']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
