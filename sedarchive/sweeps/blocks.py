"""A sweep's tasks on whatever workers there are, with the chunks that they read counted in one place."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from sedarchive.archive.store import Fetched
from sedarchive.executor import Executor
from sedarchive.sweeps.anatomy import Anatomy

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_blocks(
    executor: Executor, anatomy: Anatomy, function: Callable[[Anatomy, Task], Result], tasks: Sequence[Task]
) -> Iterator[Result]:
    """Results of ``function(anatomy, task)`` in the order of the tasks, which only read.

    Where a worker is another process it opens the run for itself; what it reads is counted in ``anatomy.run.store``
    all the same.
    """
    for result, fetched in executor.map(partial(_counted, anatomy, function), tasks):
        anatomy.run.store.counts.add(fetched)
        yield result


def _counted(anatomy: Anatomy, function: Callable[[Anatomy, Task], Result], task: Task) -> tuple[Result, Fetched]:
    result = function(anatomy, task)
    # what another thread has read so far may come along: it is counted once, here or with that thread's own task
    return result, anatomy.run.store.counts.take()
