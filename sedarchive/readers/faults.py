"""Errors of unreadable checkpoints: one wording, and one place that turns a parser's exceptions into them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sedarchive.errors import MemoryBudgetError, SedarchiveError, UnreadableCheckpointError
from sedarchive.history import Finding

WRITE_AGAIN = "copy it again from where it was written, or leave this checkpoint out"


def unreadable(path: Path, cause: str, way_out: str = WRITE_AGAIN) -> UnreadableCheckpointError:
    """Error that names the file, the cause and the way out."""
    return UnreadableCheckpointError(f"{path}: {cause}; {way_out}")


def left_out(error: SedarchiveError, step: int) -> Finding:
    """Finding on a checkpoint that is not taken: a sound one that needs more memory than is given is not unreadable."""
    check = "beyond_max_mem" if isinstance(error, MemoryBudgetError) else "unreadable_checkpoint"
    return Finding(check, "error", str(error), step=step)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a parser raises on the untrusted bytes of `path` into an error of sedarchive.

    Raises
    ------
    UnreadableCheckpointError
        In place of any other exception (``struct.error``, ``BadZipFile``, ``RecursionError`` and so on).
    """
    try:
        yield
    except SedarchiveError:
        raise
    except Exception as error:  # hostile bytes reach exceptions that no list of types would cover
        words = str(error)[:200] or "no further words"
        raise unreadable(path, f"it cannot be read as a checkpoint ({type(error).__name__}: {words})") from error
