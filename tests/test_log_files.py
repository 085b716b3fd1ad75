"""Where logs are looked for, in which order, and whose they are."""

import os

import pytest

from sedarchive.readers.discover import find_runs
from sedarchive.readers.logfiles import find_logs


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def logs(folder, others=()):
    found, findings = find_logs(folder, [], others)
    return [os.path.relpath(path, folder) for path in found], findings


EVENTS = "events.out.tfevents"


@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl", "log.jsonl", "metrics.csv", "trainer_state.json", "pilot_metrics.json", "metrics.json",
        "history.json", "train_log.jsonl", "log_history.json", "wandb_export_2024-05-01.csv", "history.csv",
        "train.log", "main.log", "log.txt", "train_output.txt", "slurm-123.out", "nohup.out", f"{EVENTS}.1.host.2.0",
        "logs/metrics.csv", "log/main.log", f"tb/20240501/{EVENTS}.1.host", f"runs/May01_host/{EVENTS}.1.host",
        f"lightning_logs/version_0/{EVENTS}.1.host", "lightning_logs/version_0/metrics.csv",
        "wandb/run-20240501_100000-abc/files/wandb-summary.json", "wandb/run-20240501_100000-abc/files/output.log",
        "wandb/offline-run-20240501_100000-abc/files/output.log", "mlruns/0/abc/metrics/val_loss",
        "mlruns/0/abc/metrics/val/loss",
    ],
)  # fmt: skip
def test_logs_are_found_beside_a_run(tmp_path, name):
    assert logs(touch(tmp_path, name)) == ([name], ())


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt", "a.out", "config.json", "all_results.json", "data.csv", "blog.txt", "other/metrics.jsonl",
        "wandb/run-1-a/logs/debug.log", "wandb/run-1-a/files/requirements.txt", "wandb/run-1-a/files/config.yaml",
        "mlruns/0/abc/params/lr", "mlruns/0/abc/meta.yaml", ".git/logs/main.log", "logs/.cache/a.log",
        "logs/1/2/3/4/5/6/7/a.log",
    ],
)  # fmt: skip
def test_other_files_are_no_logs(tmp_path, name):
    assert logs(touch(tmp_path, name)) == ([], ())


def test_newer_sessions_come_first_and_exact_numbers_before_rounded_ones(tmp_path):
    touch(
        tmp_path, "main.log", f"{EVENTS}.9.host", f"{EVENTS}.10.host", "pilot_metrics.json", "metrics.jsonl",
        "lightning_logs/version_9/metrics.csv", "lightning_logs/version_10/metrics.csv", "logs/a.log",
        f"runs/b/{EVENTS}.8.host", f"runs/a/{EVENTS}.11.host",
    )  # fmt: skip
    found, _ = logs(tmp_path)
    assert found == [
        "metrics.jsonl", "pilot_metrics.json", f"{EVENTS}.10.host", f"{EVENTS}.9.host", "main.log",
        "lightning_logs/version_10/metrics.csv", "lightning_logs/version_9/metrics.csv",
        f"runs/a/{EVENTS}.11.host", f"runs/b/{EVENTS}.8.host", "logs/a.log",
    ]  # fmt: skip


def test_logs_of_a_run_inside_are_that_run_s(tmp_path):
    root = touch(
        tmp_path / "all",
        "step_1.pt",
        "main.log",
        "runs/a/step_1.pt",
        f"runs/a/{EVENTS}.1.h",
        f"runs/notes/{EVENTS}.2.h",
    )
    found = {run.name: [path.relative_to(root).as_posix() for path in run.logs] for run in find_runs(root)}
    assert found == {"all": ["main.log", f"runs/notes/{EVENTS}.2.h"], "runs/a": [f"runs/a/{EVENTS}.1.h"]}


def test_each_log_belongs_to_one_run(tmp_path):
    touch(tmp_path, "a/step_1.pt", "a/main.log", "b/step_1.pt", "b/logs/main.log", "b/c/step_2.pt", "b/c/main.log")
    runs = find_runs(tmp_path)
    taken = [path for run in runs for path in run.logs]
    assert len(runs) == len(taken) == len(set(taken)) == 3


def test_a_folder_for_checkpoints_alone_has_its_logs_beside_it(tmp_path):
    touch(tmp_path, "checkpoint/step-1/model.safetensors", f"tb/x/{EVENTS}.1.h", "train.log")
    (run,) = find_runs(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in run.logs] == ["train.log", f"tb/x/{EVENTS}.1.h"]


def test_a_log_beside_two_folders_of_checkpoints_is_nobody_s(tmp_path):
    touch(tmp_path, "checkpoint/step_1.pt", "ckpts/step_1.pt", "train.log")
    assert [run.logs for run in find_runs(tmp_path)] == [(), ()]


def test_links_out_of_the_run_are_not_followed(tmp_path):
    touch(tmp_path, "secret/metrics.jsonl", "secret/a.log", "run/logs/real.log", "run/step_1.pt")
    run = tmp_path / "run"
    (run / "metrics.jsonl").symlink_to(tmp_path / "secret" / "metrics.jsonl")
    (run / "wandb").symlink_to(tmp_path / "secret")
    (run / "logs" / "out.log").symlink_to(tmp_path / "secret" / "a.log")
    (run / "logs" / "up").symlink_to(tmp_path / "secret")
    (run / "latest.log").symlink_to(run / "logs" / "real.log")
    found, (finding,) = logs(run)
    assert sorted(found) == ["latest.log", "logs/real.log"]
    assert (finding.check_name, finding.severity) == ("log_link", "info")
    assert finding.detail.startswith("metrics.jsonl")


def test_a_pipe_is_no_log(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    os.mkfifo(tmp_path / "a.log")
    assert logs(tmp_path) == ([], ())


def test_too_many_files_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sedarchive.readers.logfiles._ENTRY_LIMIT", 10)
    touch(tmp_path, *(f"logs/a{at:02}.log" for at in range(30)))
    found, (finding,) = logs(tmp_path)
    assert len(found) < 10
    assert (finding.check_name, finding.severity) == ("many_files", "warning")
