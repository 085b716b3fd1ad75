"""Processes beside this one, for tasks that are many small numpy calls: two threads of those do no more than one.

loky starts each as a new interpreter that imports what its tasks name, and never the user's main module again. Tasks
and results are pickled: only what ends in rows is sent here. Only this module uses loky.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
_AHEAD = 32
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

    def run(self, tasks: Iterable[Callable[[], Result]], windows: int) -> Iterator[Result]:
        """Results of the tasks, in order.

        Parameters
        ----------
        tasks
            Pickled where processes are used; they may be made while others run.
        windows
            Windows that all of them together look at.

        Raises
        ------
        WorkerError
            If a process has ended before its task.
        """
        if not self._processes_for(windows):
            return self.threads.map(_called, tasks)
        return self._from_processes(tasks)

    def expect(self, windows: int) -> None:
        """Start the processes, if the rows of so many windows will need them, while the caller does something else."""
        if self._processes_for(windows):
            self._started().submit(int)

    def _processes_for(self, windows: int) -> bool:
        return self.threads.scheduler != "serial" and self._processes > 1 and windows >= WORTH_WINDOWS

    @property
    def _processes(self) -> int:
        return min(self.threads.workers, self.max_mem // PROCESS_MEMORY)

    def _started(self) -> Any:
        if self._pool is None:
            from loky import ProcessPoolExecutor

            how = {"initializer": _prepare, "initargs": (os.getpid(),), "env": _ONE_THREAD}
            self._pool = ProcessPoolExecutor(self._processes, **how)
        return self._pool

    def _from_processes(self, tasks: Iterable[Callable[[], Result]]) -> Iterator[Result]:
        from concurrent.futures.process import BrokenProcessPool

        pool = self._started()

        def send(task: Callable[[], Result]) -> _Sent[Result]:
            return _Sent(pool.submit(task))

        try:
            yield from in_order(send, tasks, self._processes + _AHEAD)
        except BaseException as error:  # a task's own, Ctrl-C, or no more is wanted
            self.end(now=True)
            if isinstance(error, BrokenProcessPool):
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


def _prepare(parent: int) -> None:
    """Leave Ctrl-C to the process of the command, which ends this one; and do not outlive it if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process soon after its parent."""
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
