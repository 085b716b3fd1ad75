"""Runs the blocks of a sweep: one function over many tasks, results in task order.

The serial executor is the reference; Dask's threaded scheduler maps the same
function over bounded batches. Results never depend on which one ran.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal, Protocol, TypeVar

from threadpoolctl import threadpool_limits

from sedarchive.plan.tasks import TASKS_PER_WORKER

Task = TypeVar("Task")
Result = TypeVar("Result")
Found = TypeVar("Found", covariant=True)
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


@dataclass(frozen=True)
class Executor:
    """How tasks are run."""

    workers: int = 1
    scheduler: Literal["threads", "serial"] = "threads"
    each: int = TASKS_PER_WORKER
    """Tasks for each worker that are handed out at a time; workers wait for each other at the end of them."""

    def at_most(self, workers: int) -> "Executor":
        """Return the same with no more than ``workers`` workers."""
        return replace(self, workers=min(self.workers, workers))

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Results of ``function`` for each task, in order; at most a batch of them is held.

        An exception of a task is raised once no other task runs any more, so that none writes behind the caller's
        back. Call it inside :func:`one_blas_thread`.
        """
        if self.scheduler == "serial" or self.workers == 1:
            yield from map(function, tasks)
            return
        from dask.threaded import get  # dask.compute() would import distributed, for two seconds

        for batch in _batched(tasks, self.each * self.workers):
            graph = {index: (partial(_attempt, function, task),) for index, task in enumerate(batch)}
            for outcome in get(graph, list(graph), num_workers=self.workers):
                if isinstance(outcome, _Failed):
                    raise outcome.error
                yield outcome


@dataclass(frozen=True)
class _Failed:
    """An exception of a task, as its result."""

    error: Exception


def _attempt(function: Callable[[Task], Result], task: Task) -> Result | _Failed:
    try:
        return function(task)
    except Exception as error:
        return _Failed(error)


class Awaited(Protocol[Found]):
    """A result on its way."""

    def result(self) -> Found: ...
    def cancel(self) -> object: ...


def in_order(submit: Callable[[Task], Awaited[Result]], tasks: Iterable[Task], ahead: int) -> Iterator[Result]:
    """Results in the order of the tasks, of which ``ahead`` are handed out at a time.

    When a task fails, or the caller wants no more, those that wait are given up.
    """
    pending: deque[Awaited[Result]] = deque()
    try:
        for task in tasks:
            if len(pending) == ahead:
                yield pending.popleft().result()
            pending.append(submit(task))
        while pending:
            yield pending.popleft().result()
    finally:
        for awaited in pending:
            awaited.cancel()


def _batched(tasks: Iterable[Task], size: int) -> Iterator[Sequence[Task]]:
    left = iter(tasks)
    while batch := list(islice(left, size)):
        yield batch


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS and OpenMP at one thread, as each worker is one; for the main thread only."""
    with threadpool_limits(1):
        yield


def no_progress(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
