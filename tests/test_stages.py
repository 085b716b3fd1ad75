"""Stages of a refresh: each takes its own results, and the database is closed while long ones run."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest

from sedarchive.compute.stages import Stage, of_one_size, run_stages
from sedarchive.executor import Executor
from sedarchive.processes import RowMaker


def run(stages, events=None, workers=1):
    turns = SimpleNamespace(end=lambda: events is None or events.append("end of turn"))
    run_stages(stages, RowMaker(Executor(workers), 0), turns)


def stage(name, numbers, events, windows=0):
    def write(found):
        events.append((name, list(found)))

    return Stage([partial(pow, number, 2) for number in numbers], len(numbers), write, windows)


@pytest.mark.parametrize("workers", [1, 3])
def test_each_stage_takes_its_own_results_in_order(workers):
    events = []
    run([stage("a", [1, 2, 3], events), stage("none", [], events), stage("b", [4], events)], workers=workers)
    assert events == [("a", [1, 4, 9]), ("none", []), ("b", [16])]


def test_long_stages_leave_the_database_to_others_between_their_rows():
    events = []
    run([stage("a", [1], events, 600), stage("b", [2], events, 600)], events)
    assert events == ["end of turn", ("a", [1]), "end of turn", ("b", [4]), "end of turn"]


def test_short_stages_keep_it_and_none_do_nothing():
    events = []
    run([stage("a", [1], events, 10)], events)
    run([], events)
    assert events == [("a", [1])]


@dataclass(frozen=True)
class Windows:
    scope: int
    size: int


def test_windows_of_one_size_come_together_the_largest_first_but_not_of_too_many_scopes():
    windows = [Windows(scope, size) for scope in range(70) for size in (5, 20)]
    together = list(of_one_size(windows))
    assert [(of[0].size, len(of)) for of in together] == [(20, 32), (20, 32), (20, 6), (5, 32), (5, 32), (5, 6)]
    assert [one for of in together for one in of] == sorted(windows, key=lambda one: (-one.size, one.scope))
