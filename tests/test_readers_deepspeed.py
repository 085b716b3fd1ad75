"""DeepSpeed's checkpoints. Its library is not a dependency: the files are written here in its layout.

The layout is that of the DeepSpeed repository: ``zero_to_fp32.py`` reads what ``write_zero3`` writes, and
``ds_to_universal.py`` (``merge_tp_slices``) writes what ``write_universal`` does. The partitions are cut
here with torch from whole tensors, which are what the reader must give back.
"""

from collections import OrderedDict

import pytest
import torch
from small import data_of, numpy_bits, run_here

from sedarchive.errors import UnreadableCheckpointError
from sedarchive.history import CheckpointSource
from sedarchive.readers import find_runs, open_checkpoint

torch.set_num_threads(1)


def opened(path):
    return open_checkpoint(CheckpointSource(3, path.name, path))


def model(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (5, 3), "block.weight": (4, 4), "block.bias": (7,), "scale": (), "one": (1, 2)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def shapes_of(tensors):
    return OrderedDict((name, value.shape) for name, value in tensors.items())


def stretches(value, n_ranks):
    """A flattened tensor in equal stretches, the last one padded with what must never be read."""
    flat = value.reshape(-1)
    length = -(-flat.numel() // n_ranks)
    padded = torch.cat([flat, torch.full((length * n_ranks - flat.numel(),), float("nan"), dtype=flat.dtype)])
    return padded.reshape(n_ranks, length)


def write_zero3(folder, tensors, n_ranks=3, n_groups=2, frozen=None, buffers=None, shared=None, prefix="bf16_"):
    """Model and optimizer states of every rank; parameters spread over groups in their order."""
    folder.mkdir(parents=True)
    frozen, buffers = frozen or {}, buffers or {}
    names = list(tensors)
    size = -(-len(names) // n_groups)
    groups = [{name: tensors[name] for name in names[at : at + size]} for at in range(0, len(names), size)]
    for rank in range(n_ranks):
        flat = [torch.cat([stretches(value, n_ranks)[rank] for value in group.values()]) for group in groups]
        optimizer = {
            "zero_stage": 3,
            "partition_count": n_ranks,
            "fp32_flat_groups": flat,
            "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros_like(flat[0])}}, "param_groups": []},
        }
        content = {"optimizer_state_dict": optimizer, "ds_config": {}, "ds_version": "0.17.0"}
        torch.save(content, folder / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        state = {
            "module": OrderedDict({**{name: torch.empty(0) for name in names}, **buffers}),
            "buffer_names": list(buffers),
            "param_shapes": [shapes_of(group) for group in groups],
            "frozen_param_shapes": shapes_of(frozen) if frozen else None,
            "frozen_param_fragments": {name: stretches(value, n_ranks)[rank] for name, value in frozen.items()},
            "shared_params": shared or {},
            "ds_version": "0.17.0",
            "global_steps": 3,
        }
        torch.save(state, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
    return folder


def write_zero2(folder, tensors):
    """Full 16-bit weights beside the partitions of the optimizer."""
    folder.mkdir(parents=True)
    state = {"module": tensors, "buffer_names": [], "optimizer": None, "param_shapes": [shapes_of(tensors)]}
    torch.save({**state, "global_steps": 3, "ds_version": "0.17.0"}, folder / "mp_rank_00_model_states.pt")
    for rank in range(2):
        content = {"optimizer_state_dict": {"zero_stage": 2, "partition_count": 2}}
        torch.save(content, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return folder


def write_universal(folder, tensors):
    for name, value in tensors.items():
        place = folder / "zero" / name
        place.mkdir(parents=True)
        torch.save({"param": value, "cat_dim": 0}, place / "fp32.pt")
        torch.save({"param": torch.zeros_like(value)}, place / "exp_avg.pt")
        torch.save(torch.tensor(3.0), place / "step.pt")
    torch.save({"param_groups": []}, folder / "zero" / "optimizer_state.pt")
    torch.save({"module": None, "universal_checkpoint_info": {}}, folder / "mp_rank_00_model_states.pt")
    return folder


def assert_reads(reader, tensors):
    assert {name: spec.shape for name, spec in reader.specs.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    for name, value in tensors.items():
        rows = reader.specs[name].rows
        assert f"torch.{reader.specs[name].dtype}" == str(value.dtype)
        for start in range(rows + 1):
            for stop in range(start, rows + 1):
                expected = value.reshape(rows, -1)[start:stop]
                assert reader.read_rows(name, start, stop).tobytes() == numpy_bits(expected)


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("n_groups", [1, 3])
def test_the_partitions_of_zero_3_are_joined(tmp_path, n_ranks, n_groups):
    with opened(write_zero3(tmp_path / "global_step3", model(), n_ranks, n_groups)) as reader:
        assert_reads(reader, model())
        assert [finding.check_name for finding in reader.findings] == ["float32_masters"]


def test_frozen_parameters_buffers_and_ties_of_zero_3_are_read(tmp_path):
    frozen = {"frozen.weight": torch.randn(3, 5).to(torch.bfloat16)}
    buffers = {"mask": torch.arange(4.0)}
    shared = {"head.weight": "embed.weight"}
    folder = write_zero3(tmp_path / "global_step3", model(), frozen=frozen, buffers=buffers, shared=shared)
    with opened(folder) as reader:
        assert_reads(reader, {**buffers, **frozen, **model(), "head.weight": model()["embed.weight"]})
        assert dict(reader.ties) == shared


def test_the_history_is_found_and_ingested(tmp_path):
    for step in (10, 20):
        write_zero3(tmp_path / "run" / f"global_step{step}", model(step), prefix="")
    (tmp_path / "run" / "latest").write_text("global_step20")
    (report,) = data_of(run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr", "--json"))
    assert (report["run"], report["added"], report["error"]) == ("run", 2, None)


def test_the_folder_inside_a_trainer_s_checkpoint_is_read(tmp_path):
    for step in (10, 20):
        write_zero3(tmp_path / f"checkpoint-{step}" / f"global_step{step}", model(step))
        (tmp_path / f"checkpoint-{step}" / "zero_to_fp32.py").write_text("raise SystemExit")
    (run,) = find_runs(tmp_path)
    assert [checkpoint.label for checkpoint in run.checkpoints] == ["checkpoint-10", "checkpoint-20"]
    with open_checkpoint(run.checkpoints[1]) as reader:
        assert_reads(reader, model(20))


def test_zero_1_and_2_hold_the_whole_weights(tmp_path):
    tensors = {name: value.to(torch.bfloat16) for name, value in model().items()}
    write_zero2(tmp_path / "run" / "global_step3", tensors)
    (run,) = find_runs(tmp_path)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [3]
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert_reads(reader, tensors)


def test_the_universal_format_is_read(tmp_path):
    write_universal(tmp_path / "run" / "global_step3_universal", model())
    (run,) = find_runs(tmp_path)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [3]
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert_reads(reader, {name: model()[name] for name in sorted(model())})


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "tensor-parallel.*ds_to_universal"),
        (["zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_01_model_states.pt"], "tensor-parallel"),
        (["layer_00-model_00-model_states.pt", "mp_rank_00_model_states.pt"], "pipeline.*zero_to_fp32"),
        (["layer_0_expert_1_mp_rank_00_model_states.pt", "mp_rank_00_model_states.pt"], "experts.*zero_to_fp32"),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt"], "no model states"),
        (["zero_pp_rank_0_mp_rank_00_model_states.pt"], "optimizer states of rank 0"),
        (["mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"], "Megatron.*torch_dist"),
    ],
)
def test_a_layout_that_is_not_read_is_a_checkpoint_with_a_way_out(tmp_path, names, words):
    touch(tmp_path / "run" / "global_step3", *names)
    (run,) = find_runs(tmp_path)
    with pytest.raises(UnreadableCheckpointError, match=words):
        open_checkpoint(run.checkpoints[0])


def test_megatron_s_own_format_is_read_where_one_rank_holds_it_all(tmp_path):
    folder = tmp_path / "iter_0000030" / "mp_rank_00"
    folder.mkdir(parents=True)
    content = {
        "model": {"language_model": {"embedding": {"weight": torch.ones(2, 3)}}},
        "optimizer": {},
        "iteration": 30,
    }
    torch.save(content, folder / "model_optim_rng.pt")
    (run,) = find_runs(tmp_path)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [30]
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert_reads(reader, {"language_model.embedding.weight": torch.ones(2, 3)})


# Hostile files


def changed(path, change):
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)


def optimizer_file(folder, rank=0):
    return folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"


def model_file(folder, rank=0):
    return folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"


def set_state(**values):
    return lambda content: content["optimizer_state_dict"].update(values)


def grow_shape(content):
    content["param_shapes"][0]["embed.weight"] = torch.Size([5, 2**40])


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (optimizer_file, set_state(partition_count=4), "4 ranks, the files of 3"),
        (optimizer_file, set_state(zero_stage=2), "no float32 groups"),
        (optimizer_file, set_state(fp32_flat_groups=[torch.ones(3)]), "rank 0 holds 3 elements"),
        (optimizer_file, set_state(fp32_flat_groups="all"), "no float32 groups"),
        (optimizer_file, set_state(partition_count="x"), "cannot be read|offset"),
        (model_file, grow_shape, "holds .* elements, the shapes"),
        (model_file, lambda content: content.pop("param_shapes"), "no param_shapes"),
        (model_file, lambda content: content.update(param_shapes=[{"w": 3}]), "not a map"),
        (model_file, lambda content: content.update(frozen_param_shapes={"f": torch.Size([9])}), "cannot be read"),
    ],
)
def test_partitions_that_do_not_fit_are_refused(tmp_path, file, change, words):
    folder = write_zero3(tmp_path / "global_step3", model())
    changed(file(folder), change)
    with pytest.raises(UnreadableCheckpointError, match=words):
        opened(folder)


def test_a_missing_rank_is_named(tmp_path):
    folder = write_zero3(tmp_path / "global_step3", model())
    optimizer_file(folder, 1).unlink()
    with pytest.raises(UnreadableCheckpointError, match="without the optimizer states of rank 1"):
        opened(folder)


def test_a_universal_file_without_its_tensor_is_refused(tmp_path):
    folder = write_universal(tmp_path / "global_step3_universal", model())
    torch.save({"other": 1}, folder / "zero" / "scale" / "fp32.pt")
    with pytest.raises(UnreadableCheckpointError, match="'param'"):
        opened(folder)
