"""Stages of a refresh: each takes its own results, and the database is closed while long ones run."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
from small import walk, write_log, write_safetensors

from sedarchive import processes
from sedarchive.compute import refresh, stages
from sedarchive.compute.stages import Stage, of_one_size, run_stages
from sedarchive.compute.turns import Turns
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
    alone = [Windows(scope, 10) for scope in range(9)]
    assert [len(of) for of in of_one_size(alone)] == [3, 3, 3]  # so that several workers have something to do
    windows = [Windows(scope, size) for scope in range(70) for size in (5, 20)]
    together = list(of_one_size(windows))
    assert [(of[0].size, len(of)) for of in together] == [(20, 32), (20, 32), (20, 6), (5, 32), (5, 32), (5, 6)]
    assert [one for of in together for one in of] == sorted(windows, key=lambda one: (-one.size, one.scope))


def test_a_stage_that_leaves_results_is_a_mistake():
    lazy = Stage([partial(pow, 1, 2)], 1, lambda found: None, 0)
    with pytest.raises(RuntimeError, match="left results"):
        run([lazy])


def test_few_tasks_wait_that_hold_much():
    assert [Stage([], 0, list, 0, held).ahead for held in (0, 2**20, 2**24, 2**30)] == [32, 32, 9, 1]


def test_the_database_is_closed_while_rows_are_made(analysis, tmp_path):
    write_safetensors(tmp_path / "run", walk(24, shapes={"a.weight": (6, 6)}))
    write_log(tmp_path / "run", [10 * at for at in range(24)])
    analysis.ingest(tmp_path / "run")
    made, opened = [], []

    class Watched(Turns):
        def __init__(self, *place):
            super().__init__(*place)
            made.append(self)

    def called(task):
        opened.extend(one._opened is not None for one in made)
        return task()

    with (
        mock.patch.object(refresh, "Turns", Watched),
        mock.patch.object(stages, "_SHORT", 0),
        mock.patch.object(processes, "_called", called),
    ):
        analysis.compute(windows=(5,), spectra=False)
    assert len(opened) > 10
    assert not any(opened)
