"""Ctrl-C: at once, with one word, before a command has begun, a KeyboardInterrupt while it works."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130


def leave_at_once() -> None:
    """End this process on Ctrl-C from now on, and say so: nothing is written yet, so nothing needs to be undone.

    An exception would not do: raised in the middle of an import, it comes out as a traceback or as another error.
    """
    if _is_ours():
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):  # who closed our stderr needs no word
        os.write(2, b"error: interrupted\n")  # not print: what it would write to may be in the middle of a line
    os._exit(INTERRUPTED)


@contextmanager
def raised() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C inside, so that files, locks and processes are left in order."""
    if not _is_ours():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_ours() -> bool:
    """Whether Ctrl-C is ours to handle: only the main thread may, and a job in the background ignores it."""
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)
