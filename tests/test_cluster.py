"""The sweeps on a Dask cluster: the same bits as in this process, whatever becomes of its workers."""

import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import tasks
from conftest import Analysis
from small import command, environment, few_draws, run_here, walk, write_safetensors, write_trainer
from test_determinism import assert_same_tables, gram_files

from sedarchive import cluster
from sedarchive.archive import Archive
from sedarchive.cluster import NO_CLUSTER, Shipped, check_versions, sweep_executor, versions
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.errors import ArchiveError, ArchiveNotFoundError, ClusterError, MissingExtraError
from sedarchive.executor import Executor, no_progress
from sedarchive.sizes import MIB
from sedarchive.sweeps import spectra_sweep
from sedarchive.sweeps.anatomy import anatomy

WIDE = {"wide.weight": (1000, 512), "wide.bias": (1000,)}
OPTIONS = {"windows": (3,), "scopes": ("role:query",), "max_mem": 56 * MIB, "workers": 2, "inference": False}


@pytest.fixture(scope="module")
def sweeps():
    """Executor on two processes of this machine."""
    with sweep_executor("local", Executor(2)) as executor:
        yield executor


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """An archive of a model whose fused tensors are split by its config, and of a matrix in many blocks."""
    folder = tmp_path_factory.mktemp("ingested")
    write_trainer(folder / "runs" / "model", walk(14))
    write_safetensors(folder / "runs" / "wide", walk(14, shapes=WIDE))
    made = Analysis(folder / "archive.zarr", folder / "archive.duckdb")
    made.ingest(folder / "runs")
    return made


@pytest.fixture(scope="module")
def reference(ingested, tmp_path_factory):
    """What threads compute, and their reports; to be read only."""
    return computed_copy(ingested, tmp_path_factory.mktemp("reference"))


def computed_copy(original, folder, progress=no_progress, **options):
    """A copy of an archive with tables of its own, and the reports."""
    made = Analysis(folder / "archive.zarr", folder / "archive.duckdb")
    shutil.copytree(original.archive, made.archive)
    with few_draws():
        reports = compute(made.archive, made.database, ComputeOptions(**OPTIONS, **options), progress)
    assert [report.error for report in reports] == [None] * 2
    return made, reports


# --- the same bits ---------------------------------------------------------------------------------------------------


def test_tables_grams_and_reads_are_those_of_threads(ingested, reference, sweeps, tmp_path):
    address = sweeps.connection.client.cluster.scheduler_address
    assert address.startswith("tcp://")
    found, reports = computed_copy(ingested, tmp_path, cluster=address)
    wanted, wanted_reports = reference
    assert_same_tables(found, wanted)
    assert gram_files(found) == gram_files(wanted)
    assert len(gram_files(found)) > 3
    assert [(one.gram.reads, one.spectra.reads) for one in reports] == [
        (one.gram.reads, one.spectra.reads) for one in wanted_reports
    ]
    assert all(one.gram.reads.chunks > 0 and one.spectra.reads.chunks > 0 for one in reports)


@pytest.mark.slow
def test_killed_workers_change_nothing_but_the_time(ingested, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(spectra_sweep, "_FLUSH_TASKS", 1)
    killed = []

    def kill(stage, done, total):
        if stage in ("gram wide", "spectra wide") and done == 1:
            assert total > 3
            victim = next(child.pid for child in multiprocessing.active_children() if child.pid not in killed)
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    found, _ = computed_copy(ingested, tmp_path, kill, cluster="local")
    assert len(killed) == 2
    assert_same_tables(found, reference[0])
    assert gram_files(found) == gram_files(reference[0])


# --- tasks and workers -----------------------------------------------------------------------------------------------


def test_results_are_in_order_and_come_from_both_workers(sweeps):
    assert list(sweeps.map(abs, range(0, -20, -1))) == list(range(20))
    assert len(set(sweeps.map(tasks.process_id, [0.05] * 8))) == 2
    assert os.getpid() not in sweeps.map(tasks.process_id, [0.05] * 4)


def test_no_more_tasks_run_at_once_than_memory_allows(sweeps):
    def at_once(executor):
        spans = list(executor.map(tasks.interval, [0.1] * 6))
        return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)

    assert at_once(sweeps) == 2
    assert at_once(sweeps.at_most(1)) == 1


def test_a_worker_has_one_blas_thread(sweeps):
    assert list(sweeps.map(tasks.blas_threads, [0])) == [[1, 1]]


def test_a_task_whose_worker_dies_is_done_by_another(sweeps, tmp_path):
    assert list(sweeps.map(tasks.die_if_first, [(tmp_path / "died", number) for number in range(6)])) == list(range(6))
    assert (tmp_path / "died").exists()


def test_a_task_that_ends_every_worker_is_an_error_of_ours(sweeps, monkeypatch):
    monkeypatch.setattr(sweeps.connection.client.cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(ClusterError, match=r"the local cluster: one task ended 1 workers, .*a smaller --max-mem"):
        list(sweeps.map(os._exit, [1]))


def test_an_exception_of_a_task_comes_up_as_it_was(sweeps):
    with pytest.raises(ZeroDivisionError):
        list(sweeps.map(tasks.inverse, [1, 2, 0, 3]))
    with pytest.raises(TimeoutError, match="of the task itself"):
        list(sweeps.map(tasks.out_of_time, [1]))
    assert list(sweeps.map(tasks.inverse, [1, 2])) == [1, 0.5]


# --- what travels ----------------------------------------------------------------------------------------------------


def test_a_run_travels_as_the_way_to_open_it(ingested):
    run = Archive(ingested.archive).run("model")
    pickled = pickle.dumps(run)
    assert len(pickled) < 1000
    other = pickle.loads(pickled)
    assert other.store is not run.store
    assert other.commits == run.commits
    name = next(iter(run.tensors))
    assert np.array_equal(other.read(name, (0, 3), [2, 1]), run.read(name, (0, 3), [2, 1]))


def test_an_archive_given_by_a_relative_path_is_found_from_anywhere(ingested, tmp_path, monkeypatch):
    monkeypatch.chdir(ingested.archive.parent)
    pickled = pickle.dumps(Archive(ingested.archive.relative_to(ingested.archive.parent)).run("model"))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickled).name == "model"


@pytest.mark.parametrize("heads", [None, 3])
def test_roles_are_worked_out_again_from_the_same_heads(ingested, heads):
    parts = anatomy(Archive(ingested.archive).run("model"), heads)
    other = pickle.loads(pickle.dumps(parts))
    assert (other.leaves, other.roles, other.tied_to) == (parts.leaves, parts.roles, parts.tied_to)


def test_a_worker_that_sees_no_archive_says_where_it_looked(ingested, sweeps, tmp_path):
    made = Analysis(tmp_path / "moved.zarr", tmp_path / "x.duckdb")
    shutil.copytree(ingested.archive, made.archive)
    read = Archive(made.archive).run("model").digests
    made.archive.rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(ArchiveNotFoundError, match=rf"{made.archive}: .* sees no archive there; .* a disk that they"):
        list(sweeps.map(read, ["wte.weight"]))


def test_a_worker_that_sees_another_history_refuses(ingested, tmp_path):
    made = Analysis(tmp_path / "archive.zarr", tmp_path / "x.duckdb")
    shutil.copytree(ingested.archive, made.archive)
    pickled = pickle.dumps(Archive(made.archive).run("wide"))
    write_safetensors(tmp_path / "runs" / "wide", walk(15, shapes=WIDE))
    made.ingest(tmp_path / "runs")
    with pytest.raises(ArchiveError, match="sees another history of run wide"):
        pickle.loads(pickled)


# --- clusters that cannot be used ------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """Half a second to connect."""
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)


def refusal(address):
    with pytest.raises(ClusterError) as caught, sweep_executor(address, Executor()):
        pass
    assert address in str(caught.value)
    assert "--cluster local or --cluster none" in str(caught.value)
    return str(caught.value)


def test_an_address_where_nobody_answers(impatient):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert "no answer" in refusal(f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("answer", "words"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Dask scheduler"), (b"", "no answer")]
)
def test_an_address_where_something_else_answers(impatient, answer, words):
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answering, args=(server, answer, kept), daemon=True).start()
        assert words in refusal(f"tcp://127.0.0.1:{server.getsockname()[1]}")
    for connection in kept:
        connection.close()


def answering(server, answer, kept):
    """Answer all who call, and keep their connections open."""
    while True:
        try:
            kept.append(server.accept()[0])
            kept[-1].sendall(answer)
        except OSError:
            return


def test_the_address_of_a_worker_is_not_that_of_a_scheduler(sweeps):
    worker = next(iter(sweeps.connection.client.nthreads()))
    assert "what answers is a Worker" in refusal(worker)


@pytest.mark.parametrize(("address", "words"), [("foo://host:1", "unknown address scheme"), ("tcp://host", "port")])
def test_an_address_that_is_none(address, words):
    assert words in refusal(address)


def test_a_scheduler_without_workers(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "WORKERS_SECONDS", 0.2)
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=50) as empty:
        assert "1 workers" in refusal(empty.scheduler_address)


def test_versions_that_differ_are_named():
    check_versions("tcp://a:1", versions(), versions())
    check_versions("tcp://a:1", versions() | {"another": "1"}, versions())
    with pytest.raises(ClusterError, match=rf"worker tcp://a:1 has numpy 1\.0 \(here {np.__version__}\): .* last bits"):
        check_versions("tcp://a:1", versions() | {"numpy": "1.0"}, versions())
    with pytest.raises(ClusterError, match="sedarchive None"):
        check_versions("tcp://a:1", {}, versions())


def test_a_worker_refuses_what_another_version_sends(sweeps):
    sent = Shipped("sweep", tuple((versions() | {"sedarchive": "0.0.1"}).items()), pickle.dumps(abs))
    with pytest.raises(ClusterError, match=r"worker tcp://127\.0\.0\.1:\d+ has sedarchive .* \(here 0\.0\.1\)"):
        sweeps.connection.submit(sent, 1).result()


@pytest.mark.parametrize("address", ["local", "tcp://127.0.0.1:8786"])
def test_what_is_missing_is_said_with_its_cure(monkeypatch, address):
    monkeypatch.setitem(sys.modules, "distributed", None)
    cure = r"pip install 'sedarchive\[cluster\]', or use --cluster none"
    with pytest.raises(MissingExtraError, match=cure), sweep_executor(address, Executor()):
        pass


def test_no_cluster_is_this_process():
    here = Executor(3)
    for none in (None, NO_CLUSTER):
        with sweep_executor(none, here) as executor:
            assert executor is here


# --- the command line ------------------------------------------------------------------------------------------------


def arguments(analysis):
    return [
        "compute",
        "--archive",
        analysis.archive,
        "--db",
        analysis.database,
        "--no-spectra",
        "--no-inference",
        "--quiet",
    ]


def test_the_command_line_takes_the_scheduler_from_its_option_or_the_environment(analysis, tmp_path, impatient):
    analysis.ingest(write_safetensors(tmp_path / "run", walk(3))[0].parent)
    address = {"DASK_SCHEDULER_ADDRESS": "tcp://127.0.0.1:1"}
    asked = run_here(*arguments(analysis), "--cluster", "tcp://127.0.0.1:1", code=1)
    assert asked.stderr.startswith("error: the cluster at tcp://127.0.0.1:1 cannot be used: no answer")
    assert run_here(*arguments(analysis), code=1, **address).stderr == asked.stderr
    with few_draws():
        run_here(*arguments(analysis), "--cluster", "none", **address)
        run_here(*arguments(analysis), **address)  # there is nothing left to sweep


def test_an_option_that_names_no_cluster_is_a_usage_error(ingested):
    refused = run_here(*arguments(ingested), "--cluster", "lokal", code=2)
    assert "'lokal' is not local, tcp://HOST:PORT or none" in " ".join(refused.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.2, 2, 4])
def test_ctrl_c_in_a_terminal_ends_workers_and_command_without_a_traceback(tmp_path, delay):
    write_safetensors(tmp_path / "runs" / "wide", walk(30, shapes={"w": (1200, 1000)}))
    made = Analysis(tmp_path / "archive.zarr", tmp_path / "archive.duckdb")
    made.ingest(tmp_path / "runs")
    args = ["compute", "--archive", made.archive, "--db", made.database, "--cluster", "local", "--exact"]
    running = subprocess.Popen(
        command(*args), env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    command_process = psutil.Process(running.pid)
    while not command_process.children():
        time.sleep(0.05)
    time.sleep(delay)
    workers = command_process.children()
    os.killpg(running.pid, signal.SIGINT)
    _, words = running.communicate(timeout=60)
    assert running.returncode == 130
    assert words == "error: interrupted; what was finished is kept, and the same command goes on from there\n"
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
