"""Hostile and broken histories: a clear word on each, the rest analysed, nothing executed, nothing written outside."""

import json
import os
import pickle
import shutil
from math import inf

import duckdb
import pytest
import torch
from safetensors.torch import save_file
from small import SMALL_MODEL, few_draws, walk, write_safetensors, write_torch, write_trainer

from sedarchive.archive import Archive
from sedarchive.archive.verify import verify
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.errors import DatabaseError, NoCheckpointsError
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.restore import restore


def take(tmp_path, folder="run"):
    (report,) = ingest([tmp_path / folder], tmp_path / "a.zarr", IngestOptions())
    return report


def analyse(tmp_path, **options):
    with few_draws():
        return compute(tmp_path / "a.zarr", tmp_path / "a.duckdb", ComputeOptions(**options))


def rows(tmp_path, sql):
    with duckdb.connect(str(tmp_path / "a.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def errors_in(report):
    return [found for found in report.findings if found.severity == "error"]


# Files that cannot be read


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
@pytest.mark.parametrize("write", [write_safetensors, write_torch])
def test_a_truncated_file_is_named_and_the_others_are_analysed(tmp_path, write, kept):
    paths = write(tmp_path / "run", walk(7))
    paths[3].write_bytes(paths[3].read_bytes()[:kept])
    report = take(tmp_path)
    assert (report.added, report.error) == (6, None)
    (found,) = errors_in(report)
    assert str(paths[3]) in found.detail
    assert found.step == 30
    if kept != 100:  # what follows does not depend on where the file ends
        return
    (computed,) = analyse(tmp_path, inference=False)
    assert computed.error is None
    assert rows(tmp_path, "SELECT count(*) FROM checkpoints") == [(6,)]
    assert rows(tmp_path, "SELECT step FROM audit WHERE check_name = 'unreadable_checkpoint'") == [(30,)]
    # a window over the gap says that its steps are uneven
    assert all(irregular for (irregular,) in rows(tmp_path, "SELECT irregular FROM windows WHERE window_size = 5"))


def test_a_missing_shard_is_named_and_the_others_are_analysed(tmp_path):
    for step, state in zip((10, 20, 30), walk(3), strict=True):
        folder = tmp_path / f"run/checkpoint-{step}"
        folder.mkdir(parents=True)
        halves = list(state.items())[:3], list(state.items())[3:]
        names = [f"model-0000{at}-of-00002.safetensors" for at in (1, 2)]
        for name, half in zip(names, halves, strict=True):
            save_file(dict(half), folder / name)
        weight_map = {tensor: name for name, half in zip(names, halves, strict=True) for tensor, _ in half}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (tmp_path / "run/checkpoint-20/model-00002-of-00002.safetensors").unlink()
    report = take(tmp_path)
    assert report.added == 2
    (found,) = errors_in(report)
    assert "checkpoint-20" in found.detail
    assert "model-00002-of-00002.safetensors" in found.detail
    assert "missing" in found.detail


class Bomb:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return (os.system, (f"touch {self.sentinel}",))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_asks_for_code_runs_none_and_the_others_are_analysed(tmp_path, legacy):
    states = walk(4)
    write_torch(tmp_path / "run", states, legacy=legacy)
    bomb = tmp_path / "run/ckpt_20.pt"
    torch.save({**states[2], "x": Bomb(tmp_path / "executed")}, bomb, _use_new_zipfile_serialization=not legacy)
    report = take(tmp_path)
    assert not (tmp_path / "executed").exists()
    assert report.added == 3
    assert any(str(bomb) in found.detail for found in errors_in(report))
    analyse(tmp_path, inference=False)
    assert not (tmp_path / "executed").exists()


def test_a_bare_pickle_bomb_runs_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/step_1.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    report = take(tmp_path)
    assert report.added == 0
    assert "step_1.pt" in errors_in(report)[0].detail
    assert not (tmp_path / "executed").exists()


def test_an_empty_folder_and_a_missing_one_are_said_to_be_so_before_an_archive_is_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        with pytest.raises(NoCheckpointsError, match=folder):
            take(tmp_path, folder)
    assert not (tmp_path / "a.zarr").exists()


# Histories that are no proper histories


def test_one_checkpoint_only_is_analysed_as_far_as_it_goes(tmp_path):
    write_safetensors(tmp_path / "run", walk(1))
    assert take(tmp_path).added == 1
    (computed,) = analyse(tmp_path, windows=(10,))
    assert computed.error is None
    assert computed.too_long == (10,)
    assert any("W + 1 checkpoints" in found.detail for found in computed.findings)
    assert rows(tmp_path, "SELECT count(*) FROM windows") == [(0,)]
    assert rows(tmp_path, "SELECT count(DISTINCT step), count(*) > 0 FROM matrix_spectra") == [(1, True)]


def test_fewer_checkpoints_than_the_window_give_the_windows_that_fit(tmp_path):
    write_safetensors(tmp_path / "run", walk(8))
    take(tmp_path)
    (computed,) = analyse(tmp_path, windows=(10,))
    assert computed.too_long == (10,)
    assert rows(tmp_path, "SELECT DISTINCT window_size FROM windows") == [(5,)]
    assert rows(tmp_path, "SELECT count(*) FROM audit WHERE check_name = 'too_few_checkpoints'") == [(1,)]


def test_doubled_steps_keep_the_first_and_report_the_rest(tmp_path):
    states = walk(3)
    write_safetensors(tmp_path / "run", states)
    save_file(states[0], tmp_path / "run/step_00010.safetensors")
    report = take(tmp_path)
    assert report.added == 3
    (found,) = [one for one in report.findings if one.check_name == "doubled_step"]
    assert found.step == 10
    assert "step_10.safetensors" in found.detail


@pytest.mark.parametrize("bad", [float("nan"), *(pytest.param(bad, marks=pytest.mark.slow) for bad in (inf, -inf))])
def test_values_that_are_not_finite_are_found_and_windows_without_them_are_whole(tmp_path, bad):
    states = walk(16)
    states[3]["h.0.mlp.c_fc.weight"][2, 2] = bad
    write_safetensors(tmp_path / "run", states)
    take(tmp_path)
    (computed,) = analyse(tmp_path)
    assert computed.error is None
    audit = rows(tmp_path, "SELECT step, tensor, detail FROM audit WHERE check_name = 'nonfinite'")
    assert [row[:2] for row in audit] == [(30, "h.0.mlp.c_fc.weight")]
    windows = rows(
        tmp_path,
        "SELECT step_first, edge_ratio, status FROM windows WHERE scope = 'all' AND window_size = 5 ORDER BY step",
    )
    assert [row[0] for row in windows] == list(range(0, 110, 10))
    for step_first, edge_ratio, status in windows:  # a window holds the checkpoint of step 30 if it begins there
        if step_first <= 30:
            assert (edge_ratio, status) == (None, "nonfinite")
        else:
            assert edge_ratio >= 1
            assert status == "ok"
    spectra = rows(
        tmp_path,
        "SELECT matrix, step, status FROM matrix_spectra WHERE sigma IS NULL",
    )
    assert [row[:2] for row in spectra] == [("h.0.mlp.c_fc.weight", 30)]
    assert spectra[0][2]


def test_a_change_of_shape_and_of_dtype_is_reported_and_the_rest_analysed(tmp_path):
    states = walk(12)
    for state in states[6:]:
        state["wte.weight"] = torch.randn(13, 6)
        state["h.0.mlp.c_fc.weight"] = state["h.0.mlp.c_fc.weight"].to(torch.bfloat16)
    write_safetensors(tmp_path / "run", states)
    assert take(tmp_path).added == 12
    (computed,) = analyse(tmp_path)
    assert computed.error is None
    audit = dict(rows(tmp_path, "SELECT check_name, tensor FROM audit WHERE check_name LIKE '%changed'"))
    assert audit == {"shape_changed": "wte.weight", "dtype_changed": "h.0.mlp.c_fc.weight"}
    reasons = dict(rows(tmp_path, "SELECT tensor, skipped_reason FROM tensors WHERE tensor LIKE 'wte%'"))
    assert reasons.keys() == {"wte.weight", "wte.weight~1"}
    assert all("absent at 6 of 12" in reason for reason in reasons.values())
    whole = rows(tmp_path, "SELECT count(*) FROM windows WHERE scope = 'all' AND window_size = 5 AND edge_ratio > 0")
    assert whole == [(7,)]


def test_a_damaged_chunk_is_a_finding_of_that_tensor_and_the_rest_is_analysed(tmp_path):
    write_safetensors(tmp_path / "run", walk(8))
    take(tmp_path)
    chunk = next(path for path in (tmp_path / "a.zarr/run/theta/wte.weight/c").rglob("*") if path.is_file())
    data = bytearray(chunk.read_bytes())
    data[100] ^= 4
    chunk.write_bytes(data)
    (computed,) = analyse(tmp_path, scheduler="threads", workers=2, inference=False)
    assert computed.error is None
    assert list(computed.gram.failed) == ["wte.weight"]
    audit = rows(tmp_path, "SELECT tensor, severity, detail FROM audit WHERE check_name = 'unreadable'")
    assert [row[:2] for row in audit] == [("wte.weight", "error")]
    assert "sedarchive verify" in audit[0][2]
    spectra = "SELECT DISTINCT matrix FROM matrix_spectra WHERE status {} 'unreadable' ORDER BY 1"
    assert rows(tmp_path, spectra.format("=")) == [("wte.weight",)]
    assert len(rows(tmp_path, spectra.format("<>"))) >= 4
    [(reason,)] = rows(tmp_path, "SELECT skipped_reason FROM tensors WHERE tensor = 'wte.weight'")
    assert "cannot be read" in reason
    statuses = "SELECT DISTINCT scope, status FROM {} WHERE scope IN ('all', 'trunk') ORDER BY 1"
    for table in ("windows", "updates"):  # wte.weight is no part of the trunk
        assert rows(tmp_path, statuses.format(table)) == [("all", "incomplete"), ("trunk", "ok")]
    assert rows(tmp_path, "SELECT count(*) > 0 FROM windows WHERE scope = 'all' AND edge_ratio > 0") == [(True,)]
    data[100] ^= 4
    chunk.write_bytes(data)
    analyse(tmp_path, inference=False)  # once it is whole again, so are the tables
    assert rows(tmp_path, statuses.format("windows")) == [("all", "ok"), ("trunk", "ok")]
    assert rows(tmp_path, "SELECT skipped_reason FROM tensors WHERE tensor = 'wte.weight'") == [(None,)]
    assert rows(tmp_path, spectra.format("=")) == []
    assert rows(tmp_path, "SELECT count(*) FROM audit WHERE check_name = 'unreadable'") == [(0,)]
    assert verify(tmp_path / "a.zarr") == []


def test_spectra_of_a_chunk_damaged_after_its_gram_sweep_are_missing_with_a_finding(tmp_path):
    write_safetensors(tmp_path / "run", walk(8))
    take(tmp_path)
    analyse(tmp_path, spectra=False, inference=False)
    chunk = next(path for path in (tmp_path / "a.zarr/run/theta/wte.weight/c").rglob("*") if path.is_file())
    flip(chunk)
    (computed,) = analyse(tmp_path, inference=False)
    assert (list(computed.gram.failed), list(computed.spectra.failed)) == ([], ["wte.weight"])
    audit = rows(tmp_path, "SELECT tensor, severity, detail FROM audit WHERE check_name = 'unreadable_spectra'")
    assert [row[:2] for row in audit] == [("wte.weight", "error")]
    assert str(chunk.relative_to(tmp_path / "a.zarr/run").parts[1]) in audit[0][2]
    assert rows(tmp_path, "SELECT DISTINCT status FROM windows WHERE scope = 'all'") == [("ok",)]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """A folder of an archive with Gram matrices, and its windows; to be copied."""
    root = tmp_path_factory.mktemp("analysed")
    write_safetensors(root / "run", walk(8))
    take(root)
    analyse(root, spectra=False, inference=False)
    return root, rows(root, WINDOWS)


WINDOWS = "SELECT * FROM window_sigmas ORDER BY ALL"


@pytest.mark.parametrize("part", ["updates", "origin", "counts"])
@pytest.mark.parametrize("what", ["chunk", "metadata"])
def test_a_damaged_gram_matrix_is_made_again_from_the_weights(analysed, tmp_path, part, what):
    original, before = analysed
    shutil.copytree(original / "a.zarr", tmp_path / "a.zarr")
    pattern = f"{part}/c/1/**/*" if what == "chunk" else f"{part}/zarr.json"
    path = next(path for path in sorted((tmp_path / "a.zarr/run/gram").rglob(pattern)) if path.is_file())
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert verify(tmp_path / "a.zarr") != []
    (computed,) = analyse(tmp_path, spectra=False, inference=False)
    assert (computed.error, computed.gram.computed) == (None, 1 if what == "chunk" else len(SMALL_MODEL))
    assert len(computed.findings) == len({finding.detail for finding in computed.findings})
    assert rows(tmp_path, WINDOWS) == before
    assert verify(tmp_path / "a.zarr") == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_a_damaged_record_of_one_run_does_not_stop_the_others(tmp_path):
    for name in ("bad", "good"):
        write_safetensors(tmp_path / "runs" / name, walk(3))
    ingest([tmp_path / "runs"], tmp_path / "a.zarr", IngestOptions())
    record = tmp_path / "a.zarr/bad/commits/000001.json"
    record.write_bytes(record.read_bytes()[:-10])
    bad, good = analyse(tmp_path, inference=False)
    assert (bad.run, good.run, good.error) == ("bad", "good", None)
    assert str(record) in bad.error
    assert rows(tmp_path, "SELECT run, n_checkpoints FROM runs") == [("good", 3)]


# Names

NAMES = [
    "../outside",
    "../../outside",
    "/absolute",
    "x" * 10_000,
    "Case.Weight",
    "case.weight",
    "CASE.WEIGHT",
    "zarr.json",
    "c",
    "step",
    "line\nbreak\r\ttab\x1b[31m",
    "größe.Ω.重み.🙂",
    "e\u0301",
    "\u00e9",
    "a/b/c",
    "quote'\";DROP TABLE windows;--",
    "%2E",
    ".hidden",
    " ",
    "~1",
]


def test_hostile_tensor_names_stay_inside_the_archive_and_come_back(tmp_path):
    states = walk(7, shapes=dict.fromkeys(NAMES, (3, 2)))
    (tmp_path / "inner").mkdir()
    write_safetensors(tmp_path / "inner/run", states)
    (report,) = ingest([tmp_path / "inner/run"], tmp_path / "inner/a.zarr", IngestOptions())
    assert (report.added, report.error) == (7, None)
    (computed,) = analyse(tmp_path / "inner", inference=False)
    assert computed.error is None
    assert {path.name for path in tmp_path.iterdir()} == {"inner"}
    assert {path.name for path in (tmp_path / "inner").iterdir()} == {"run", "a.zarr", "a.duckdb"}
    run = Archive(tmp_path / "inner/a.zarr").run("run")
    assert set(run.tensors) == set(NAMES)
    assert verify(tmp_path / "inner/a.zarr") == []
    restore(run, 30, tmp_path / "out.safetensors")
    for name in NAMES:
        assert torch.equal(torch.from_numpy(run.read(name, (0, 3), [3])[0]), states[3][name]), name
    assert {name for (name,) in rows(tmp_path / "inner", "SELECT tensor FROM tensors")} == set(NAMES)


@pytest.mark.parametrize("name", ["../../escape", "/etc/escape", "..", "", "a//b", "zarr.json", "Ünï/..", "x" * 300])
def test_hostile_run_names_stay_inside_the_archive(tmp_path, name):
    (tmp_path / "inner").mkdir()
    write_safetensors(tmp_path / "inner/run", walk(2))
    archive = tmp_path / "inner/a.zarr"
    (report,) = ingest([tmp_path / "inner/run"], archive, IngestOptions(run=name))
    assert report.error is None
    assert {path.name for path in tmp_path.iterdir()} == {"inner"}
    assert {path.name for path in (tmp_path / "inner").iterdir()} == {"run", "a.zarr"}
    assert Archive(archive).run_names == (name,)
    assert len(Archive(archive).run(name).commits) == 2
    assert verify(archive) == []


def test_run_folders_that_differ_in_case_alone_are_two_runs(tmp_path):
    write_safetensors(tmp_path / "runs/Seed", walk(2))
    write_safetensors(tmp_path / "runs/seed", walk(2, seed=1))
    ingest([tmp_path / "runs"], tmp_path / "a.zarr", IngestOptions())
    stored = [path.name.lower() for path in (tmp_path / "a.zarr").iterdir() if path.is_dir()]
    assert len(set(stored)) == 2


def test_metrics_with_hostile_names_stay_inside_the_archive(tmp_path):
    write_safetensors(tmp_path / "run", walk(2))
    names = ["../../escape", "zarr.json", "Loss", "loss\n", "x" * 5000]
    (tmp_path / "run/metrics.jsonl").write_text(json.dumps({"step": 1, **dict.fromkeys(names, 0.5)}) + "\n")
    assert take(tmp_path).error is None
    assert {path.name for path in tmp_path.iterdir()} == {"run", "a.zarr"}
    assert len(Archive(tmp_path / "a.zarr").run("run").metrics()) == len(names)
    assert verify(tmp_path / "a.zarr") == []


# Databases


def test_the_database_of_another_archive_is_refused_and_left_alone(tmp_path):
    for name in ("one", "two"):
        write_safetensors(tmp_path / name / "run", walk(3))
        ingest([tmp_path / name / "run"], tmp_path / name / "a.zarr", IngestOptions())
    compute(tmp_path / "one/a.zarr", tmp_path / "a.duckdb", ComputeOptions(spectra=False, inference=False))
    before = (tmp_path / "a.duckdb").read_bytes()
    with pytest.raises(DatabaseError, match=r"a\.duckdb.*--db"):
        compute(tmp_path / "two/a.zarr", tmp_path / "a.duckdb", ComputeOptions())
    assert (tmp_path / "a.duckdb").read_bytes() == before


def test_a_run_of_one_kind_beside_broken_ones_is_analysed(tmp_path):
    write_trainer(tmp_path / "runs/good", walk(7))
    write_safetensors(tmp_path / "runs/broken", walk(2))
    for path in (tmp_path / "runs/broken").iterdir():
        path.write_bytes(b"\x00" * 50)
    reports = {one.run: one for one in ingest([tmp_path / "runs"], tmp_path / "a.zarr", IngestOptions())}
    assert reports["good"].added == 7
    assert reports["broken"].added == 0
    (unreadable,) = errors_in(reports["broken"])
    assert unreadable.detail.startswith("at 2 steps, 0, 10: ")
    computed = analyse(tmp_path, inference=False)
    assert {one.run: one.error for one in computed} == {"good": None}
