"""The name of a checkpoint's format: what laid the folder out, and what its files are."""

import json

import pytest
import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from small import data_of, run_here, walk, write_trainer
from test_hub_cache import repository_of
from test_other_formats import write_adapter
from test_readers_deepspeed import model, write_universal, write_zero2, write_zero3

from sedarchive.readers import find_runs, open_checkpoint

torch.set_num_threads(1)
STATE = {"w": torch.ones(6, 4), "b": torch.ones(6)}


def file(content, name="step_3.pt", **options):
    def write(folder):
        torch.save(content, folder / name, **options)

    return write


def lightning(folder):
    torch.save({"state_dict": STATE, "pytorch-lightning_version": "2.5.0"}, folder / "epoch=0-step=3.ckpt")


def safetensors(folder):
    save_file(STATE, folder / "step_3.safetensors")


def shards(safe):
    def write(folder):
        (folder / "checkpoint-3").mkdir()
        save_torch_state_dict(walk(1)[0], folder / "checkpoint-3", max_shard_size=400, safe_serialization=safe)

    return write


def trainer_adapter(folder):
    write_adapter(folder, 3)
    (folder / "checkpoint-3/trainer_state.json").write_text(json.dumps({"log_history": []}))


def zero2(folder):
    path = write_zero2(folder / "global_step3", model()) / "mp_rank_00_model_states.pt"
    config = {"zero_optimization": {"stage": 2}}
    torch.save({**torch.load(path), "ds_config": config}, path)


def accelerate(folder):
    (folder / "checkpoint-3").mkdir()
    save_file(STATE, folder / "checkpoint-3/model.safetensors")
    (folder / "checkpoint-3/random_states_0.pkl").write_bytes(b"")


WRITERS = {
    "safetensors": safetensors,
    "sharded safetensors": shards(True),
    "sharded PyTorch zip": shards(False),
    "PyTorch zip": file(STATE),
    "PyTorch legacy": file(STATE, _use_new_zipfile_serialization=False),
    "Lightning, PyTorch zip": lightning,
    "nanoGPT, PyTorch zip": file({"model": STATE, "model_args": {"n_head": 2}, "iter_num": 3, "optimizer": {}}),
    "DCP": lambda folder: dcp.save({"model": dict(STATE)}, checkpoint_id=folder / "step-3"),
    "DeepSpeed ZeRO-2, PyTorch zip": zero2,
    "DeepSpeed, PyTorch zip": lambda folder: write_zero2(folder / "global_step3", model()),
    "DeepSpeed ZeRO-3": lambda folder: write_zero3(folder / "global_step3", model()),
    "DeepSpeed universal": lambda folder: write_universal(folder / "step_3", model()),
    "PEFT adapter, safetensors": lambda folder: write_adapter(folder, 3),
    "PEFT adapter, PyTorch zip": lambda folder: write_adapter(folder, 3, "bin"),
    "Trainer, safetensors": lambda folder: write_trainer(folder, walk(1), [3]),
    "Trainer, PEFT adapter, safetensors": trainer_adapter,
    "Accelerate, safetensors": accelerate,
    "hub cache, safetensors": lambda folder: repository_of(folder, ["step3"]),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # torch's, on one process
@pytest.mark.parametrize("name", WRITERS)
def test_a_format_is_named_from_the_outside_in(tmp_path, name):
    (tmp_path / "run").mkdir()
    WRITERS[name](tmp_path / "run")
    (run,) = find_runs(tmp_path / "run")
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert (run.checkpoints[0].step, reader.format) == (3, name)
    (shown,) = data_of(run_here("inspect", tmp_path / "run", "--json"))
    assert shown["format"] == name
    assert f"  format: {name}, " in run_here("inspect", tmp_path / "run").stdout


def test_a_file_named_otherwise_than_it_is_has_the_format_of_its_bytes(tmp_path):
    torch.save(STATE, tmp_path / "step_3.ckpt", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / "step_4.bin")
    (run,) = find_runs(tmp_path)
    formats = []
    for checkpoint in run.checkpoints:
        with open_checkpoint(checkpoint) as reader:
            formats.append(reader.format)
    assert formats == ["PyTorch legacy", "safetensors"]


@pytest.mark.parametrize("stage", [None, 0, True, "2", [2], {"a": 1}, 4])
def test_odd_settings_of_deepspeed_name_no_stage(tmp_path, stage):
    content = {"module": STATE, "ds_version": "0.17", "ds_config": {"zero_optimization": {"stage": stage}}}
    torch.save(content, tmp_path / "step_3.pt")
    (run,) = find_runs(tmp_path)
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert reader.format == "DeepSpeed, PyTorch zip"
