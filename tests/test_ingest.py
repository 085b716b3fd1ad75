"""Ingest: what is new is added, what is known is checked, what is refused is said with the way out."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from small import (
    environment,
    numpy_bits,
    walk,
    write_log,
    write_safetensors,
    write_torch,
    write_trainer,
)

import sedarchive.archive.writer
import sedarchive.comparison
import sedarchive.ingest
from sedarchive.archive import Archive
from sedarchive.archive.lock import was_interrupted
from sedarchive.archive.verify import verify
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.errors import ArchiveLockedError, HistoryError, UnreadableCheckpointError
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.preview import plan_ingest
from sedarchive.restore import restore
from sedarchive.sizes import MIB


def ingest_run(tmp_path, folder="run", **options):
    (report,) = ingest([tmp_path / folder], tmp_path / "a.zarr", IngestOptions(**options))
    return report


def recorded(tmp_path):
    """Findings of ingest that stand."""
    return Archive(tmp_path / "a.zarr").run("run").findings


def bits_of(archive, run="run"):
    """Bytes of every tensor at every step, by restoring each."""
    opened = Archive(archive).run(run)
    found = {}
    for step in opened.steps:
        restore(opened, step, archive.parent / "restored.safetensors")
        found[step] = (archive.parent / "restored.safetensors").read_bytes()
    return found


def test_a_second_ingest_adds_nothing_and_reads_no_weights(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "run", walk(5))
    assert ingest_run(tmp_path).added == 5
    for module in (sedarchive.ingest, sedarchive.comparison):
        monkeypatch.setattr(module, "open_checkpoint", lambda *a: pytest.fail("a known checkpoint was opened"))
    report = ingest_run(tmp_path)
    assert (report.found, report.already, report.added, report.error) == (5, 5, 0, None)


def test_a_run_that_grows_gives_the_same_archive_as_one_that_is_complete(tmp_path):
    states = walk(13)
    write_safetensors(tmp_path / "whole", states)
    ingest([tmp_path / "whole"], tmp_path / "b.zarr", IngestOptions())
    for n in (1, 8, 9, 13):
        write_safetensors(tmp_path / "run", states[:n], range(0, 10 * n, 10))
        assert ingest_run(tmp_path).error is None
    assert bits_of(tmp_path / "a.zarr") == bits_of(tmp_path / "b.zarr", "whole")
    assert verify(tmp_path / "a.zarr") == []


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_byte(tmp_path, workers):
    write_safetensors(tmp_path / "run", walk(10))
    ingest([tmp_path / "run"], tmp_path / "b.zarr", IngestOptions())
    ingest_run(tmp_path, workers=workers)
    assert bits_of(tmp_path / "a.zarr") == bits_of(tmp_path / "b.zarr")


def test_formats_side_by_side_become_runs_with_the_same_digests(tmp_path):
    states = walk(3)
    write_trainer(tmp_path / "runs/trainer", states)
    write_torch(tmp_path / "runs/torch", states)
    write_torch(tmp_path / "runs/legacy", states, legacy=True)
    write_safetensors(tmp_path / "runs/safe", states)
    reports = ingest([tmp_path / "runs"], tmp_path / "a.zarr", IngestOptions())
    assert {report.run: (report.added, report.error) for report in reports} == dict.fromkeys(
        ["trainer", "torch", "legacy", "safe"], (3, None)
    )
    archive = Archive(tmp_path / "a.zarr")
    digests = {tuple(commit.digest for commit in run.commits) for run in archive.runs()}
    assert len(digests) == 1
    trainer = archive.run("trainer")
    assert trainer.config["model_type"] == "gpt2"
    assert {metric.name for metric in trainer.metrics()} >= {"train_loss", "lr"}
    assert not any("exp_avg" in name for name in trainer.tensors)


def test_logs_are_merged_and_a_log_that_is_gone_takes_nothing_with_it(tmp_path):
    write_safetensors(tmp_path / "run", walk(2))
    write_log(tmp_path / "run", [0, 10])
    ingest_run(tmp_path)
    write_log(tmp_path / "run", [10, 20])
    ingest_run(tmp_path)
    (tmp_path / "run/metrics.jsonl").unlink()
    ingest_run(tmp_path)
    run = Archive(tmp_path / "a.zarr").run("run")
    assert [(metric.step, metric.value) for metric in run.metrics()] == [(0, 2.0), (10, 1.99), (20, 1.98)]
    assert verify(tmp_path / "a.zarr") == []


def test_an_interruption_while_metrics_are_written_loses_none(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "run", walk(2))
    write_log(tmp_path / "run", [0, 10])
    ingest_run(tmp_path)
    (tmp_path / "run/metrics.jsonl").unlink()
    write_log(tmp_path / "run", [5, 20])
    write = sedarchive.archive.writer.RunWriter._write_series

    def interrupted(self, path, series):
        write(self, path, series)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sedarchive.archive.writer.RunWriter, "_write_series", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ingest_run(tmp_path)
    assert was_interrupted(tmp_path / "a.zarr")
    assert [metric.step for metric in Archive(tmp_path / "a.zarr").run("run").metrics()] == [0, 10]
    assert {finding.severity for finding in verify(tmp_path / "a.zarr")} == {"info"}
    ingest_run(tmp_path)
    assert [metric.step for metric in Archive(tmp_path / "a.zarr").run("run").metrics()] == [0, 5, 10, 20]
    assert verify(tmp_path / "a.zarr") == []


# Sources that changed


def test_a_source_whose_content_changed_in_place_is_an_error_by_name(tmp_path):
    paths = write_safetensors(tmp_path / "run", walk(4))
    ingest_run(tmp_path)
    before = bits_of(tmp_path / "a.zarr")
    changed = walk(4, seed=9)[2]
    write_safetensors(tmp_path / "run", [changed], [20])
    report = ingest_run(tmp_path)
    assert str(paths[2]) in report.error
    assert "--run" in report.error
    assert "sedarchive restore" in report.error
    assert bits_of(tmp_path / "a.zarr") == before


def test_a_change_that_size_and_time_hide_is_found_by_reading_everything(tmp_path):
    path = write_safetensors(tmp_path / "run", walk(2))[1]
    ingest_run(tmp_path)
    stamp = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert ingest_run(tmp_path).error is None  # the documented limit of the cheap check
    assert str(path) in ingest_run(tmp_path, verify_sources=True).error


def test_a_source_that_was_only_touched_is_no_error(tmp_path):
    path = write_safetensors(tmp_path / "run", walk(2))[1]
    ingest_run(tmp_path)
    os.utime(path, ns=(1, 1))
    report = ingest_run(tmp_path)
    assert (report.error, report.already) == (None, 2)


def test_a_deleted_source_is_no_error_and_stays_archived(tmp_path):
    paths = write_safetensors(tmp_path / "run", walk(4))
    ingest_run(tmp_path)
    before = bits_of(tmp_path / "a.zarr")
    paths[1].unlink()
    report = ingest_run(tmp_path)
    assert (report.error, report.already, report.added) == (None, 3, 0)
    assert bits_of(tmp_path / "a.zarr") == before


def test_ties_do_not_make_an_unchanged_source_look_changed(tmp_path):
    states = walk(2)
    for state in states:
        state["lm_head.weight"] = state["wte.weight"]
    write_torch(tmp_path / "run", states)
    ingest_run(tmp_path)
    assert ingest_run(tmp_path, verify_sources=True).error is None


# Runs of one name


def test_another_run_of_the_same_name_with_common_steps_is_refused_with_the_way_out(tmp_path):
    write_safetensors(tmp_path / "one/run", walk(3))
    write_safetensors(tmp_path / "two/run", walk(3, seed=5))
    ingest_run(tmp_path, "one/run")
    before = bits_of(tmp_path / "a.zarr")
    refused = ingest_run(tmp_path, "two/run")
    assert "--run" in refused.error
    assert str(tmp_path / "two/run/step_0.safetensors") in refused.error
    assert bits_of(tmp_path / "a.zarr") == before
    assert ingest_run(tmp_path, "two/run", run="other").error is None
    assert Archive(tmp_path / "a.zarr").run_names == ("other", "run")


def test_another_run_that_size_and_time_do_not_tell_apart_is_refused_too(tmp_path):
    for folder, seed in (("one", 0), ("two", 5)):
        for path in write_safetensors(tmp_path / folder / "run", walk(3, seed=seed)):
            os.utime(path, ns=(10**18, 10**18))
    ingest_run(tmp_path, "one/run")
    assert "--run" in ingest_run(tmp_path, "two/run").error


def test_another_run_of_the_same_name_without_a_common_step_is_refused_too(tmp_path):
    write_safetensors(tmp_path / "one/run", walk(2), [0, 10])
    write_safetensors(tmp_path / "two/run", walk(2, seed=5), [5, 15])
    ingest_run(tmp_path, "one/run")
    assert "--run" in ingest_run(tmp_path, "two/run").error
    assert Archive(tmp_path / "a.zarr").run("run").steps == (0, 10)


def test_the_same_run_in_another_place_goes_on(tmp_path):
    write_safetensors(tmp_path / "one/run", walk(5)[:3])
    ingest_run(tmp_path, "one/run")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    write_safetensors(tmp_path / "two/run", walk(5))
    report = ingest_run(tmp_path, "two/run")
    assert (report.error, report.already, report.added) == (None, 3, 2)


def test_of_two_folders_that_would_be_one_run_the_second_is_refused(tmp_path):
    write_safetensors(tmp_path / "one/run", walk(2))
    write_safetensors(tmp_path / "two/run", walk(2, seed=5))
    refused, first = ingest([tmp_path / "one/run", tmp_path / "two/run"], tmp_path / "a.zarr", IngestOptions())
    assert "--run" in refused.error
    assert str(tmp_path / "two/run") in refused.error
    assert (first.error, first.added) == (None, 2)


def test_an_empty_path_does_not_stop_the_others(tmp_path):
    write_safetensors(tmp_path / "one", walk(2))
    (tmp_path / "empty").mkdir()
    refused, first = ingest([tmp_path / "one", tmp_path / "empty"], tmp_path / "a.zarr", IngestOptions())
    assert str(tmp_path / "empty") in refused.error
    assert (first.error, first.added) == (None, 2)
    with pytest.raises(HistoryError, match="empty"):
        ingest([tmp_path / "empty"], tmp_path / "a.zarr", IngestOptions())


def test_a_changed_checkpoint_is_named_and_the_new_ones_are_added(tmp_path):
    paths = write_safetensors(tmp_path / "run", walk(3))
    ingest_run(tmp_path)
    write_safetensors(tmp_path / "run", walk(5))
    write_safetensors(tmp_path / "other", walk(3, seed=9))
    paths[1].write_bytes((tmp_path / "other" / paths[1].name).read_bytes())
    report = ingest_run(tmp_path)
    assert str(paths[1]) in report.error
    assert report.added == 2
    assert [found.step for found in report.findings if found.check_name == "changed_source"] == [10]


def test_one_refused_run_does_not_stop_the_others(tmp_path):
    write_safetensors(tmp_path / "runs/a", walk(2))
    write_safetensors(tmp_path / "runs/b", walk(2))
    ingest([tmp_path / "runs"], tmp_path / "a.zarr", IngestOptions())
    write_safetensors(tmp_path / "runs/a", walk(2, seed=7))
    write_safetensors(tmp_path / "runs/b", walk(4))
    reports = {one.run: one for one in ingest([tmp_path / "runs"], tmp_path / "a.zarr", IngestOptions())}
    assert "step_0.safetensors" in reports["a"].error
    assert (reports["b"].error, reports["b"].added) == (None, 2)


# Two writers

HOLD = """
import sys, time
from pathlib import Path
from sedarchive.archive import Archive
with Archive.create_or_open(Path(sys.argv[1])).writing("ingest"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a.zarr")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path, held):
    write_safetensors(tmp_path / "run", walk(2))
    for second in (
        lambda: ingest_run(tmp_path),
        lambda: compute(tmp_path / "a.zarr", tmp_path / "a.duckdb", ComputeOptions()),
        lambda: verify(tmp_path / "a.zarr"),
    ):
        with pytest.raises(ArchiveLockedError, match=rf"`ingest` \(process {held.pid} on "):
            second()
    assert not was_interrupted(tmp_path / "a.zarr")


def test_the_lock_of_a_killed_writer_stops_nobody(tmp_path, held):
    write_safetensors(tmp_path / "run", walk(2))
    held.kill()
    held.wait()
    assert was_interrupted(tmp_path / "a.zarr")
    assert ingest_run(tmp_path).added == 2
    assert not was_interrupted(tmp_path / "a.zarr")
    assert verify(tmp_path / "a.zarr") == []


def test_a_writer_that_ends_leaves_no_lock(tmp_path, held):
    held.communicate("")
    assert not (tmp_path / "a.zarr/writer.lock").exists()


# Checkpoints that fail while they are read


def test_a_checkpoint_that_shrinks_after_it_was_opened_is_left_out_and_the_rest_is_whole(tmp_path, monkeypatch):
    shapes = {"big.weight": (700, 300), "small.bias": (5,)}
    states = walk(9, shapes=shapes)
    paths = write_safetensors(tmp_path / "run", states)
    opened = sedarchive.ingest.open_checkpoint

    def open_then_truncate(source, spool):
        reader = opened(source, spool)
        if source.step in (30, 80):
            os.truncate(source.path, source.path.stat().st_size - 8)
        return reader

    monkeypatch.setattr(sedarchive.ingest, "open_checkpoint", open_then_truncate)
    report = ingest_run(tmp_path, workers=2)
    assert report.error is None
    assert report.added == 7
    (unreadable,) = [found for found in report.findings if found.check_name == "unreadable_checkpoint"]
    assert unreadable.detail.startswith(f"at 2 steps, 30, 80: {paths[3]}")
    monkeypatch.undo()
    assert verify(tmp_path / "a.zarr") == []
    run = Archive(tmp_path / "a.zarr").run("run")
    assert run.steps == (0, 10, 20, 40, 50, 60, 70)
    values = run.read("big.weight", (0, 700), range(7))
    for at, step in enumerate(run.steps):
        assert values[at].tobytes() == numpy_bits(states[step // 10]["big.weight"])
    write_safetensors(tmp_path / "run", states)
    repaired = ingest_run(tmp_path)
    assert repaired.added == 2  # they come late
    assert "unreadable_checkpoint" not in {found.check_name for found in repaired.findings + recorded(tmp_path)}
    assert verify(tmp_path / "a.zarr") == []


def test_a_torch_record_out_of_range_leaves_that_checkpoint_out(tmp_path):
    paths = write_torch(tmp_path / "run", walk(3))
    paths[1].write_bytes(paths[1].read_bytes()[:-200])
    report = ingest_run(tmp_path)
    assert report.added == 2
    assert [str(paths[1]) in found.detail for found in report.findings if found.severity == "error"] == [True]


def test_an_unexpected_refusal_of_a_batch_of_one_leaves_no_step(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "run", walk(1))

    def refuse(reader, tensor, start, stop, index):
        raise sedarchive.ingest.CheckpointReadError(index, UnreadableCheckpointError("it broke"))

    monkeypatch.setattr(sedarchive.ingest, "read_rows", refuse)
    report = ingest_run(tmp_path)
    assert report.added == 0
    assert Archive(tmp_path / "a.zarr").run("run").steps == ()
    assert verify(tmp_path / "a.zarr") == []


# Plans


def test_a_plan_writes_nothing_and_says_what_ingest_then_does(tmp_path):
    states = walk(3)
    write_trainer(tmp_path / "runs/a", states)
    before = sorted(tmp_path.rglob("*"))
    (plan,) = plan_ingest([tmp_path / "runs"], tmp_path / "a.zarr", IngestOptions()).runs
    assert sorted(tmp_path.rglob("*")) == before
    assert (plan.run, plan.steps) == ("a", (10, 20, 30))
    assert plan.model.n_bytes == sum(tensor.numel() * 4 for tensor in states[0].values())
    assert plan.model.n_tensors == len(states[0])
    (report,) = ingest([tmp_path / "runs"], tmp_path / "a.zarr", IngestOptions())
    assert report.n_bytes == plan.model.n_bytes * len(plan.steps)


def test_a_tensor_of_one_wide_row_makes_batches_small_rather_than_memory_too_little(tmp_path):
    write_safetensors(tmp_path / "run", walk(20, shapes={"mask": (1, 2**18), "w": (4, 4)}))
    (report,) = ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions(max_mem=32 * MIB))
    assert (report.error, report.added) == (None, 20)
    assert verify(tmp_path / "a.zarr") == []


def test_steps_are_committed_batch_by_batch(tmp_path):
    write_safetensors(tmp_path / "run", walk(10))
    seen = []
    folder = tmp_path / "a.zarr/run/commits"
    ingest(
        [tmp_path / "run"], tmp_path / "a.zarr", IngestOptions(steps_per_chunk=8),
        lambda stage, done, total: seen.append((done, len(list(folder.glob("*.json"))))),
    )  # fmt: skip
    assert seen == [(8, 8), (10, 10)]


def test_only_the_shared_storage_of_the_same_step_is_a_tie(tmp_path):
    states = walk(2)
    states[0]["head"] = states[0]["wte.weight"]
    states[1]["head"] = states[1]["wte.weight"] + 1
    write_torch(tmp_path / "run", states)
    ingest_run(tmp_path)
    run = Archive(tmp_path / "a.zarr").run("run")
    restore(run, 10, tmp_path / "out.safetensors")
    values = run.read("head", (0, 11), [1])
    assert values.tobytes() == numpy_bits(states[1]["head"])
    assert torch.equal(states[0]["head"], torch.from_numpy(run.read("head", (0, 11), [0])[0]))
    assert verify(tmp_path / "a.zarr") == []
