"""Rows made in other processes: the same rows, and no process that outlives the command."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import tasks
from small import walk, write_log, write_safetensors

from sedarchive import processes
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.compute.stages import Stage, run_stages
from sedarchive.errors import WorkerError
from sedarchive.executor import Executor
from sedarchive.processes import PROCESS_MEMORY, WORTH_WINDOWS, row_maker

ENOUGH = 4 * PROCESS_MEMORY


@pytest.fixture(scope="module")
def maker():
    with row_maker(Executor(2), ENOUGH) as rows:
        yield rows


def test_results_come_in_order_from_other_processes_of_one_blas_thread(maker):
    found = list(maker.run([partial(tasks.process_id, 0.02)] * 12, WORTH_WINDOWS))
    assert len(set(found)) == 2
    assert os.getpid() not in found
    assert list(maker.run([partial(abs, -at) for at in range(60)], WORTH_WINDOWS)) == list(range(60))
    assert list(maker.run([partial(tasks.blas_threads, 0)], WORTH_WINDOWS)) == [[1, 1]]


def test_tasks_are_made_while_others_run_but_not_all_at_once(maker):
    made = []

    def making():
        for at in range(100):
            made.append(at)
            yield partial(abs, at)

    results = maker.run(making(), WORTH_WINDOWS)
    assert not made
    assert next(results) == 0
    assert len(made) < 50
    assert list(results) == list(range(1, 100))


@pytest.mark.parametrize(
    ("executor", "memory", "windows"),
    [
        (Executor(2), ENOUGH, WORTH_WINDOWS - 1),
        (Executor(2), 2 * PROCESS_MEMORY - 1, WORTH_WINDOWS),
        (Executor(1), ENOUGH, WORTH_WINDOWS),
        (Executor(2, "serial"), ENOUGH, WORTH_WINDOWS),
    ],
    ids=["few windows", "little memory", "one worker", "serial"],
)
def test_otherwise_they_are_made_in_this_process(executor, memory, windows):
    with row_maker(executor, memory) as rows:
        assert set(rows.run([os.getpid] * 4, windows)) == {os.getpid()}


def test_an_exception_of_a_task_is_raised_as_it_was_and_others_can_follow(maker):
    with pytest.raises(ZeroDivisionError):
        list(maker.run([partial(tasks.inverse, at) for at in (1, 2, 0, 3)], WORTH_WINDOWS))
    assert list(maker.run([partial(tasks.inverse, 2)], WORTH_WINDOWS)) == [0.5]


def test_a_process_that_dies_is_one_error_that_names_the_way_out():
    with pytest.raises(WorkerError, match="--scheduler serial"), row_maker(Executor(2), ENOUGH) as rows:
        list(rows.run([partial(os._exit, 1)], WORTH_WINDOWS))


TABLES = ("updates", "windows", "window_sigmas", "drift", "components", "fits", "phases", "events", "couplings")


def test_tables_are_the_same_whether_processes_made_them_or_not(analysis, tmp_path):
    run = tmp_path / "run"
    write_safetensors(run, walk(24))
    write_log(run, [10 * at for at in range(24)])
    analysis.ingest(run)
    made = []
    for least in (WORTH_WINDOWS, 0):
        analysis.database.unlink(missing_ok=True)
        with mock.patch.object(processes, "WORTH_WINDOWS", least):
            options = ComputeOptions(windows=(5,), scopes=("role:query",), spectra=False, workers=2, max_mem=ENOUGH)
            compute(analysis.archive, analysis.database, options)
        made.append({table: sorted(map(str, analysis.rows(f"FROM {table}"))) for table in TABLES})
    assert [table for table, rows in made[0].items() if not rows] == []
    assert made[0] == made[1]


HEAVY = {"zarr", "duckdb", "dask", "torch", "scipy.optimize", "matplotlib"}
MAKERS = (
    "compute.rolling.scope_windows",
    "compute.rolling.null_rows",
    "compute.rolling.drift_rows",
    "compute.inference.phase_rows",
    "compute.inference.flow_rows",
    "compute.couplings.coupling_scans",
    "nulls.momentum",
)


@pytest.mark.parametrize("module", MAKERS)
def test_what_makes_rows_needs_neither_archive_nor_database(module):
    program = f"import sys, sedarchive.{module}; print(*({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


UNGUARDED = """
import os, time
from functools import partial
from sedarchive.executor import Executor
from sedarchive.processes import row_maker
print("begun", flush=True)
with row_maker(Executor(2), 2**31) as rows:
    for found in rows.run([os.getpid, os.getpid, *[partial(time.sleep, 0.2)] * 200], 10**6):
        if found:
            print(found, flush=True)
print("ended", flush=True)
"""


def begun(tmp_path):
    """A program without a main guard, and the processes that it has started."""
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    running = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "begun\n"
    return running, {int(running.stdout.readline()) for _ in range(2)}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_command_that_is_stopped(tmp_path, sent):
    running, workers = begun(tmp_path)
    running.send_signal(sent)
    out, error = running.communicate(timeout=20)
    assert "begun" not in out  # the script is not run again by its processes
    assert "ended" not in out
    assert error.count("Traceback") == (1 if sent == signal.SIGINT else 0)
    ends = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not any(map(alive, workers))


@pytest.mark.parametrize("seconds", [0.05, 0.2, 1.0])
def test_ctrl_c_of_a_terminal_is_told_once_even_while_processes_start(tmp_path, seconds):
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    running = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout.readline() == "begun\n"
    time.sleep(seconds)
    os.killpg(running.pid, signal.SIGINT)
    assert running.communicate(timeout=20)[1].count("Traceback") == 1


def test_processes_stay_for_the_next_stages():
    with row_maker(Executor(2), ENOUGH) as rows:
        seen = []
        for _ in range(2):
            found = []
            stage = Stage([partial(tasks.process_id, 0.02)] * 6, 6, found.extend, WORTH_WINDOWS)
            run_stages([stage, Stage([], 0, list, 0)], rows, SimpleNamespace(end=lambda: None))
            seen.append(set(found))
    assert seen[0] & seen[1]


def test_threads_do_where_the_system_gives_no_processes():
    with mock.patch.object(processes, "_started", side_effect=OSError), row_maker(Executor(2), ENOUGH) as rows:
        rows.expect(WORTH_WINDOWS)
        assert set(rows.run([os.getpid] * 4, WORTH_WINDOWS)) == {os.getpid()}
