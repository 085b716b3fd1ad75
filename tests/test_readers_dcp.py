"""Folders of torch.distributed.checkpoint, written by torch in one process and in two, and hostile ones."""

import contextlib
import dataclasses
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from sharded import RANKS, whole_tensors
from small import data_of, environment, numpy_bits, run_here
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from sedarchive.errors import UnreadableCheckpointError, UnsafeCheckpointError
from sedarchive.history import CheckpointSource
from sedarchive.readers import find_runs, fingerprint, open_checkpoint
from sedarchive.readers.pieces import check_blocks
from sedarchive.roles import assign_roles

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # torch's, on one process


def opened(path, key=None):
    return open_checkpoint(CheckpointSource(3, path.name, path, key=key))


def assert_reads(reader, tensors):
    assert {name: (spec.dtype, spec.shape) for name, spec in reader.specs.items()} == {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in tensors.items()
    }
    for name, value in tensors.items():
        rows = reader.specs[name].rows
        for start in range(rows + 1):
            for stop in range(start, rows + 1):
                expected = value.reshape(rows, -1)[start:stop] if value.numel() else value
                assert reader.read_rows(name, start, stop).tobytes() == numpy_bits(expected)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Folder of what two processes saved."""
    folder = tmp_path_factory.mktemp("sharded")
    script = Path(__file__).with_name("sharded.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, folder, str(rank)], env=environment(CUDA_VISIBLE_DEVICES=""), stderr=-1
        )
        for rank in range(RANKS)
    ]
    for process in processes:
        _, words = process.communicate(timeout=120)
        assert process.returncode == 0, words.decode()
    return folder


def some_tensors():
    return {
        "embed.weight": torch.randn(7, 4),
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "transposed": torch.randn(6, 4).T,
        "scalar": torch.tensor(2.5),
        "count": torch.arange(5),
        "empty": torch.zeros(0, 3),
        "flag": torch.tensor([True, False]),
    }


def saved(folder, state, **options):
    folder.mkdir(parents=True, exist_ok=True)
    dcp.save(state, checkpoint_id=folder, **options)
    return folder


def test_a_state_saved_by_one_process_is_read_bit_exactly(tmp_path):
    tensors = some_tensors()
    with opened(saved(tmp_path / "step-3", tensors)) as reader:
        assert_reads(reader, tensors)
        assert reader.findings == ()


def test_shards_along_any_axis_are_assembled(sharded):
    with opened(sharded / "step-3") as reader:
        assert_reads(reader, whole_tensors())


def test_a_model_of_fsdp_is_read_without_its_optimizer(sharded):
    (run,) = find_runs(sharded / "run")
    assert [checkpoint.step for checkpoint in run.checkpoints] == [5]
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert_reads(reader, torch.load(sharded / "whole.pt"))
        assert [finding.check_name for finding in reader.findings] == ["training_state"]


def test_the_parts_of_a_fused_weight_of_fsdp_are_rows_of_the_whole(sharded):
    (run,) = find_runs(sharded / "run")
    with open_checkpoint(run.checkpoints[0]) as reader:
        found = assign_roles(reader.specs).roles["h.0.attn.c_attn.weight"]
        whole = torch.load(sharded / "whole.pt")["h.0.attn.c_attn.weight"]
        assert [(part.name, part.axis, part.start, part.stop) for part in found.parts] == [
            ("query", 0, 0, 5), ("key", 0, 5, 10), ("value", 0, 10, 15),
        ]  # fmt: skip
        for part, third in zip(found.parts, whole.split(5), strict=True):
            assert reader.read_rows(found.tensor, part.start, part.stop).tobytes() == numpy_bits(third)


def test_the_folder_that_accelerate_puts_into_a_checkpoint_is_read(sharded):
    (run,) = find_runs(sharded / "accelerate")
    assert (run.name, [checkpoint.label for checkpoint in run.checkpoints]) == ("accelerate", ["checkpoint-5"])
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert_reads(reader, torch.load(sharded / "whole.pt"))
    marks = fingerprint(run.checkpoints[0].path)["files"]
    assert [mark["path"] for mark in marks] == [
        f"pytorch_model_fsdp_0/{name}" for name in (".metadata", "__0_0.distcp", "__1_0.distcp")
    ]


@pytest.mark.parametrize(
    "state",
    [
        {"model": {"layers.0.w": torch.ones(2, 3)}, "optimizer": {"state": {"layers.0.w.exp_avg": torch.zeros(2, 3)}}},
        {"app": {"model": {"layers.0.w": torch.ones(2, 3)}, "optim": {"state": {"m": torch.zeros(2, 3)}}}},
        {"layers.0.w": torch.ones(2, 3), "optimizer": {"m": torch.zeros(2)}, "train_state": {"step": 4}},
        {"model": {"_orig_mod.layers.0.w": torch.ones(2, 3)}},
        {"model": {"layers.0._checkpoint_wrapped_module.w": torch.ones(2, 3)}},
    ],
    ids=["nested", "tutorial", "flat", "compiled", "recomputed"],
)
def test_the_model_is_found_in_the_states_that_trainers_save(tmp_path, state):
    with opened(saved(tmp_path / "step-3", state)) as reader:
        assert_reads(reader, {"layers.0.w": torch.ones(2, 3)})


def test_a_key_of_the_user_picks_the_averaged_weights(tmp_path):
    folder = saved(tmp_path / "step-3", {"model": {"w": torch.ones(2)}, "ema": {"w": torch.zeros(2)}})
    with opened(folder, "ema") as reader:
        assert_reads(reader, {"w": torch.zeros(2)})
    with pytest.raises(UnreadableCheckpointError, match="under the key 'nope'"):
        opened(folder, "nope")


def test_a_megatron_folder_is_read_and_its_step_is_that_of_the_iteration(tmp_path):
    state = {
        "decoder.layers.self_attention.linear_qkv.weight": torch.randn(2, 6, 4),
        "optimizer.state.exp_avg.decoder.layers.self_attention.linear_qkv.weight": torch.zeros(2, 6, 4),
    }
    folder = saved(tmp_path / "run" / "iter_0001000", state, planner=DefaultSavePlanner(flatten_state_dict=False))
    torch.save({"iteration": 1000}, folder / "common.pt")
    (folder / "metadata.json").write_text("{}")
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("1000")
    (run,) = find_runs(tmp_path)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [1000]
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert_reads(reader, {name: value for name, value in state.items() if name.startswith("decoder")})


def test_flattened_parameters_are_a_warning(tmp_path):
    with opened(saved(tmp_path / "step-3", {"model": {"block._flat_param": torch.ones(9)}})) as reader:
        assert [finding.check_name for finding in reader.findings] == ["flat_parameters"]


def test_the_folder_is_ingested_and_comes_back(tmp_path):
    tensors = some_tensors()
    for step in (1, 2):
        saved(
            tmp_path / "runs" / "a" / f"step-{step}",
            {"model": {n: v + step for n, v in tensors.items() if n != "flag"}},
        )
    archive = tmp_path / "archive.zarr"
    (report,) = data_of(run_here("ingest", tmp_path / "runs", "--archive", archive, "--json"))
    assert (report["added"], report["error"]) == (2, None)
    run_here("restore", "a", "--archive", archive, "--to", tmp_path / "out", "--step", "2")
    from safetensors.torch import load_file

    (restored,) = (tmp_path / "out").rglob("*.safetensors")
    for name, value in load_file(restored).items():
        assert numpy_bits(value) == numpy_bits(tensors[name] + 2)
    (again,) = data_of(run_here("ingest", tmp_path / "runs", "--archive", archive, "--json"))
    assert (again["added"], again["already"]) == (0, 2)


def test_reading_does_not_import_torch(tmp_path):
    folder = saved(tmp_path / "step-3", {"model": {"w": torch.ones(2)}})
    code = (
        "import sys; from pathlib import Path; from sedarchive.readers import find_runs, open_checkpoint;"
        "run, = find_runs(Path(sys.argv[1])); reader = open_checkpoint(run.checkpoints[0]);"
        "print(reader.read_rows('w', 0, 2).tolist(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=environment())
    assert done.stdout == "[[1.0], [1.0]] False\n", done.stderr


# Hostile folders


class Shell:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def rewritten(folder, change):
    """Folder whose index went through `change`."""
    index = pickle.loads((folder / ".metadata").read_bytes())
    index = change(index) or index
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    return folder


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path / "step-3", {"w": torch.arange(12.0).reshape(4, 3), "b": torch.ones(3)})


def place(index, name="w"):
    (key,) = [key for key in index.storage_data if key.fqn == name]
    return key


def with_place(**changes):
    def change(index):
        key = place(index)
        index.storage_data[key] = dataclasses.replace(index.storage_data[key], **changes)

    return change


def with_chunks(*chunks):
    def change(index):
        key = place(index)
        info = index.storage_data.pop(key)
        index.state_dict_metadata["w"].chunks = [
            ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in chunks
        ]
        for offsets, _ in chunks:
            index.storage_data[dataclasses.replace(key, offset=torch.Size(offsets))] = info

    return change


def without_place(index):
    del index.storage_data[place(index)]


def larger(index):
    index.state_dict_metadata["w"].size = torch.Size([2**40, 3])


def two_kinds(index):
    index.storage_data[place(index)] = index.storage_data[place(index, "b")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_place(offset=2**40), "is said to stand at bytes"),
        (with_place(length=2**50), "is said to stand at bytes"),
        (with_place(offset=-1), "offset, size or stride"),
        (with_place(length=10), "cannot be read|not in the zip format"),
        (with_place(relative_path="../step-3/__0_0.distcp"), "not one of its folder"),
        (with_place(relative_path="/etc/passwd"), "not one of its folder"),
        (with_place(relative_path="__9_0.distcp"), "missing"),
        (with_place(relative_path=".metadata"), "cannot be read|said to stand"),
        (with_place(transform_descriptors=["zstd"]), "extension"),
        (with_chunks(((0, 0), (2, 3))), "do not cover"),
        (with_chunks(((0, 0), (4, 3)), ((2, 0), (2, 3))), "overlap"),
        (with_chunks(((0, 0), (4, 2)), ((0, 1), (2, 2))), "overlap|not float32"),
        (with_chunks(((2, 0), (4, 3))), "leaves its tensor"),
        (with_chunks(((0,), (12,))), "axes|not float32"),
        (without_place, "stored nowhere"),
        (larger, "do not cover|absurd"),
        (two_kinds, "not float32"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(folder, change, words):
    with pytest.raises(UnreadableCheckpointError, match=words):
        opened(rewritten(folder, change))


def test_an_index_that_calls_the_shell_is_refused_and_nothing_runs(folder):
    def change(index):
        index.planner_data = Shell(folder / "ran")

    rewritten(folder, change)
    with pytest.raises(UnsafeCheckpointError, match="system"):
        opened(folder)
    assert not (folder / "ran").exists()


def test_a_chunk_that_calls_the_shell_is_refused(folder):
    buffer = io.BytesIO()
    torch.save({"w": Shell(folder / "ran")}, buffer)
    data = folder / "__0_0.distcp"
    start = data.stat().st_size
    data.write_bytes(data.read_bytes() + buffer.getvalue())
    rewritten(folder, with_place(offset=start, length=len(buffer.getvalue())))
    with pytest.raises(UnsafeCheckpointError, match="system"):
        opened(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"x", b"\x80\x04K\x01.", pickle.dumps({"a": 1})])
def test_an_index_of_something_else_is_unreadable(folder, content):
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(UnreadableCheckpointError, match=r"\.metadata"):
        opened(folder)


def test_a_folder_without_its_index_is_refused_with_the_way_out(folder):
    (folder / ".metadata").unlink()
    with pytest.raises(UnreadableCheckpointError, match=r"no \.metadata"):
        opened(folder)


def test_a_file_that_changes_between_two_reads_is_an_error(folder):
    with opened(folder) as reader:
        data = folder / "__0_0.distcp"
        content = data.read_bytes()
        data.unlink()
        data.write_bytes(content + b"x")
        with pytest.raises(UnreadableCheckpointError, match="changed"):
            reader.read_rows("w", 0, 1)


def test_a_million_chunks_that_cross_end_soon():
    shape = (3000, 3000)
    crossing = [((i, 0), (1, 3000)) for i in range(2999)] + [((2999, i), (1, 1)) for i in range(3000)]
    with pytest.raises(ValueError, match="borders"):
        check_blocks(shape, crossing)


def test_only_our_errors_come_out_of_a_mutated_index(folder):
    content = (folder / ".metadata").read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        at = int(torch.randint(len(content), (), generator=generator))
        byte = int(torch.randint(256, (), generator=generator))
        (folder / ".metadata").write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
        with contextlib.suppress(UnreadableCheckpointError, UnsafeCheckpointError):
            opened(folder).close()
