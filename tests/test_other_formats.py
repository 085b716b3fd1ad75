"""Adapters, shards of .bin files, and folders that are seen and not read."""

import json

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from small import data_of, numpy_bits, run_here, walk

from sedarchive.errors import NoCheckpointsError, UnreadableCheckpointError
from sedarchive.readers import find_runs, open_checkpoint

torch.set_num_threads(1)


def checks(run):
    return {finding.check_name: finding for finding in run.findings}


def write_adapter(folder, step, suffix="safetensors"):
    """Adapter in the names and the config that peft writes (PEFT 0.17: LoRA on two projections)."""
    inner = folder / f"checkpoint-{step}"
    inner.mkdir(parents=True)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    state = {f"{prefix}.lora_A.weight": torch.randn(2, 6), f"{prefix}.lora_B.weight": torch.randn(8, 2)}
    if suffix == "safetensors":
        save_file(state, inner / "adapter_model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(state, inner / "adapter_model.bin")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "org/base"}
    (inner / "adapter_config.json").write_text(json.dumps(config))
    torch.save({"state": {}}, inner / "optimizer.pt")
    return state


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_adapters_are_read_as_they_are_and_what_is_missing_is_named(tmp_path, suffix):
    states = {step: write_adapter(tmp_path / "run", step, suffix) for step in (10, 20)}
    (run,) = find_runs(tmp_path)
    finding = checks(run)["adapter"]
    assert finding.severity == "warning"
    assert all(word in finding.detail for word in ("LORA", "rank 2", "org/base", "merge_and_unload"))
    with open_checkpoint(run.checkpoints[1]) as reader:
        for name, value in states[20].items():
            assert reader.read_rows(name, 0, value.shape[0]).tobytes() == numpy_bits(value)
    (report,) = data_of(run_here("ingest", tmp_path, "--archive", tmp_path / "a.zarr", "--json"))
    assert report["added"] == 2


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"r": "x", "peft_type": 3}'])
def test_a_malformed_adapter_config_changes_nothing_else(tmp_path, text):
    write_adapter(tmp_path / "run", 10)
    config = tmp_path / "run" / "checkpoint-10" / "adapter_config.json"
    config.unlink() if text is None else config.write_text(text)
    (run,) = find_runs(tmp_path)
    assert "base model" in checks(run)["adapter"].detail


def test_a_whole_model_beside_an_adapter_is_no_adapter(tmp_path):
    write_adapter(tmp_path / "run", 10)
    save_file({"w": torch.ones(2)}, tmp_path / "run" / "checkpoint-10" / "model.safetensors")
    (run,) = find_runs(tmp_path)
    assert "adapter" not in checks(run)


@pytest.mark.filterwarnings("ignore")
def test_what_peft_itself_writes_is_read(tmp_path):
    import peft
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, base_model_name_or_path="org/base")
    model = peft.get_peft_model(base, config)
    model.save_pretrained(tmp_path / "run" / "checkpoint-5")
    (run,) = find_runs(tmp_path)
    assert "adapter" in checks(run)
    state = peft.get_peft_model_state_dict(model)
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert set(reader.specs) == set(state)
        for name, value in state.items():
            assert reader.read_rows(name, 0, value.shape[0]).tobytes() == numpy_bits(value)


def test_shards_of_bin_files_with_an_index_are_read_as_the_hub_s_library_writes_them(tmp_path):
    (state,) = walk(1)
    folder = tmp_path / "run" / "checkpoint-5"
    folder.mkdir(parents=True)
    save_torch_state_dict(state, folder, safe_serialization=False, max_shard_size=400)
    assert len(list(folder.glob("*.bin"))) > 2
    (run,) = find_runs(tmp_path)
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert set(reader.specs) == set(state)
        for name, value in state.items():
            assert reader.read_rows(name, 0, value.shape[0]).tobytes() == numpy_bits(value)


@pytest.mark.parametrize("shard", ["../outside.bin", "/etc/passwd", "a/b.bin", "..", "", "gone.bin"])
def test_an_index_of_bin_files_never_leads_outside_its_folder(tmp_path, shard):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    torch.save({"w": torch.ones(2)}, tmp_path / "outside.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    (run,) = find_runs(tmp_path, selection=None)
    with pytest.raises(UnreadableCheckpointError, match=r"not a file of its folder|missing"):
        open_checkpoint(next(c for c in run.checkpoints if c.step == 5))


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "names",
    [
        ["100/_CHECKPOINT_METADATA", "100/default/manifest.ocdbt", "100/default/d/abc"],
        ["100/default/_METADATA", "100/default/manifest.ocdbt"],
        ["100/_METADATA", "100/params.layer.kernel/.zarray"],
        ["100/state/manifest.ocdbt"],
    ],
)
def test_an_orbax_history_is_recognised_and_refused_with_the_way_out(tmp_path, names):
    touch(tmp_path / "run", *names)
    result = run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr", "--json", code=1)
    (report,) = data_of(result)
    (finding,) = report["findings"]
    assert finding["step"] == 100
    assert "Orbax" in finding["detail"]
    assert "safetensors" in finding["detail"]


@pytest.mark.parametrize("name", ["step_5.npz", "ckpt-7.h5", "step_5/weights.msgpack", "checkpoint_3/notes.txt"])
def test_what_is_named_like_a_checkpoint_and_not_read_is_told(tmp_path, name):
    touch(tmp_path / "run", "step_1.pt", name)
    (run,) = find_runs(tmp_path)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [1]
    finding = checks(run)["not_supported"]
    assert finding.severity == "warning"
    assert "safetensors" in finding.detail


def test_where_nothing_is_read_the_error_says_what_was_seen(tmp_path):
    touch(tmp_path, "run/step_5.npz")
    with pytest.raises(NoCheckpointsError, match=r"step_5\.npz: an archive of numpy"):
        find_runs(tmp_path)


def test_a_folder_of_other_formats_beside_a_run_is_told(tmp_path):
    touch(tmp_path, "good/step_1.pt", "numpy/step_5.npz", "numpy/step_6.npz", "flax/step_3/w.msgpack")
    (run,) = find_runs(tmp_path)
    details = sorted(finding.detail for finding in run.findings)
    assert [finding.check_name for finding in run.findings] == ["not_supported"] * 2
    assert details[0].startswith("in flax, which is no run: step_3/")
    assert details[1].startswith("in numpy, which is no run: step_5.npz")
    assert "1 more" in details[1]


def test_a_run_of_checkpoints_in_a_folder_named_like_one_is_no_finding(tmp_path):
    touch(tmp_path, "checkpoints_2/step_1.pt", "checkpoints_2/step_2.pt")
    (run,) = find_runs(tmp_path)
    assert run.findings == ()
