"""Stages of a refresh: tasks that make rows, and what is done with the rows.

Stages that do not follow from each other run as one list of tasks, so that no worker waits while rows are written.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any, Generic, Protocol, TypeVar

from sedarchive.compute.turns import Turns
from sedarchive.processes import AHEAD, RowMaker
from sedarchive.sizes import MIB

Result = TypeVar("Result")


class Sized(Protocol):
    """Windows of one size."""

    @property
    def size(self) -> int:
        """W, in updates."""


OfSize = TypeVar("OfSize", bound=Sized)

_TASK_BYTES = 128 * MIB
_TOGETHER, _FEWEST = 32, 4
_SHORT = 1_000
"""Windows that take less than a second, for which the database stays open."""


@dataclass(frozen=True)
class Stage(Generic[Result]):
    """One part of a refresh."""

    tasks: Iterable[Callable[[], Result]]
    """Each makes some rows. They may be made while others run, and are pickled where processes run them: what they
    import takes time in each process, so that they live in modules without archive and database."""
    n_tasks: int
    write: Callable[[Iterator[Result]], None]
    """Takes the results, in the order of the tasks, as they come."""
    windows: int
    """Windows that all tasks together look at."""
    task_bytes: int = 0
    """What a task holds before it runs, if that is much."""

    @property
    def ahead(self) -> int:
        """Tasks that may be made before they are needed."""
        return min(AHEAD, 1 + _TASK_BYTES // max(self.task_bytes, 1))


def run_stages(stages: Sequence[Stage[Any]], maker: RowMaker, turns: Turns) -> None:
    """Run the tasks of all stages, and write the rows of each when they are there."""
    if not stages:
        return
    windows = sum(stage.windows for stage in stages)
    end_turn = turns.end if windows > _SHORT else _keep_turn
    end_turn()
    ahead = min(stage.ahead for stage in stages)
    results = maker.run(chain.from_iterable(stage.tasks for stage in stages), windows, ahead)
    for stage in stages:
        found = islice(results, stage.n_tasks)
        stage.write(found)
        if any(True for _ in found):
            raise RuntimeError("a stage left results to the next one")
        end_turn()
    if any(True for _ in results):  # and the processes know that this was all
        raise RuntimeError("tasks without a stage")


def of_one_size(windows: Sequence[OfSize]) -> Iterator[list[OfSize]]:
    """Windows of several scopes and sizes, those of one size together, which share draws; the largest first.

    Of many scopes so many are together that tasks are not too long, nor too few.
    """
    at_most = min(_TOGETHER, -(-len(windows) // _FEWEST))
    by_size = sorted(windows, key=lambda one: -one.size)
    for _, of_size in groupby(by_size, key=lambda one: one.size):
        together = list(of_size)
        yield from (together[first : first + at_most] for first in range(0, len(together), at_most))


def _keep_turn() -> None:
    """Leave the database open."""
