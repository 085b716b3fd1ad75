"""Tasks in order: how many are under way at a time, and what becomes of them when one fails."""

import threading
import time

import pytest

from sedarchive.executor import TASKS_PER_WORKER, Executor, in_order


class Handed:
    """A task that is done when its result is asked for."""

    def __init__(self, task, book):
        self.task, self.book, self.cancelled = task, book, False
        book.append(self)

    def result(self):
        if self.task == "bad":
            raise ValueError("a bad task")
        return f"result of {self.task}"

    def cancel(self):
        self.cancelled = True


def handed_out(tasks, ahead):
    """Results so far and tasks handed out so far, each time that a result is there."""
    book = []
    for number, result in enumerate(in_order(lambda task: Handed(task, book), tasks, ahead), start=1):
        yield number, len(book), result


def test_results_are_in_the_order_of_the_tasks_and_so_many_are_ahead():
    found = list(handed_out(range(7), 3))
    assert [result for *_, result in found] == [f"result of {task}" for task in range(7)]
    assert [(done, out) for done, out, _ in found] == [(1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("n_tasks", [0, 1, 3])
def test_fewer_tasks_than_may_be_ahead_are_all_handed_out(n_tasks):
    assert len(list(handed_out(range(n_tasks), 4))) == n_tasks


def test_tasks_that_wait_are_given_up_when_one_fails():
    book = []
    with pytest.raises(ValueError, match="a bad task"):
        list(in_order(lambda task: Handed(task, book), ["good", "bad", "waiting", "never"], 3))
    assert [(one.task, one.cancelled) for one in book] == [
        ("good", False), ("bad", False), ("waiting", True), ("never", True)
    ]  # fmt: skip


def test_tasks_that_wait_are_given_up_when_no_more_is_wanted():
    book = []
    results = in_order(lambda task: Handed(task, book), range(9), 3)
    next(results)
    results.close()
    assert [one.cancelled for one in book] == [False, True, True]


EXECUTORS = [Executor(), Executor(3, "serial"), Executor(3)]


@pytest.mark.parametrize("executor", EXECUTORS, ids=str)
def test_an_executor_gives_results_in_order(executor):
    def task(number):
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(executor.map(task, range(20))) == [number * number for number in range(20)]


def test_threads_run_as_many_at_once_as_there_are_workers_and_no_more():
    lock, running, most = threading.Lock(), 0, 0

    def task(_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1

    list(Executor(3).map(task, range(12)))
    assert most == 3
    most = 0
    list(Executor(3).at_most(2).map(task, range(8)))
    assert most == 2


def test_threads_hold_no_more_results_than_a_batch():
    begun = []
    results = Executor(2).map(begun.append, range(20))
    next(results)
    assert len(begun) == 2 * TASKS_PER_WORKER
    list(results)
    assert sorted(begun) == list(range(20))


def test_an_exception_comes_up_when_no_task_runs_any_more():
    ended = []

    def task(number):
        if number == 0:
            raise ValueError("a bad task")
        time.sleep(0.1)
        ended.append(number)

    with pytest.raises(ValueError, match="a bad task"):
        list(Executor(2).map(task, range(8)))
    assert len(ended) == 2 * TASKS_PER_WORKER - 1
    time.sleep(0.2)
    assert len(ended) == 2 * TASKS_PER_WORKER - 1
