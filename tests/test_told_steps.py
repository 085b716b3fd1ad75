"""Steps that checkpoints tell themselves, beside those of their names."""

import json

import pytest
import torch
from small import run_here, walk

from sedarchive.archive import Archive
from sedarchive.history import CheckpointSource
from sedarchive.readers import find_runs
from sedarchive.readers.toldsteps import ToldStep, steps_told, told_findings, told_step

torch.set_num_threads(1)


def saved(path, state, **beside):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state, **beside}, path)
    return path


def history(folder, told, key="iter_num"):
    for (step, value), state in zip(told.items(), walk(len(told)), strict=True):
        saved(folder / f"ckpt_{step}.pt", state, **{key: value})
    return folder


def found_by(report, name="step_disagrees"):
    return [finding for finding in report.findings if finding.check_name == name]


@pytest.mark.parametrize("key", ["iter_num", "global_step", "iteration", "step"])
def test_a_checkpoint_under_the_name_of_another_step_is_a_warning(analysis, tmp_path, key):
    history(tmp_path / "run", {100: 100, 200: 900, 300: 300}, key)
    (report,) = analysis.ingest(tmp_path / "run")
    (found,) = found_by(report)
    assert (found.severity, found.step) == ("warning", 200)
    assert found.detail.startswith(f"ckpt_200.pt says {key} 900; ")
    assert "--steps-map" in found.detail
    assert Archive(analysis.archive).run("run").steps == (100, 200, 300)


def test_a_plan_tells_what_ingest_tells(analysis, tmp_path):
    history(tmp_path / "run", {100: 100, 200: 900, 300: 300})
    plan = json.loads(run_here("ingest", tmp_path / "run", "--dry-run", "--json", "--archive", tmp_path / "b").stdout)
    (report,) = analysis.ingest(tmp_path / "run")
    planned = [one["detail"] for one in plan["runs"][0]["findings"] if one["check_name"] == "step_disagrees"]
    assert planned == [found.detail for found in found_by(report)]


def test_names_that_count_something_else_are_one_warning_and_a_map_settles_it(analysis, tmp_path):
    history(tmp_path / "run", {at: 500 * at for at in range(1, 11)})
    (report,) = analysis.ingest(tmp_path / "run")
    (found,) = found_by(report)
    assert found.detail.startswith("10 of 10 checkpoints say")
    assert "ckpt_3.pt says iter_num 1500, and others" in found.detail
    (tmp_path / "map.csv").write_text("label,step\n" + "".join(f"ckpt_{at}.pt,{500 * at}\n" for at in range(1, 11)))
    said = run_here(
        *("ingest", tmp_path / "run", "--run", "mapped", "--steps-map", tmp_path / "map.csv"),
        *("--archive", analysis.archive),
    ).stderr
    assert "step_disagrees" not in said
    assert Archive(analysis.archive).run("mapped").steps == tuple(range(500, 5001, 500))


def test_a_warning_stands_until_its_own_file_is_replaced(analysis, tmp_path):
    run = history(tmp_path / "run", {100: 100, 200: 900, 300: 700})
    analysis.ingest(tmp_path / "run")

    def standing():
        return [one.step for one in Archive(analysis.archive).run("run").findings if one.check_name == "step_disagrees"]

    assert standing() == [200, 300]
    saved(run / "ckpt_200.pt", walk(1, seed=7)[0], iter_num=200)
    where = ("--archive", analysis.archive)
    run_here("ingest", run, "--replace", 200, *where)
    assert standing() == [300]
    run_here("ingest", run, *where)
    assert standing() == [300]


def test_counting_from_one_and_counting_epochs_is_no_disagreement(tmp_path):
    near = [ToldStep(step, f"ckpt_{step}.pt", {"iter_num": step + off}) for step, off in ((0, 1), (10, -1), (20, 0))]
    assert told_findings(near) == []
    assert told_findings([ToldStep(20, "a", {"iter_num": 3, "step": 20})]) == []
    assert told_findings([ToldStep(20, "a", {})]) == []
    epoch = CheckpointSource(3, "epoch=3.ckpt", tmp_path / "epoch=3.ckpt")
    assert told_step(epoch, {"global_step": 1200}).told == {}


@pytest.mark.parametrize("value", [True, -1, 0.5, float("nan"), float("inf"), 10**18, "7", None, [7], {"a": 1}])
def test_values_that_are_no_steps_say_nothing(value):
    assert steps_told({"iter_num": value, "global_step": 7.0}) == {"global_step": 7}


def test_the_one_file_that_a_trainer_overwrites_has_the_step_that_it_tells(analysis, tmp_path):
    first, second = walk(2)
    path = saved(tmp_path / "out" / "ckpt.pt", first, iter_num=250)
    (source,) = find_runs(tmp_path / "out")
    assert [checkpoint.step for checkpoint in source.checkpoints] == [250]
    assert [found.detail for found in source.findings] == ["out: no step in the name; taken as step 250, its iter_num"]
    analysis.ingest(tmp_path / "out")
    saved(path, second, iter_num=500)
    analysis.ingest(tmp_path / "out")
    assert Archive(analysis.archive).run("out").steps == (250, 500)  # the file grew into a history


def test_a_single_file_that_tells_nothing_or_cannot_be_read_is_step_0(tmp_path):
    saved(tmp_path / "a" / "weights.pt", walk(1)[0])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "weights.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for name in "ab":
        (source,) = find_runs(tmp_path / name)
        assert [checkpoint.step for checkpoint in source.checkpoints] == [0]
        assert "taken as step 0" in source.findings[0].detail
