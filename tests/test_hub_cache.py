"""The cache of the Hugging Face hub: revisions as steps, links into blobs, and what is refused."""

import hashlib
import os

import pytest
import torch
from huggingface_hub import scan_cache_dir
from safetensors.torch import save
from small import data_of, run_here

from sedarchive.errors import NoCheckpointsError
from sedarchive.readers import find_runs, open_checkpoint

torch.set_num_threads(1)


def commit_of(label):
    return hashlib.sha1(label.encode()).hexdigest()


def add_revision(repository, label, content, commit=None):
    """Revision as the hub's client leaves it: a ref, a snapshot of relative links, blobs by digest."""
    commit = commit or commit_of(label)
    ref, snapshot = repository / "refs" / label, repository / "snapshots" / commit
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for name, data in content.items():
        blob = repository / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).unlink(missing_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def weights(value):
    return {
        "model.safetensors": save({"w": torch.full((3, 2), float(value))}),
        "config.json": b'{"model_type": "gpt2"}',
    }


def repository_of(cache, labels, name="models--Org--name"):
    for at, label in enumerate(labels):
        add_revision(cache / name, label, weights(at))
    return cache / name


def steps(run):
    return [checkpoint.step for checkpoint in run.checkpoints]


def checks(run):
    return {finding.check_name: finding for finding in run.findings}


def test_revisions_with_steps_are_the_checkpoints(tmp_path):
    repository = repository_of(tmp_path, ["step0", "step1", "step512", "step1000", "main"])
    assert not scan_cache_dir(tmp_path).warnings  # the library takes it for one of its caches
    (run,) = find_runs(tmp_path)
    assert (run.name, run.folder, steps(run)) == ("models--Org--name", repository, [0, 1, 512, 1000])
    assert [checkpoint.label for checkpoint in run.checkpoints] == ["step0", "step1", "step512", "step1000"]
    assert (run.config["model_type"], list(checks(run))) == ("gpt2", ["no_step"])
    with open_checkpoint(run.checkpoints[2]) as reader:
        assert reader.read_rows("w", 0, 3).tolist() == [[2, 2]] * 3
    assert steps(find_runs(repository)[0]) == [0, 1, 512, 1000]


@pytest.mark.parametrize(
    ("label", "step", "tokens"),
    [
        ("step1000-tokens4B", 1000, 4 * 10**9),
        ("stage1-step101000-tokens424B", 101000, 424 * 10**9),
        ("step20-tokens1.5T", 20, 15 * 10**11),
        ("step7-tokens300", 7, 300),
        ("checkpoint-500", 500, None),
        ("step1000-tokens4Bx", 1000, None),
    ],
)
def test_the_tokens_of_a_label_are_read(tmp_path, label, step, tokens):
    (run,) = find_runs(repository_of(tmp_path, [label]))
    assert [(checkpoint.step, checkpoint.tokens) for checkpoint in run.checkpoints] == [(step, tokens)]


def test_tokens_reach_the_table(tmp_path):
    repository_of(tmp_path / "hub", ["step10-tokens1M", "step20-tokens2M"])
    archive, database = tmp_path / "a.zarr", tmp_path / "a.duckdb"
    run_here("ingest", tmp_path / "hub", "--archive", archive)
    run_here("compute", "--archive", archive, "--db", database, "--no-spectra")
    sql = "select step, tokens from checkpoints order by step"
    rows = data_of(run_here("query", sql, "--db", database, "--json"))
    assert [tuple(row.values()) for row in rows] == [(10, 10**6), (20, 2 * 10**6)]


def test_two_revisions_of_one_commit_are_both_there_and_named(tmp_path):
    repository = repository_of(tmp_path, ["step1", "step2"])
    (repository / "refs" / "step3").write_text(commit_of("step2"))
    (run,) = find_runs(repository)
    assert steps(run) == [1, 2, 3]
    finding = checks(run)["same_snapshot"]
    assert (finding.severity, finding.step) == ("warning", 3)
    assert "step2" in finding.detail


def test_labels_that_count_checkpoints_are_named_until_a_map_tells_their_steps(tmp_path):
    repository = repository_of(tmp_path / "hub", ["ckpt_000", "ckpt_100"])
    (run,) = find_runs(repository)
    assert steps(run) == [0, 100]
    assert "--steps-map" in checks(run)["index_as_step"].detail
    (tmp_path / "map.csv").write_text("label,step,tokens\nckpt_000,500,1000\nckpt_100,50500,101000\n")
    archive = tmp_path / "a.zarr"
    (report,) = data_of(
        run_here("ingest", repository, "--steps-map", tmp_path / "map.csv", "--archive", archive, "--json")
    )
    assert (report["added"], [one["check_name"] for one in report["findings"]]) == (2, ["no_val_loss"])
    run_here("restore", report["run"], "--archive", archive, "--step", "50500", "--to", tmp_path / "out")


def test_stages_that_count_anew_are_named_with_the_way_out(tmp_path):
    repository = repository_of(tmp_path, ["stage1-step10-tokens1B", "stage1-step20-tokens2B", "stage2-step10-tokens3B"])
    (run,) = find_runs(repository)
    assert steps(run) == [10, 20]
    assert {"several_stages", "doubled_step"} <= set(checks(run))
    assert "--include '*stage1-*'" in checks(run)["several_stages"].detail


def test_only_main_is_one_checkpoint_where_nothing_else_is(tmp_path):
    repository = repository_of(tmp_path, ["main"])
    (run,) = find_runs(repository)
    assert (steps(run), list(checks(run))) == ([0], ["no_step"])
    with pytest.raises(NoCheckpointsError, match="revision main: no step"):
        find_runs(tmp_path)


def test_a_link_that_leaves_the_model_s_folder_is_refused_and_the_rest_is_read(tmp_path):
    repository = repository_of(tmp_path / "hub", ["step1", "step2", "step3"])
    (tmp_path / "secret").write_bytes(weights(9)["model.safetensors"])
    stolen = repository / "snapshots" / commit_of("step2") / "model.safetensors"
    stolen.unlink()
    stolen.symlink_to(tmp_path / "secret")
    (run,) = find_runs(repository)
    assert steps(run) == [1, 3]
    finding = checks(run)["link_outside"]
    assert finding.severity == "error"
    assert "step2" in finding.detail


def test_a_blob_that_leads_outside_by_a_second_link_is_refused_but_the_shared_store_is_allowed(tmp_path):
    repository = repository_of(tmp_path / "hub", ["step1", "step2"])
    for label, target in (("step1", tmp_path / "secret"), ("step2", tmp_path / "hub" / "blobs" / "ab" / ("ab" * 32))):
        blob = (repository / "snapshots" / commit_of(label) / "model.safetensors").resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        blob.rename(target)
        blob.symlink_to(target)
    (run,) = find_runs(repository)
    assert steps(run) == [2]
    assert "link_outside" in checks(run)


@pytest.mark.parametrize("place", ["hub/models--Org--other/blobs", "other/models--Org--name/blobs", "other/blobs/ab"])
def test_a_snapshot_may_not_link_to_the_blobs_of_another_model_or_of_another_cache(tmp_path, place):
    repository = repository_of(tmp_path / "hub", ["step1", "step2"])
    stolen = repository / "snapshots" / commit_of("step1") / "model.safetensors"
    target = tmp_path / place / ("ab" * 32)
    target.parent.mkdir(parents=True)
    stolen.resolve().rename(target)
    stolen.unlink()
    stolen.symlink_to(target)
    (run,) = find_runs(repository)
    assert steps(run) == [2]
    assert "link_outside" in checks(run)


def test_a_file_that_is_no_snapshot_may_not_link_into_a_cache(tmp_path):
    repository = repository_of(tmp_path / "hub", ["step1"])
    blob = (repository / "snapshots" / commit_of("step1") / "model.safetensors").resolve()
    (tmp_path / "runs/run").mkdir(parents=True)
    (tmp_path / "runs/run/step_1.safetensors").symlink_to(blob)
    (tmp_path / "runs/run/step_2.safetensors").write_bytes(blob.read_bytes())
    (report,) = data_of(run_here("ingest", tmp_path / "runs", "--archive", tmp_path / "a.zarr", "--json"))
    assert report["added"] == 1
    (found,) = (one for one in report["findings"] if one["check_name"] == "unreadable_checkpoint")
    assert "it is a link that leaves the folder searched" in found["detail"]


def test_a_snapshot_alone_is_read_with_its_config_by_way_of_its_links(tmp_path):
    repository = repository_of(tmp_path / "hub", ["step1"])
    (run,) = find_runs(repository / "snapshots" / commit_of("step1"))
    assert run.config == {"model_type": "gpt2"}
    assert [run.checkpoints[0].step, run.findings[0].check_name] == [0, "no_step"]


@pytest.mark.parametrize("content", [b"", b"../../../etc", b"/etc", b"\xff" * 40, b"A" * 40, b"a" * 100])
def test_a_ref_that_names_no_commit_is_a_finding(tmp_path, content):
    repository = repository_of(tmp_path, ["step1"])
    (repository / "refs" / "step2").write_bytes(content)
    (run,) = find_runs(repository)
    assert (steps(run), checks(run)["hub_revision"].severity) == ([1], "warning")


def test_a_revision_that_was_not_downloaded_or_has_no_name_is_told(tmp_path):
    repository = repository_of(tmp_path, ["step1"])
    (repository / "refs" / "step2").write_text("b" * 40)
    (repository / "snapshots" / ("c" * 40)).mkdir()
    (run,) = find_runs(repository)
    assert steps(run) == [1]
    assert "not in the cache" in checks(run)["hub_revision"].detail
    assert "c" * 40 in checks(run)["no_step"].detail


def test_a_blob_that_is_gone_makes_its_checkpoint_unreadable_and_no_other(tmp_path):
    repository = repository_of(tmp_path / "hub", ["step1", "step2"])
    (repository / "snapshots" / commit_of("step1") / "model.safetensors").resolve().unlink()
    (report,) = data_of(run_here("ingest", repository, "--archive", tmp_path / "a.zarr", "--json"))
    assert report["added"] == 1
    assert [finding["check_name"] for finding in report["findings"]] == ["unreadable_checkpoint", "no_val_loss"]
