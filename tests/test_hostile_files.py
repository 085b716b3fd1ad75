"""One hostile file among good ones: refused or passed over with a word, its neighbours archived, nothing run.

Each case of ``hostile_cases`` is written between two good checkpoints, which go through ``ingest`` with it. Other tests
hold what one file cannot show: bombs in a process whose memory is measured, rights, files that shrink.
"""

import importlib
import json
import os
import pickle
import pkgutil
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hostile_cases import CASES, COMMAND, REFUSED, SHAPES, TAKEN, WARNED, Place, registered, text_of
from small import command, data_of, environment, run_here, walk, write_safetensors
from test_readers_hostile import tensor_pickle, zip_with
from test_readers_safetensors import entry, write_raw

import sedarchive.ingest
from sedarchive.archive import Archive
from sedarchive.archive.verify import verify
from sedarchive.errors import UnreadableCheckpointError
from sedarchive.history import TensorSpec
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.plan.grid import ChunkSteps
from sedarchive.preview.plan import plan_ingest
from sedarchive.readers.bounds import check_bounds

torch.set_num_threads(1)


@pytest.mark.parametrize("opcode", [*list(COMMAND)[:5], "BUILD", "a dotted name"])
def test_the_commands_of_these_pickles_are_live(tmp_path, opcode):
    pickle.loads(COMMAND[opcode](text_of(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_the_extension_s_command_is_live_where_it_is_registered(tmp_path):
    with registered():
        pickle.loads(COMMAND["the extension registry"](text_of(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # torch's, on one process
def test_a_hostile_file_harms_nobody(tmp_path, name):
    one = CASES[name]
    place = Place(tmp_path / "tree" / "run", tmp_path / "canary")
    write_safetensors(place.run, walk(2, shapes=SHAPES), [10, 30])
    one.write(place)
    before = listing(tmp_path)
    start = time.process_time()  # not of the clock: others use the machine too
    with registered():
        (report,) = ingest([place.run.parent], tmp_path / "a.zarr", IngestOptions())
    assert time.process_time() - start < 10
    assert (report.error, report.added) == (None, 3 if one.outcome == TAKEN else 2)
    severities = {REFUSED: "error", WARNED: "warning"}
    if one.outcome in severities:
        worth = [found for found in report.findings if found.severity == severities[one.outcome]]
        (found,) = [found for found in worth if "step_20" in found.detail]
        assert_said(found.detail, one.words)
    assert not place.canary.exists()
    assert [path for path in listing(tmp_path) if not path.startswith("a.zarr")] == before
    assert verify(tmp_path / "a.zarr") == []
    assert len(Archive(tmp_path / "a.zarr").run("run").commits) == report.added


def assert_said(text, words):
    assert re.search(words, text), text


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_there_are_cases_enough():
    assert len(CASES) >= 25


# What takes a process, rights, or a second hand


def text(data):
    return b"X" + struct.pack("<I", len(data)) + data


def bombs(run):
    """Files that would be gigabytes once they are read."""
    lists = b"[],"
    write_raw(run / "step_20.safetensors", b'{"a":[' + lists * 33_000_000 + b"[]]}")
    holes = write_raw(run / "step_21.safetensors", {"a": entry(shape=(1, 10**11), offsets=(0, 4 * 10**11))})
    os.truncate(holes, holes.stat().st_size + 4 * 10**11)
    (run / "step_22").mkdir()
    (run / "step_22/model.safetensors.index.json").write_bytes(b'{"weight_map":[' + lists * 4_100_000 + b"[]]}")
    zip_with(run / "step_23.pt", b"\x80\x02(" + b"]" * 2_000_000 + b"l.", method=zipfile.ZIP_DEFLATED)
    shared = b"".join(text(b"%04d" % at) + b"h\x00" for at in range(1000))
    shared = b"\x80\x02}q\x00(" + text(b"w") + tensor_pickle(4, 0, (4,), (1,))[2:-1] + shared + b"u."
    zip_with(run / "step_24.pt", shared, [("data/0", bytes(16))])
    (run / "config.json").write_bytes(b'{"a":[' + lists * 4_100_000 + b"[]]}")
    (run / "metrics.json").write_bytes(b"[" + lists * 4_100_000 + b"[]]")
    (run / "log.jsonl").write_bytes(b"".join(b'{"step":1,"%s%d":1}\n' % (b"n" * 20_000, at) for at in range(500)))


MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_maxrss / 1024, used.ru_utime + used.ru_stime]), file=sys.stderr)
sys.exit(code)
"""


def measured(*args):
    """What a process of its own writes to stdout, its peak in MiB and its processor time in s; it must end well.

    A small process starts it: one that we start ourselves would be charged with our own peak.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, args)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, *json.loads(done.stderr.splitlines()[-1])


def test_bombs_take_neither_memory_nor_time(tmp_path):
    run = tmp_path / "run"
    write_safetensors(run, walk(2, shapes=SHAPES), [10, 30])
    bombs(run)
    words, peak, seconds = measured(*command("ingest", run, "--archive", tmp_path / "a.zarr", "--json"))
    print(f"{peak:.0f} MiB, {seconds:.1f} s of processor time")
    assert peak < 700
    assert seconds < 60
    (report,) = json.loads(words)
    told = {found["check_name"] for found in report["findings"] if found["severity"] != "info"}
    assert told >= {"unreadable_checkpoint", "unreadable_log", "config"}
    assert len([found for found in report["findings"] if found["severity"] == "error"]) == 5
    assert len(Archive(tmp_path / "a.zarr").run("run").commits) == 2


MANY = 100_000


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_hundred_thousand_tiny_tensors_are_opened_in_seconds(tmp_path, suffix):
    path = tmp_path / f"step_1{suffix}"
    value = torch.ones(1)
    if suffix == ".pt":
        torch.save({f"t{at}": value for at in range(MANY)}, path)
    else:
        header = {f"t{at}": entry(shape=(1,), offsets=(4 * at, 4 * at + 4)) for at in range(MANY)}
        write_raw(path, header, bytes(4 * MANY))
    code = (
        "import sys; from pathlib import Path; from sedarchive.history import CheckpointSource;"
        "from sedarchive.readers import open_checkpoint;"
        "reader = open_checkpoint(CheckpointSource(1, 'a', Path(sys.argv[1])));"
        "print(len(reader.specs), reader.read_rows('t99999', 0, 1).shape)"
    )
    words, peak, seconds = measured(sys.executable, "-c", code, path)
    assert words == f"{MANY} (1, 1)\n"
    assert peak < 400
    assert seconds < 30


def test_a_hundred_thousand_tiny_tensors_are_refused_by_ingest(tmp_path):
    write_safetensors(tmp_path / "run", walk(2, shapes=SHAPES), [1, 3])
    header = {f"t{at}": entry(shape=(1,), offsets=(4 * at, 4 * at + 4)) for at in range(MANY)}
    write_raw(tmp_path / "run/step_2.safetensors", header, bytes(4 * MANY))
    start = time.process_time()
    (report,) = ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    assert time.process_time() - start < 20
    assert (report.error, report.added) == (None, 2)
    (found,) = [one for one in report.findings if one.severity == "error"]
    assert_said(
        found.detail, r"step_2\.safetensors: it holds 100000 tensors of 4 bytes on average.*leave this checkpoint out"
    )


def test_as_many_tensors_of_a_size_worth_a_folder_are_taken():
    path = Path("step_1")
    check_bounds(path, [TensorSpec(f"t{at}", "float32", (300,)) for at in range(30_000)], 2**29, ChunkSteps())
    check_bounds(path, [TensorSpec(f"t{at}", "float32", (1,)) for at in range(20_000)], 2**29, ChunkSteps())
    with pytest.raises(UnreadableCheckpointError, match="20001 tensors"):
        check_bounds(path, [TensorSpec(f"t{at}", "float32", (255,)) for at in range(20_001)], 2**29, ChunkSteps())


def test_many_tiny_tensors_are_archived_a_few_checkpoints_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sedarchive.ingest, "_TENSOR_BYTES", 2**23)
    write_safetensors(tmp_path / "run", walk(3, shapes={f"t{at}": () for at in range(40)}))
    sizes = []
    write = sedarchive.ingest.RunIngest._write_batch

    def noted(self, some, slot):
        sizes.append(len(some))
        return write(self, some, slot)

    monkeypatch.setattr(sedarchive.ingest.RunIngest, "_write_batch", noted)
    (report,) = ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    assert (report.added, sizes) == (3, [1] * 3)
    assert verify(tmp_path / "a.zarr") == []


def import_everything(folder):
    """Import all that an ingest and a plan may need: without rights, Python itself may be out of reach."""
    for module in pkgutil.walk_packages(sedarchive.__path__, "sedarchive."):
        if not module.name.startswith(("sedarchive.demo", "sedarchive.__main__")):
            importlib.import_module(module.name)
    paths = write_safetensors(folder / "warm", walk(2, shapes=SHAPES))
    paths[0].write_bytes(b"broken")
    plan_ingest([folder / "warm"], folder / "warm.zarr", IngestOptions())
    ingest([folder / "warm"], folder / "warm.zarr", IngestOptions())


@contextmanager
def without_rights():
    """As somebody else where we are root, whom no right keeps out."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_be_listed_and_not_entered_does_not_end_a_plan():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in write_safetensors(folder / "run", walk(2, shapes=SHAPES)):
            path.chmod(0o644)
        (folder / "run/listed").mkdir()
        (folder / "run/listed/notes.txt").write_text("x")
        for path, mode in ((folder, 0o777), (folder / "run", 0o777), (folder / "run/listed", 0o744)):
            path.chmod(mode)
        import_everything(folder)
        with without_rights():
            plan = plan_ingest([folder / "run"], folder / "a.zarr", IngestOptions())
    assert [run.steps for run in plan.runs] == [(0, 10)]
    assert any("Permission denied" in stray.reason for stray in plan.passed_over)


def test_what_may_not_be_read_is_told_and_the_rest_archived():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_safetensors(folder / "run", walk(3, shapes=SHAPES))
        for path, mode in zip(paths, (0o644, 0, 0o644), strict=True):
            path.chmod(mode)
        write_safetensors(folder / "run/closed", walk(1, shapes=SHAPES), [7])
        (folder / "run/checkpoint-50").mkdir()
        for path in (folder, folder / "run"):
            path.chmod(0o777)
        for path in (folder / "run/closed", folder / "run/checkpoint-50"):
            path.chmod(0)
        import_everything(folder)
        try:
            with without_rights():
                (report,) = ingest([folder / "run"], folder / "a.zarr", IngestOptions())
        finally:
            for path in (folder / "run/closed", folder / "run/checkpoint-50"):
                path.chmod(0o700)
    assert (report.error, report.added) == (None, 2)
    told = {found.check_name: found.detail for found in report.findings if found.severity != "info"}
    assert "Permission denied" in told["unreadable_checkpoint"]
    assert [found.detail.split(":")[0] for found in report.findings if found.check_name == "unsearched"] == [
        str(folder / "run/checkpoint-50"), str(folder / "run/closed"),
    ]  # fmt: skip


def test_a_file_that_shrinks_while_it_is_read_is_left_out(tmp_path, monkeypatch):
    paths = write_safetensors(tmp_path / "run", walk(3, shapes={"w": (500, 20)}))
    opened = sedarchive.ingest.open_checkpoint

    def shrinking(source, spool):
        reader = opened(source, spool)
        if source.path == paths[1]:
            os.truncate(paths[1], 1000)
        return reader

    monkeypatch.setattr(sedarchive.ingest, "open_checkpoint", shrinking)
    (report,) = ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    assert (report.error, report.added) == (None, 2)
    (found,) = [one for one in report.findings if one.severity == "error"]
    assert f"{paths[1]}: it ends at byte 1000: it was cut while it was being read" in found.detail
    assert verify(tmp_path / "a.zarr") == []


def test_a_socket_that_somebody_listens_at_is_passed_over(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "run", walk(2, shapes=SHAPES))
    monkeypatch.chdir(tmp_path / "run")  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("step_20.pt")
        (report,) = ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    assert report.added == 2


def test_names_that_are_no_utf8_reach_every_table_and_every_json(tmp_path):
    run = os.fsdecode(os.fsencode(tmp_path) + b"/runs/r\xff")
    paths = write_safetensors(run, walk(4, shapes=SHAPES))
    paths[1].rename(os.fsdecode(os.fsencode(run) + b"/step_10_\xff.safetensors"))
    paths[2].write_bytes(b"\xff")
    Path(run, "config.json").write_text('{"model_type": "a\\ud800\\u0000b", "optimizer": "\\udfff"}')
    where = ("--archive", tmp_path / "a.zarr")
    tables = ("--db", tmp_path / "a.duckdb")
    (plan,) = data_of(run_here("ingest", tmp_path / "runs", "--dry-run", "--json", *where))["runs"]
    (report,) = data_of(run_here("ingest", tmp_path / "runs", "--json", *where))
    assert (plan["run"], report["run"], report["added"]) == ("r?", "r?", 3)
    run_here("ingest", tmp_path / "runs", *where)
    run_here("compute", "--no-spectra", *where, *tables)
    assert data_of(run_here("status", "--json", *where, *tables))["runs"][0]["checkpoints"] == 3
    rows = data_of(run_here("query", "SELECT run, source FROM checkpoints ORDER BY step", "--json", *tables))
    assert [row["source"] for row in rows] == ["step_0.safetensors", "step_10_?.safetensors", "step_30.safetensors"]
    run_here("restore", "r?", "--to", tmp_path / "out", *where)
    run_here("inspect", tmp_path / "runs", "--json")
    assert data_of(run_here("verify", "--json", *where)) == []
