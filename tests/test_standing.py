"""Findings of ingest stand as long as they hold: what is repaired, replaced or gone is not told for ever."""

import json
import math

import pytest
import torch
from conftest import Analysis
from small import data_of, run_here, walk, write_log, write_safetensors, write_torch

from sedarchive.archive import Archive
from sedarchive.archive.records import read_sealed, write_sealed
from sedarchive.archive.verify import verify
from sedarchive.audit import Look, merged, standing
from sedarchive.history import Finding


@pytest.fixture
def places(tmp_path):
    """Options of the commands for one archive."""
    return ("--archive", tmp_path / "a.zarr", "--db", tmp_path / "a.duckdb")


def told(places, run=None):
    """Checks of severity warning and above that ``audit`` tells, of one run."""
    audits = data_of(run_here("audit", "--json", *places))
    (audit,) = [one for one in audits if run in (None, one["run"])]
    return {one["check_name"]: one for one in audit["findings"] if one["severity"] != "info"}


def logged_run(folder, n=6, **walking):
    """A walk with a log of validation losses."""
    paths = write_safetensors(folder, walk(n, **walking))
    lines = [f'{{"step": {10 * at}, "val_loss": {2 - at / 100}}}' for at in range(n)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return paths


def take(path, places, *more, code=0):
    return run_here("ingest", path, *more, *places[:2], code=code)


def value_of(archive, step, tensor="h.0.ln_1.bias"):
    run = Archive(archive).run("run")
    return run.read(tensor, (0, 6), [run.steps.index(step)])[0]


# What is repaired


def test_a_repaired_checkpoint_is_no_finding_any_more(tmp_path, places):
    paths = logged_run(tmp_path / "run")
    whole = paths[3].read_bytes()
    paths[3].write_bytes(whole[:200])
    take(tmp_path / "run", places)
    assert list(told(places)) == ["unreadable_checkpoint"]
    run_here("audit", "--strict", *places, code=3)
    paths[3].write_bytes(whole)
    take(tmp_path / "run", places)
    run_here("audit", "--strict", *places)


def test_an_unreadable_file_that_is_gone_is_no_finding_but_one_that_was_not_looked_at_is(tmp_path, places):
    paths = logged_run(tmp_path / "run")
    paths[3].write_bytes(b"nothing")
    take(tmp_path / "run", places)
    take(tmp_path / "run", places, "--exclude", "step_30*")
    take(paths[4], places)
    assert list(told(places)) == ["unreadable_checkpoint"]
    paths[3].unlink()
    take(tmp_path / "run", places)
    assert told(places) == {}


def test_a_mistyped_key_is_one_finding_and_gone_once_the_key_is_right(tmp_path, places):
    states = [{"model": state, "ema": state} for state in walk(6)]
    write_torch(tmp_path / "run", states)
    write_log(tmp_path / "run", range(0, 60, 10))
    take(tmp_path / "run", places, "--key", "emma", code=1)
    wrong = told(places)["unreadable_checkpoint"]
    assert wrong["step"] == 0
    assert wrong["detail"].startswith("at 6 steps, 0, 10 ... 50: ")
    take(tmp_path / "run", places, "--key", "ema")
    assert set(told(places)) <= {"no_val_loss"}


def test_findings_of_logs_are_those_of_the_last_ingest(tmp_path, places):
    logged_run(tmp_path / "run")
    bad = tmp_path / "run" / "config.json"
    bad.write_text("{")
    take(tmp_path / "run", places)
    assert list(told(places)) == ["config"]
    bad.write_text("{}")
    take(tmp_path / "run", places)
    assert told(places) == {}


# A changed source


def changed_run(tmp_path, places):
    """A run archived with a NaN at step 30, fetched again since."""
    states = walk(6)
    paths = logged_run(tmp_path / "run")
    good = paths[3].read_bytes()
    states[3]["h.0.ln_1.bias"][2] = float("nan")
    write_safetensors(tmp_path / "run", states)
    take(tmp_path / "run", places)
    paths[3].write_bytes(good)
    return paths


def test_a_source_that_was_fetched_again_is_refused_by_name_until_the_user_names_its_step(tmp_path, places):
    changed_run(tmp_path, places)
    refused = take(tmp_path / "run", places, code=1)
    assert "--replace 30" in refused.stderr
    assert "changed_source" in told(places)
    assert torch.isnan(torch.tensor(value_of(tmp_path / "a.zarr", 30))).sum() == 1
    plan = take(tmp_path / "run", places, "--replace", "30", "--dry-run", "--json").stdout
    assert json.loads(plan)["new_checkpoints"] == 1
    done = take(tmp_path / "run", places, "--replace", "30")
    assert "1 checkpoint added" in done.stderr
    assert "1 of them in place of archived ones" in done.stderr
    assert value_of(tmp_path / "a.zarr", 30).ravel().tolist() == walk(6)[3]["h.0.ln_1.bias"].tolist()
    assert told(places) == {}
    again = take(tmp_path / "run", places)
    assert "0 checkpoints added" in again.stderr
    assert "6 already archived" in again.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_values_that_are_not_finite_are_told_by_ingest_and_by_audit_before_anything_is_computed(
    tmp_path, places, dtype
):
    states = walk(4)
    states[2]["wte.weight"][3, :2] = float("inf")
    states[3]["wte.weight"][5, 1] = float("nan")
    write_safetensors(tmp_path / "run", [{name: v.to(dtype) for name, v in state.items()} for state in states])
    assert "error: nonfinite (step 20, wte.weight): 2 of 66 values" in take(tmp_path / "run", places).stderr
    found = told(places)["nonfinite"]
    assert (found["severity"], found["step"], found["tensor"]) == ("error", 20, "wte.weight")
    assert "step 20 and 1 later ones" in found["detail"]


def test_a_mask_that_never_changes_may_be_infinite(tmp_path, places):
    states = [{**state, "h.0.attn.mask": torch.full((4, 4), -math.inf).triu(1)} for state in walk(4)]
    write_safetensors(tmp_path / "run", states)
    take(tmp_path / "run", places)
    assert "nonfinite" not in told(places)
    assert "nonfinite_constant" in run_here("audit", *places).stdout


def test_a_constant_parameter_that_is_not_finite_is_an_error_once_it_is_known_to_be_one(analysis, tmp_path):
    states = walk(6)
    for state in states:
        state["h.0.ln_1.weight"][0] = math.nan
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    analysis.compute(spectra=False, inference=False)
    sql = "SELECT severity, tensor FROM audit WHERE check_name = 'nonfinite'"
    assert analysis.rows(sql) == [("error", "h.0.ln_1.weight")]


def test_an_archive_without_counts_is_told_by_what_compute_counts(analysis, tmp_path):
    states = walk(6)
    states[2]["wte.weight"][3, 0] = math.nan
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    for path in (analysis.archive / "run/commits").glob("*.json"):
        record = read_sealed(path)
        write_sealed(
            path, {name: value for name, value in record.items() if name not in ("nonfinite", "record_digest")}
        )
    assert Archive(analysis.archive).run("run").commits[2].nonfinite is None
    (computed,) = analysis.compute(spectra=False, inference=False)
    (found,) = [one for one in computed.findings if one.check_name == "nonfinite"]
    assert (found.step, found.tensor) == (20, "wte.weight")


def test_a_replaced_checkpoint_counts_once_and_every_byte_stays_verified(tmp_path, places):
    changed_run(tmp_path, places)
    take(tmp_path / "run", places, "--replace", "30")
    run = Archive(tmp_path / "a.zarr").run("run")
    assert run.steps == (0, 10, 20, 30, 40, 50)
    assert [commit.step for commit in run.records] == [0, 10, 20, 30, 40, 50, 30]
    assert verify(tmp_path / "a.zarr") == []
    take(tmp_path / "run", places)  # the next slot is free, though a step has two
    write_safetensors(tmp_path / "run", walk(8))
    take(tmp_path / "run", places)
    assert Archive(tmp_path / "a.zarr").run("run").steps == tuple(range(0, 80, 10))
    assert verify(tmp_path / "a.zarr") == []


def test_tables_follow_a_replaced_checkpoint(tmp_path, places):
    changed_run(tmp_path, places)
    made = Analysis(tmp_path / "a.zarr", tmp_path / "a.duckdb")
    sql = "SELECT DISTINCT status FROM windows WHERE scope = 'all' AND window_size = 5"
    made.compute(spectra=False, inference=False)
    assert made.rows(sql) == [("nonfinite",)]
    take(tmp_path / "run", places, "--replace", "30")
    made.compute(spectra=False, inference=False)
    assert made.rows(sql) == [("ok",)]
    assert made.rows("SELECT count(*) FROM checkpoints") == [(6,)]


def test_a_file_that_cannot_be_read_replaces_nothing(tmp_path, places):
    paths = changed_run(tmp_path, places)
    paths[3].write_bytes(b"nothing")
    take(tmp_path / "run", places, "--replace", "30")
    assert told(places)["unreadable_checkpoint"]["step"] == 30
    assert torch.isnan(torch.tensor(value_of(tmp_path / "a.zarr", 30))).sum() == 1


def test_replacing_what_is_not_there_or_in_many_runs_is_refused(tmp_path, places):
    for name in ("one", "two"):
        write_safetensors(tmp_path / "runs" / name, walk(2, seed=len(name)))
    assert "no checkpoint of step 7" in take(tmp_path / "runs/one", places, "--replace", "7", code=1).stderr
    assert "2 runs are found" in take(tmp_path / "runs", places, "--replace", "10", code=1).stderr


def test_another_run_is_not_taken_in_by_replacing_all_its_steps(tmp_path, places):
    for name, seed in (("one", 0), ("two", 5)):
        write_safetensors(tmp_path / name / "run", walk(2, seed=seed))
    take(tmp_path / "one/run", places)
    named = ("--replace", "0", "--replace", "10")
    assert "--run" in take(tmp_path / "two/run", places, *named, code=1).stderr


# What stands


def test_a_doubled_step_is_told_until_its_file_is_called_the_right_one(tmp_path, places):
    paths = logged_run(tmp_path / "run")
    twin = paths[3].with_name("checkpoint_step_30.safetensors")
    twin.write_bytes(paths[3].read_bytes())
    take(tmp_path / "run", places)
    twin.unlink()
    take(tmp_path / "run", places)
    assert list(told(places)) == ["doubled_step"]  # the archive may hold the wrong one of the two
    take(tmp_path / "run", places, "--replace", "30")
    assert told(places) == {}


def test_a_file_without_a_step_that_was_archived_on_its_own_is_no_more_told_as_passed_over(tmp_path, places):
    paths = logged_run(tmp_path / "run")
    final = paths[0].rename(tmp_path / "run/final.safetensors")
    (tmp_path / "run/best.safetensors").write_bytes(paths[2].read_bytes())

    def passed_over():
        found = Archive(tmp_path / "a.zarr").run("run").findings
        return sorted(one.detail.replace(": no step in the name;", "") for one in found if one.check_name == "no_step")

    take(tmp_path / "run", places)
    assert passed_over() == ["best.safetensors passed over", "final.safetensors passed over"]
    take(final, places, "--run", "run")
    taken = ["best.safetensors passed over", "final.safetensors taken as step 0"]
    assert passed_over() == taken
    take(final, places, "--run", "run")
    take(tmp_path / "run", places)  # it is passed over again, and is in the archive as before
    assert passed_over() == taken


LOOK = Look(found={10, 20}, opened={20})


@pytest.mark.parametrize(
    ("finding", "look", "stands"),
    [
        (Finding("unreadable_checkpoint", "error", "", step=20), LOOK, False),
        (Finding("unreadable_checkpoint", "error", "", step=30), LOOK, False),
        (Finding("unreadable_checkpoint", "error", "", step=30), Look({10}, (), whole=False), True),
        (Finding("unreadable_checkpoint", "error", "", step=30), Look({10}, (), same_folder=False), True),
        (Finding("unreadable_checkpoint", "error", "", step=40), Look({10}, (), same_folder=False), False),
        (Finding("changed_source", "error", "", step=40), Look({10}, (), same_folder=False), True),
        (Finding("dropped_entry", "warning", "", step=10), LOOK, True),
        (Finding("dropped_entry", "warning", "", step=20), LOOK, False),
        (Finding("doubled_step", "warning", "", step=10), Look({10}, (), named=(10,)), False),
        (Finding("unreadable_log", "warning", ""), LOOK, False),
        (Finding("unreadable_log", "warning", ""), Look({10}, (), same_folder=False), True),
        (Finding("unreadable_log", "warning", ""), Look({10}, (), whole=False), False),
        (Finding("not_supported", "warning", ""), Look({10}, (), whole=False), True),
        (Finding("not_supported", "warning", ""), LOOK, False),
        (Finding("settings_disagree", "info", ""), Look({10}, ()), True),
        (Finding("settings_disagree", "info", ""), LOOK, False),
    ],
)
def test_what_was_looked_at_again_does_not_stand(finding, look, stands):
    assert standing([finding], look, archived={40}) == ([finding] if stands else [])


# One finding for many steps


def test_the_same_words_of_many_steps_are_one_finding():
    words = "/runs/step_{:04}.pt: the header of step {} holds 7 bytes"
    many = [
        Finding("dropped_entry", "warning", words.format(step, step), step=step) for step in (2000, 1000, 4000, 3000)
    ]
    other = Finding("dropped_entry", "warning", words.format(1000, 1000).replace("7", "8"), step=1000)
    alone = Finding("no_step", "info", "a: no step"), Finding("no_step", "info", "b: no step")
    told_once = merged([*many, other, *alone])
    assert [(one.step, one.detail) for one in told_once[:2]] == [
        (1000, f"at 4 steps, 1000, 2000 ... 4000: {words.format(1000, 1000)}"),
        (1000, other.detail),
    ]
    assert told_once[2:] == list(alone)


def test_a_size_that_is_the_number_of_a_step_keeps_nothing_apart():
    words = "/runs/step_{}.pt: its header is of 0 bytes, the file of 10"
    found = [Finding("unreadable_checkpoint", "error", words.format(step), step=step) for step in (0, 10, 20)]
    assert len(merged(found)) == 1


def test_different_things_of_one_step_stay_apart():
    words = "/runs/step_{}/model-{}.safetensors: torn"
    found = [
        Finding("unreadable_checkpoint", "error", words.format(step, shard), step=step)
        for step in (10, 20)
        for shard in (1, 2)
    ]
    assert merged(found) == found


def test_hashes_in_paths_keep_nothing_apart_but_tensors_and_words_do():
    paths = [f"snapshots/{name}/model.bin: torn" for name in ("0a1b2c3d4e", "9f8e7d6c5b")]
    found = [Finding("unreadable_checkpoint", "error", path, step=at) for at, path in enumerate(paths)]
    assert len(merged(found)) == 1
    named = [Finding("dropped_entry", "warning", "torn", step=at, tensor=name) for at, name in enumerate("ab")]
    assert len(merged(named)) == 2
