"""Thousands of damaged headers, pickles, indexes, configs and logs: a result or an error of ours, and nothing else."""

import argparse
import json
import os
import shutil
import struct
import tempfile
import warnings
from math import ceil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from events import event, record, simple, tensor, write_events
from fuzz import Target, attack, mutated, mutated_json
from safetensors.torch import save_file
from small import few_draws, walk, write_log
from small import write_safetensors as write_history
from test_readers_deepspeed import model, write_universal, write_zero3

from sedarchive.archive.records import sealed
from sedarchive.archive.verify import verify
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.errors import SedarchiveError
from sedarchive.history import CheckpointSource
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.logs import read_metrics
from sedarchive.readers import fingerprint, open_checkpoint
from sedarchive.readers.discover import find_runs
from sedarchive.readers.training import training_facts
from sedarchive.status import archive_status

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
    read_metrics(sorted(path for path in folder.rglob("*") if path.is_file()), folder)


def write_chunks(folder: Path) -> list[Path]:
    """What one process saves without a process group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on one process
        dcp.save({"model": STATE, "optimizer": {"m": torch.ones(3)}}, checkpoint_id=folder, no_dist=True)
    return [folder / ".metadata", folder / ".metadata", folder / "__0_0.distcp"]


def write_partitions(folder: Path) -> list[Path]:
    write_zero3(folder / "global_step3", model(), n_ranks=2)
    return sorted((folder / "global_step3").iterdir())


def write_parameters(folder: Path) -> list[Path]:
    return sorted(write_universal(folder / "global_step3_universal", model()).rglob("fp32.pt"))


def write_adapter(folder: Path) -> list[Path]:
    place = folder / "checkpoint-5"
    place.mkdir()
    save_file({"base.q.lora_A.weight": torch.ones(2, 4)}, place / "adapter_model.safetensors")
    (place / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "base_model_name_or_path": "x"})
    )
    return [place / "adapter_config.json", place / "adapter_model.safetensors"]


def read_run(folder: Path) -> None:
    """Find the runs, read the settings beside them, and every checkpoint."""
    for source in find_runs(folder):
        training_facts(source, {})
        for checkpoint in source.checkpoints:
            read_checkpoint(checkpoint.path)


def write_settings(folder: Path) -> list[Path]:
    save_file(STATE, folder / "step_5.safetensors")
    torch.save(argparse.Namespace(learning_rate=1e-3, optim="adamw"), folder / "training_args.bin")
    (folder / "hparams.yaml").write_text("lr: 0.1\nbetas:\n- 0.9\n- 0.95\noptimizer: AdamW\n")
    (folder / "args.json").write_text(json.dumps({"lr": 0.1, "betas": [0.9, 0.95], "training": {"seed": 3}}))
    return [folder / name for name in ("training_args.bin", "hparams.yaml", "args.json")]


def write_tensorboard(folder: Path) -> Path:
    number = struct.pack("<f", 2.5)
    tensors = [tensor("val_loss", b"\x08\x01\x12\x00\x22\x04" + number)]
    rows = [event(step, simple("train/loss", 1.5 / step), *tensors) for step in range(1, 20)]
    return write_events(folder / "events.out.tfevents.1.host", *rows)


def mutated_records(data: bytes, choose) -> bytes:
    """Damage what the records hold, under good checksums."""
    parts, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        parts.append(data[at + 12 : at + 12 + length])
        at += 16 + length
    damaged = choose.randrange(len(parts))
    return b"".join(record(mutated(part, choose) if i == damaged else part) for i, part in enumerate(parts))


def write_mlflow(folder: Path) -> Path:
    path = folder / "mlruns/0/abc/metrics/val_loss"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"1700000000 {1 / step} {step}\n" for step in range(1, 40)))
    return path


def write_wandb(folder: Path) -> list[Path]:
    files = folder / "wandb/run-1-abc/files"
    files.mkdir(parents=True)
    (files / "wandb-summary.json").write_text(json.dumps({"val_loss": 2.0, "_step": 30, "_wandb": {"runtime": 3}}))
    (files / "output.log").write_text(
        "".join(f"step {at}: train loss {2 / at}, val loss {3 / at}\n" for at in range(1, 40))
    )
    (folder / "wandb_export.csv").write_text("Step,one - val_loss,one - val_loss__MIN\n" + "1,2.0,2.0\n" * 30)
    return [path for path in folder.rglob("*") if path.is_file()]


# Archives


def write_archive(folder: Path) -> Path:
    """Archive of one run with metrics and Gram matrices."""
    write_history(folder / "runs/a", walk(4, shapes={"h.0.w": (3, 4), "h.0.b": (5,)}))
    write_log(folder / "runs/a", [0, 10])
    ingest([folder / "runs"], folder / "a.zarr", IngestOptions())
    with few_draws():
        compute(folder / "a.zarr", folder / "a.duckdb", ComputeOptions(spectra=False))
    return folder / "a.zarr"


def write_metadata(folder: Path) -> list[Path]:
    archive = write_archive(folder)
    return sorted([*archive.rglob("zarr.json"), *archive.rglob("commits/*.json"), *archive.glob("*/*.json")])


def write_records(folder: Path) -> list[Path]:
    archive = write_archive(folder)
    records = [archive / "a" / name for name in ("run.json", "manifest.json", "commits/000000.json")]
    return [*records, *archive.glob("a/theta/*/zarr.json"), *archive.glob("a/metrics/*/*/zarr.json")]


def sealed_anew(data: bytes, choose) -> bytes:
    """Other values in a record, under a good digest, as somebody who means harm writes it."""
    content = json.loads(mutated_json(data, choose))
    if not isinstance(content, dict) or content.pop("record_digest", None) is None:
        return json.dumps(content).encode()
    return sealed(content)


def read_archive(folder: Path) -> None:
    """Check and count what an archive holds: each may end in a finding or an error of its own."""
    verify(folder / "a.zarr")
    archive_status(folder / "a.zarr", folder / "a.duckdb")


def use_archive(folder: Path) -> None:
    """Ingest into a copy of an archive, and compute from it."""
    with tempfile.TemporaryDirectory() as place, few_draws():
        copy = Path(place) / folder.name
        shutil.copytree(folder, copy)
        write_history(copy / "runs/a", walk(5, shapes={"h.0.w": (3, 4), "h.0.b": (5,)})[4:], [40])
        ingest([copy / "runs"], copy / "a.zarr", IngestOptions())
        compute(copy / "a.zarr", copy / "a.duckdb", ComputeOptions(spectra=False))


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
    Target("chunks of torch.distributed.checkpoint", write_chunks, read_checkpoint),
    Target("ZeRO-3 partitions", write_partitions, lambda folder: read_checkpoint(folder / "global_step3")),
    Target("universal checkpoint", write_parameters, lambda folder: read_checkpoint(folder / "global_step3_universal")),
    Target("adapter", write_adapter, read_run),
    Target("settings", write_settings, read_run),
    Target("TensorBoard file", write_tensorboard, read_logs),
    Target("TensorBoard records", write_tensorboard, read_logs, mutated_records),
    Target("MLflow metric", write_mlflow, read_logs),
    Target("wandb files", write_wandb, read_logs),
    Target("archive metadata", write_metadata, read_archive, weight=0.15),
    Target("archive records sealed anew", write_records, read_archive, sealed_anew, weight=0.15),
    Target("damaged archive in use", write_metadata, use_archive, weight=0.01),
    Target("hostile archive in use", write_records, use_archive, sealed_anew, weight=0.01),
]
SHARES = sum(target.weight for target in TARGETS)


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """A damaged pickle that names a function must not get it called."""

    def called(*arguments):
        raise AssertionError(f"something was executed: {arguments}")

    for name in ("system", "popen", "execv", "posix_spawn"):
        monkeypatch.setattr(os, name, called)


def share(cases: int, target: Target) -> int:
    return max(5, ceil(cases * target.weight / SHARES))


def attack_all(target, folder, cases):
    outcome = attack(target, folder, range(cases), SedarchiveError)
    assert outcome.cases == cases
    print(f"{target.name}: {outcome}")
    return outcome


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_damaged_file_gives_a_result_or_an_error_of_ours(target, tmp_path):
    attack_all(target, tmp_path, share(REDUCED, target))


@pytest.mark.campaign
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_many_damaged_files_give_results_or_errors_of_ours(target, tmp_path):
    attack_all(target, tmp_path, share(FULL, target))


def test_mutations_damage_what_is_checked(tmp_path):
    """Else the counts above would say nothing: most damaged headers must be refused."""
    target = TARGETS[0]
    assert attack_all(target, tmp_path, 200).refused > 60
