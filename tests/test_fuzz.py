"""Thousands of damaged headers, pickles, indexes, configs and logs: a result or an error of ours, and nothing else."""

import json
import os
from pathlib import Path

import pytest
import torch
from fuzz import Target, attack
from safetensors.torch import save_file

from sedarchive.errors import SedarchiveError
from sedarchive.history import CheckpointSource
from sedarchive.logs import read_metrics
from sedarchive.readers import fingerprint, open_checkpoint
from sedarchive.readers.discover import find_runs

torch.set_num_threads(1)
STATE = {"h.0.w": torch.arange(12.0).reshape(3, 4), "h.0.b": torch.ones(5, dtype=torch.bfloat16)}
NESTED = {"model": STATE, "optimizer": {"state": {0: torch.ones(3)}}, "iter_num": 7, "config": {"n_head": 2}}
ROWS = [{"step": step, "loss": 1.5 / step, "val_loss": 2.0, "lr": 1e-3} for step in range(1, 40)]
REDUCED, FULL = 2_000, 100_000


def read_checkpoint(path: Path) -> None:
    """Open a checkpoint and read every row that it says it has, as ingest does."""
    with open_checkpoint(CheckpointSource(0, path.name, path)) as reader:
        for name, spec in reader.specs.items():
            reader.read_rows(name, 0, min(spec.rows, 100))
    fingerprint(path)


def write_safetensors(folder: Path) -> Path:
    save_file(STATE, folder / "a.safetensors")
    return folder / "a.safetensors"


def write_zip(folder: Path) -> Path:
    torch.save(NESTED, folder / "a.pt")
    return folder / "a.pt"


def write_legacy(folder: Path) -> Path:
    torch.save(NESTED, folder / "a.pt", _use_new_zipfile_serialization=False)
    return folder / "a.pt"


def write_index(folder: Path) -> Path:
    for at, (name, value) in enumerate(STATE.items()):
        save_file({name: value}, folder / f"model-{at}.safetensors")
    shards = {name: f"model-{at}.safetensors" for at, name in enumerate(STATE)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 58}, "weight_map": shards}))
    return index


def write_config(folder: Path) -> Path:
    place = folder / "checkpoint-5"
    place.mkdir()
    save_file(STATE, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_head": 2, "n_layer": 1}))
    return place / "config.json"


def log_writer(name: str, text: str):
    def write(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return write


def read_logs(folder: Path) -> None:
    read_metrics(sorted(folder.iterdir()), folder)


def csv_text() -> str:
    names = list(ROWS[0])
    return "\n".join([",".join(names), *(",".join(str(row[name]) for name in names) for row in ROWS)]) + "\n"


TARGETS = [
    Target("safetensors header", write_safetensors, lambda folder: read_checkpoint(folder / "a.safetensors")),
    Target("torch zip", write_zip, lambda folder: read_checkpoint(folder / "a.pt")),
    Target("torch legacy", write_legacy, lambda folder: read_checkpoint(folder / "a.pt")),
    Target("index of shards", write_index, read_checkpoint),
    Target("config", write_config, find_runs),
    Target("JSON lines", log_writer("metrics.jsonl", "\n".join(map(json.dumps, ROWS))), read_logs),
    Target("CSV", log_writer("metrics.csv", csv_text()), read_logs),
    Target("trainer state", log_writer("trainer_state.json", json.dumps({"log_history": ROWS})), read_logs),
]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """A damaged pickle that names a function must not get it called."""

    def called(*arguments):
        raise AssertionError(f"something was executed: {arguments}")

    for name in ("system", "popen", "execv", "posix_spawn"):
        monkeypatch.setattr(os, name, called)


def attack_all(target, folder, cases):
    outcome = attack(target, folder, range(cases), SedarchiveError)
    assert outcome.cases == cases
    print(f"{target.name}: {outcome}")
    return outcome


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_damaged_file_gives_a_result_or_an_error_of_ours(target, tmp_path):
    attack_all(target, tmp_path, REDUCED // len(TARGETS))


@pytest.mark.campaign
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_many_damaged_files_give_results_or_errors_of_ours(target, tmp_path):
    attack_all(target, tmp_path, FULL // len(TARGETS))


def test_mutations_damage_what_is_checked(tmp_path):
    """Else the counts above would say nothing: most damaged headers must be refused."""
    target = TARGETS[0]
    assert attack_all(target, tmp_path, 200).refused > 60
