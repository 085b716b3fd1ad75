"""Crash safety: whenever a writer dies, the same command again gives what an undisturbed run gives."""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from itertools import cycle, islice

import duckdb
import pytest
import zarr.storage._local
from small import (
    SMALL_MODEL,
    command,
    environment,
    few_draws,
    run_cli,
    walk,
    write_log,
    write_safetensors,
    write_torch,
)

import sedarchive.archive.records
from sedarchive.archive import Archive, plainchunks
from sedarchive.archive.lock import LOCK_NAME, was_interrupted
from sedarchive.archive.verify import verify
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.ingest import IngestOptions, ingest

TIMES = "EXCLUDE (started, finished)"
SHAPES = {"h.0.mlp.c_fc.weight": (4, 6), "scale": (), "big.weight": (140, 1000)}
"""The last is stored in two slabs."""


def contents(archive):
    """Every file of an archive with its bytes, but for a lock that a killed writer left."""
    return {
        path.relative_to(archive).as_posix(): path.read_bytes()
        for path in archive.rglob("*")
        if path.is_file() and path.name != LOCK_NAME
    }


def tables(database):
    """Every row of every table, sorted, without the times of the computations."""
    with duckdb.connect(str(database), read_only=True) as connection:
        names = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {
            name: sorted(map(repr, connection.execute(f"SELECT * {TIMES if name == 'computations' else ''} FROM {name}")
                             .fetchall()))
            for name in names
        }  # fmt: skip


def assert_same_files(found, wanted):
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


# Every moment: the process "dies" at its n-th write, whichever file that is


class Died(Exception):
    """Stands for the death of the process: no write succeeds after it."""


@contextmanager
def dying(monkeypatch, after):
    """Let ``after`` file writes of the archive succeed and no more; yields the number of writes asked for."""
    asked = [0]

    def guarded(write):
        def write_or_die(*args, **kwargs):
            asked[0] += 1
            if asked[0] > after:
                raise Died
            return write(*args, **kwargs)

        return write_or_die

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage._local, "_put", guarded(zarr.storage._local._put))
        patch.setattr(plainchunks, "put", guarded(plainchunks.put))
        atomic = guarded(sedarchive.archive.records.write_atomic)
        patch.setattr(sedarchive.archive.records, "write_atomic", atomic)
        yield asked


class Scene:
    """A history that grew from 3 to 7 checkpoints; archives of it begin as copies of one, so that ids agree."""

    def __init__(self, root):
        self.root = root
        states = walk(7, shapes=SHAPES)
        write_safetensors(root / "run", states[:3], [0, 10, 20])
        write_log(root / "run", [0, 10, 20])
        Archive.create_or_open(root / "begun.zarr")
        self.ingest(root / "begun.zarr")
        self.compute(root / "begun.zarr", root / "begun.duckdb")
        write_safetensors(root / "run", states[3:], [30, 40, 50, 60])
        write_log(root / "run", range(0, 70, 10))
        self.fresh("whole")
        self.ingest(root / "whole.zarr")
        self.ingested = contents(root / "whole.zarr")
        self.compute(root / "whole.zarr", root / "whole.duckdb")
        self.computed = contents(root / "whole.zarr")
        self.tables = tables(root / "whole.duckdb")

    def fresh(self, name):
        """A copy of the archive with 3 checkpoints and of its tables."""
        shutil.rmtree(self.root / f"{name}.zarr", ignore_errors=True)
        shutil.copytree(self.root / "begun.zarr", self.root / f"{name}.zarr")
        shutil.copy(self.root / "begun.duckdb", self.root / f"{name}.duckdb")
        return self.root / f"{name}.zarr"

    def ingest(self, archive):
        (report,) = ingest([self.root / "run"], archive, IngestOptions(steps_per_chunk=2))
        assert report.error is None

    def compute(self, archive, database):
        options = ComputeOptions(windows=(2,), spectra=False, inference=False)
        with few_draws():
            assert [report.error for report in compute(archive, database, options)] == [None]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(tmp_path_factory.mktemp("scene"))


def moments(n_writes, share):
    """Numbers of writes after which to die: all of them, or every so many with the first and the last."""
    return sorted({0, n_writes - 1, *range(0, n_writes, share)})


def die_in_ingest(scene, monkeypatch, after):
    archive = scene.fresh("dying")
    with dying(monkeypatch, after) as asked:
        try:
            scene.ingest(archive)
        except Died:
            assert was_interrupted(archive)
    return archive, asked[0]


def die_in_compute(scene, monkeypatch, after):
    archive = scene.fresh("dying")
    scene.ingest(archive)
    with dying(monkeypatch, after) as asked:
        try:
            scene.compute(archive, scene.root / "dying.duckdb")
        except Died:
            assert was_interrupted(archive)
    return archive, asked[0]


def check_death_in_ingest(scene, monkeypatch, share):
    _, n_writes = die_in_ingest(scene, monkeypatch, 10**9)
    for after in moments(n_writes, share):
        archive, _ = die_in_ingest(scene, monkeypatch, after)
        left = verify(archive)
        assert {finding.severity for finding in left} == {"info"}, (after, left)
        steps = Archive(archive).run("run").steps
        assert steps == (0, 10, 20, 30, 40, 50, 60)[: len(steps)]
        scene.ingest(archive)
        assert_same_files(contents(archive), scene.ingested)
        assert verify(archive) == []


def check_death_in_compute(scene, monkeypatch, share):
    _, n_writes = die_in_compute(scene, monkeypatch, 10**9)
    for after in moments(n_writes, share):
        archive, _ = die_in_compute(scene, monkeypatch, after)
        left = verify(archive)
        assert {finding.severity for finding in left} == {"info"}, (after, left)
        scene.compute(archive, scene.root / "dying.duckdb")
        assert_same_files(contents(archive), scene.computed)
        assert tables(scene.root / "dying.duckdb") == scene.tables
        assert verify(archive) == []


def test_a_growing_ingest_that_dies_at_some_write_is_completed_to_the_byte(scene, monkeypatch):
    check_death_in_ingest(scene, monkeypatch, 26)


def test_a_compute_that_dies_at_some_write_is_completed_to_the_byte(scene, monkeypatch):
    check_death_in_compute(scene, monkeypatch, 28)


@pytest.mark.slow
def test_a_growing_ingest_that_dies_at_any_write_is_completed_to_the_byte(scene, monkeypatch):
    check_death_in_ingest(scene, monkeypatch, 1)


@pytest.mark.slow
def test_a_compute_that_dies_at_any_write_is_completed_to_the_byte(scene, monkeypatch):
    check_death_in_compute(scene, monkeypatch, 1)


def test_another_command_after_a_dead_ingest_leaves_a_clean_archive(scene, monkeypatch):
    _, n_writes = die_in_ingest(scene, monkeypatch, 10**9)
    for after in moments(n_writes, 60):
        archive, _ = die_in_ingest(scene, monkeypatch, after)
        scene.compute(archive, scene.root / "dying.duckdb")
        assert verify(archive) == []
        scene.ingest(archive)
        scene.compute(archive, scene.root / "dying.duckdb")
        assert_same_files(contents(archive), scene.computed)
        assert tables(scene.root / "dying.duckdb") == scene.tables


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_an_ingest_that_dies_on_an_empty_folder_is_completed_to_the_byte(tmp_path, monkeypatch, share):
    write_safetensors(tmp_path / "runs/a/b", walk(2, shapes={"w": (3, 2)}))
    options = IngestOptions()
    Archive.create_or_open(tmp_path / "empty.zarr")
    shutil.copytree(tmp_path / "empty.zarr", tmp_path / "whole.zarr")
    ingest([tmp_path / "runs"], tmp_path / "whole.zarr", options)
    wanted = contents(tmp_path / "whole.zarr")
    after = 0
    while True:
        shutil.rmtree(tmp_path / "dying.zarr", ignore_errors=True)
        shutil.copytree(tmp_path / "empty.zarr", tmp_path / "dying.zarr")
        with dying(monkeypatch, after) as asked, suppress(Died):
            ingest([tmp_path / "runs"], tmp_path / "dying.zarr", options)
        if asked[0] <= after:
            break
        assert {finding.severity for finding in verify(tmp_path / "dying.zarr")} == {"info"}, after
        ingest([tmp_path / "runs"], tmp_path / "dying.zarr", options)
        assert_same_files(contents(tmp_path / "dying.zarr"), wanted)
        after += share
    assert after > 10


def test_chunks_are_on_the_disk_before_a_record_names_them_and_a_record_before_it_has_its_name(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "runs/run", walk(2, shapes={"w": (3, 2)}))
    run = tmp_path / "a.zarr/run"
    waited = []  # for each wait its inode, if it is for one file, and what lies in the archive by then

    def wait(handle=None):
        waited.append((handle and os.fstat(handle).st_ino, set(contents(run))))

    monkeypatch.setattr("os.sync", wait)
    monkeypatch.setattr("os.fsync", wait)
    ingest([tmp_path / "runs/run"], tmp_path / "a.zarr", IngestOptions())
    ((at, there),) = [(at, there) for at, (inode, there) in enumerate(waited) if inode is None]
    assert {name for name in contents(run) if name.startswith("theta/")} <= there
    files, folder = [inode for inode, _ in waited], (run / "commits").stat().st_ino
    for name in ("commits/000000.json", "commits/000001.json"):
        assert name not in there
        record = files.index((run / name).stat().st_ino)
        assert record > at
        assert name not in waited[record][1]
        assert files[record + 1] == folder
        assert name in waited[record + 1][1]


# The real thing: kill -9 of the command line at random moments


class Killing:
    """Runs of the command line on two histories in one folder, killed and repeated."""

    def __init__(self, root, rng, *options, checkpoints=(12, 9), shapes=SMALL_MODEL):
        self.root, self.rng = root, rng
        write_safetensors(root / "runs/safe", walk(checkpoints[0], shapes=SHAPES))
        write_torch(root / "runs/nested/torch", walk(checkpoints[1], shapes=shapes, seed=1))
        write_log(root / "runs/safe", range(0, 10 * checkpoints[0], 10))
        Archive.create_or_open(root / "empty.zarr")
        self.ingest = ["ingest", root / "runs", "--archive", root / "a.zarr", "--steps-per-chunk", 2]
        self.compute = ["compute", "--archive", root / "a.zarr", "--db", root / "a.duckdb", "--workers", 2, *options]
        self.reset()
        self.times = [self.timed(self.ingest)]
        self.ingested = contents(root / "a.zarr")
        shutil.copytree(root / "a.zarr", root / "ingested.zarr")
        self.times.append(self.timed(self.compute))
        self.computed, self.tables = contents(root / "a.zarr"), tables(root / "a.duckdb")

    def reset(self, begin="empty"):
        shutil.rmtree(self.root / "a.zarr", ignore_errors=True)
        (self.root / "a.duckdb").unlink(missing_ok=True)
        shutil.copytree(self.root / f"{begin}.zarr", self.root / "a.zarr")

    def timed(self, args):
        began = time.monotonic()
        self.completed(args)
        return time.monotonic() - began

    def completed(self, args):
        done = run_cli(*args, "--quiet")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr

    def killed(self, args, seconds):
        """Start a command and kill it after some time; whether it was still running."""
        process = subprocess.Popen(
            command(*args), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL

    def kill_ingest(self):
        """Kill an ingest at a random moment and complete it; whether it was alive when it was killed."""
        self.reset()
        hit = self.killed(self.ingest, self.moment(self.times[0]))
        assert {finding.severity for finding in verify(self.root / "a.zarr")} <= {"info"}
        self.completed(self.ingest)
        assert_same_files(contents(self.root / "a.zarr"), self.ingested)
        assert verify(self.root / "a.zarr") == []
        return hit

    def kill_compute(self):
        """Kill a compute at a random moment and complete it; whether it was alive when it was killed."""
        self.reset("ingested")
        hit = self.killed(self.compute, self.moment(self.times[1]))
        assert {finding.severity for finding in verify(self.root / "a.zarr")} <= {"info"}
        self.completed(self.compute)
        assert_same_files(contents(self.root / "a.zarr"), self.computed)
        assert tables(self.root / "a.duckdb") == self.tables
        assert verify(self.root / "a.zarr") == []
        return hit

    def kill_in_turn(self, moments, hits):
        """Kill so many ingests and computes in turn, and more where too few were alive; how many were."""
        kills = islice(cycle([self.kill_ingest, self.kill_compute]), 3 * moments)
        hit = 0
        for done, kill in enumerate(kills, start=1):
            hit += kill()
            if done >= moments and hit >= hits:
                break
        return hit

    def moment(self, seconds):
        # nothing is written before the imports are done, a good third of the time
        return self.rng.uniform(0.3, 1.0) * seconds


def test_the_number_of_workers_changes_no_row(scene, tmp_path):
    found = []
    for workers, scheduler in ((1, "serial"), (1, "threads"), (4, "threads")):
        database = tmp_path / f"{workers}_{scheduler}.duckdb"
        with few_draws():
            compute(scene.fresh("shared"), database, ComputeOptions(workers=workers, scheduler=scheduler))
        found.append(tables(database))
    assert found[0] == found[1] == found[2]


def test_ingest_and_compute_killed_at_a_random_moment_are_completed(tmp_path):
    small = {"checkpoints": (7, 3), "shapes": {"w": (4, 6), "b": (6,)}}
    killing = Killing(tmp_path, random.Random(0), "--no-inference", **small)
    assert killing.kill_in_turn(2, hits=1) >= 1


@pytest.mark.slow
def test_ingest_and_compute_killed_at_20_random_moments_are_completed(tmp_path):
    assert Killing(tmp_path, random.Random(1)).kill_in_turn(20, hits=10) >= 10
