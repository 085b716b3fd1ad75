"""Processes beside this one, for tasks that are many small numpy calls: two threads of those do no more than one.

loky starts each as a new interpreter that imports what its tasks name, and never the user's main module again. Tasks
and results are pickled: only what ends in rows is sent here. Only this module uses loky.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from threading import Thread
from typing import Any, Generic, TypeVar

from sedarchive.errors import WorkerError
from sedarchive.executor import Executor, in_order
from sedarchive.sizes import MIB

Result = TypeVar("Result")

WORTH_WINDOWS = 10_000
"""Windows of which the rows take so long, some ten seconds, that processes are worth the second that they start in."""
PROCESS_MEMORY = 256 * MIB
"""What a process takes for itself and its task: 176 MB were seen with 400 checkpoints of 20 scopes."""
AHEAD = 32
"""Tasks that are made and sent before they are needed, so that no process waits while this one writes rows."""
_LOOK_SECONDS = 1.0
_ENDED = (
    "a process that made rows ended before it was done, as when memory is short: the same command goes on from what "
    "was finished; with --scheduler serial it needs no other process"
)
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


@dataclass
class RowMaker:
    """Runs tasks that end in rows: in threads, or in processes if there is enough to do for them."""

    threads: Executor
    max_mem: int
    """Bytes that processes may take together."""
    _pool: Any = field(default=None, repr=False)
    _refused: bool = field(default=False, repr=False)
    """Whether the system gave no processes."""

    def run(self, tasks: Iterable[Callable[[], Result]], windows: int, ahead: int = AHEAD) -> Iterator[Result]:
        """Results of the tasks, in order.

        The processes stay for the next tasks if all results are taken.

        Parameters
        ----------
        tasks
            Pickled where processes are used; they may be made while others run.
        windows
            Windows that all of them together look at.
        ahead
            Tasks that may be made before they are needed.

        Raises
        ------
        WorkerError
            If a process has ended before its task.
        """
        if self._start_if_worth(windows):
            return self._from_processes(tasks, ahead)
        threads = replace(self.threads, each=max(min(self.threads.each, ahead // self.threads.workers), 1))
        return threads.map(_called, tasks)

    def expect(self, windows: int) -> None:
        """Start the processes, if the rows of so many windows will need them, while the caller does something else."""
        self._start_if_worth(windows)

    def _start_if_worth(self, windows: int) -> bool:
        """Whether processes are there; they are started if so many windows are worth it. Without them threads do."""
        if self.threads.scheduler == "serial" or self._processes < 2 or windows < WORTH_WINDOWS or self._refused:
            return False
        if self._pool is None:
            try:
                self._pool = _started(self._processes)
            except (OSError, BrokenExecutor):
                self._refused = True
        return self._pool is not None

    @property
    def _processes(self) -> int:
        return min(self.threads.workers, self.max_mem // PROCESS_MEMORY)

    def _from_processes(self, tasks: Iterable[Callable[[], Result]], ahead: int) -> Iterator[Result]:
        pool = self._pool

        def send(task: Callable[[], Result]) -> _Sent[Result]:
            return _Sent(pool.submit(task))

        try:
            yield from in_order(send, tasks, self._processes + ahead)
        except BaseException as error:  # a task's own, Ctrl-C, or no more is wanted
            self.end(now=True)
            if isinstance(error, BrokenExecutor):
                raise WorkerError(_ENDED) from error
            raise

    def end(self, now: bool) -> None:
        """End the processes, if there are any: at once, or when their tasks are done."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=now)
            self._pool = None


@contextmanager
def row_maker(threads: Executor, max_mem: int) -> Iterator[RowMaker]:
    """Maker of rows whose processes end with the context, at once if it fails."""
    maker = RowMaker(threads, max_mem)
    try:
        yield maker
    except BaseException:
        maker.end(now=True)
        raise
    maker.end(now=False)


def _started(processes: int) -> Any:
    """Processes that have begun, deaf to Ctrl-C from their first moment: that of the command ends them."""
    from loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(processes, initializer=_end_with_parent, initargs=(os.getpid(),), env=_ONE_THREAD)
    resource_tracker.ensure_running()  # starting it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # which they inherit
    try:
        pool.submit(int)  # starts all of them
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pool


def _end_with_parent(parent: int) -> None:
    """Do not outlive the process of the command if it is killed."""
    Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


@dataclass(frozen=True)
class _Sent(Generic[Result]):
    """A result on its way from a process."""

    future: Any

    def result(self) -> Result:
        found: Result = self.future.result()
        return found

    def cancel(self) -> None:
        """Leave it: whoever wants no more results ends the processes."""


def _called(task: Callable[[], Result]) -> Result:
    return task()
