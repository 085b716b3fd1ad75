"""Files of torch.save, in both formats, against the tensors that were saved."""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.errors import UnreadableCheckpointError
from sedarchive.history import CheckpointSource
from sedarchive.readers import fingerprint, open_checkpoint
from sedarchive.readers.names import clean_names

torch.set_num_threads(1)

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES_WRITTEN = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


def opened(path, spool=None):
    return open_checkpoint(CheckpointSource(7, path.name, path), spool)


def saved(folder, value, zipped=True, name="a.pt"):
    torch.save(value, folder / name, _use_new_zipfile_serialization=zipped)
    return folder / name


def bytes_of(tensor):
    plain = tensor.detach().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def random_tensor(dtype, shape):
    n_bytes = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size()
    raw = np.random.default_rng(n_bytes).integers(0, 2 if dtype == torch.bool else 256, n_bytes, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def assert_reads(reader, tensors):
    assert {name: spec.shape for name, spec in reader.specs.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    for name, tensor in tensors.items():
        spec = reader.specs[name]
        assert f"torch.{spec.dtype}" == str(tensor.dtype)
        whole = bytes_of(tensor)
        for start in range(0, spec.rows + 1, 2):
            for stop in (start, min(start + 3, spec.rows), spec.rows):
                if start <= stop:
                    rows = reader.read_rows(name, start, stop)
                    assert rows.shape == (stop - start, spec.columns)
                    assert rows.flags.c_contiguous
                    assert rows.tobytes() == whole[start * spec.row_bytes : stop * spec.row_bytes]


def recompressed(path, target, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", method) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return target


@FORMATS
def test_every_dtype_is_read_bit_exactly(tmp_path, zipped):
    tensors = {f"t{i}": random_tensor(dtype, (5, 3)) for i, dtype in enumerate(DTYPES_WRITTEN)}
    with opened(saved(tmp_path, tensors, zipped)) as reader:
        assert_reads(reader, tensors)
        assert reader.findings == ()


@FORMATS
def test_views_strides_scalars_and_empty_tensors_have_their_values(tmp_path, zipped):
    base = torch.arange(720, dtype=torch.float32).reshape(6, 10, 12)
    tensors = {
        "slice": base[2:4],
        "columns": base[:, 3:5],
        "transposed": base.transpose(0, 2),
        "permuted": base.permute(1, 2, 0)[1:],
        "stepped": base[::2, ::3, ::5],
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 4),
        "expanded_rows": torch.tensor([1.0, 2.0]).expand(3, 2),
        "scalar": torch.tensor(2.5),
        "scalar_inside": base[3, 4, 5],
        "empty": torch.zeros(0, 3),
        "thin": torch.zeros(3, 0),
        "vector": base[:, 1, 1],
        "diagonal": base[0, :10, :10].diagonal(),
    }
    with opened(saved(tmp_path, tensors, zipped)) as reader:
        assert_reads(reader, tensors)
        assert dict(reader.ties) == {}


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    step=st.integers(1, 3),
    zipped=st.booleans(),
)
def test_any_permuted_stepped_view_is_read_as_torch_reads_it(tmp_path_factory, shape, order, step, zipped):
    axes = list(range(len(shape)))
    order.shuffle(axes)
    tensor = torch.arange(int(np.prod(shape)), dtype=torch.int16).reshape(shape).permute(axes)[..., ::step]
    with opened(saved(tmp_path_factory.mktemp("view"), {"t": tensor}, zipped)) as reader:
        assert_reads(reader, {"t": tensor})


def test_a_large_transposed_tensor_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("sedarchive.readers.byteranges._WINDOW_BYTES", 256)
    tensors = {
        "t": torch.arange(3000).reshape(50, 60).t(),
        "u": torch.arange(3000).reshape(10, 20, 15).permute(2, 0, 1),
    }
    with opened(saved(tmp_path, tensors)) as reader:
        for name, tensor in tensors.items():
            assert reader.read_rows(name, 3, 11).tobytes() == bytes_of(tensor[3:11])


@FORMATS
def test_shared_storage_is_a_tie_only_for_the_same_view(tmp_path, zipped):
    weight = torch.arange(12.0).reshape(3, 4)
    state = collections.OrderedDict(
        first=weight, second=weight, reshaped=weight.view(4, 3), part=weight[:2], own=weight.clone()
    )
    with opened(saved(tmp_path, state, zipped)) as reader:
        assert dict(reader.ties) == {"second": "first"}
        assert list(reader.specs) == list(state)


@FORMATS
def test_a_module_s_state_dict_with_tied_parameters_and_buffers(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
    model[2].weight = model[0].weight
    with opened(saved(tmp_path, model.state_dict(), zipped)) as reader:
        assert_reads(reader, model.state_dict())
        assert dict(reader.ties) == {"2.weight": "0.weight"}


@FORMATS
def test_parameters_and_tensors_with_attributes_are_plain_tensors(tmp_path, zipped):
    tagged = torch.nn.Parameter(torch.ones(3))
    tagged.tag = "x"
    state = {
        "parameter": torch.nn.Parameter(torch.arange(3.0)),
        "tagged": tagged,
        "buffer": torch.nn.Buffer(torch.ones(2)),
    }
    with opened(saved(tmp_path, state, zipped)) as reader:
        assert_reads(reader, state)


@FORMATS
def test_a_nanogpt_checkpoint_gives_the_model_without_wrappers_and_its_meta(tmp_path, zipped):
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": {f"_orig_mod.transformer.{name}": value for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "model_args": {"n_layer": 2, "bias": False},
        "iter_num": 500,
        "best_val_loss": torch.tensor(2.5),
        "config": {"learning_rate": 6e-4, "betas": (0.9, 0.95), "device": "cpu", "odd": object},
    }
    with opened(saved(tmp_path, checkpoint, zipped)) as reader:
        assert_reads(reader, {f"transformer.{name}": value for name, value in model.state_dict().items()})
        assert reader.meta["iter_num"] == 500
        assert reader.meta["best_val_loss"] == 2.5
        assert reader.meta["model_args"] == {"n_layer": 2, "bias": False}
        assert reader.meta["config"] == {"learning_rate": 6e-4, "betas": [0.9, 0.95], "device": "cpu"}
        assert [(f.check_name, f.step) for f in reader.findings] == [("training_state", 7)]


def test_objects_of_unknown_classes_do_not_block_the_weights(tmp_path):
    state = {
        "state_dict": {"w": torch.ones(2)},
        "hyper_parameters": argparse.Namespace(lr=0.1, layers=[1, 2], where=pathlib.PurePosixPath("/x")),
        "score": np.float64(3.0),
        "array": np.arange(3),
        "counts": collections.Counter("aab"),
        "device": torch.device("cpu"),
        "size": torch.Size([1]),
        "kinds": {"x", "y"},
    }
    with opened(saved(tmp_path, state)) as reader:
        assert list(reader.specs) == ["w"]
        assert reader.meta["hyper_parameters"] == {"lr": 0.1, "layers": [1, 2]}
        (finding,) = reader.findings
        assert finding.check_name == "opaque_global"
        assert finding.severity == "info"
        assert "argparse.Namespace" in finding.detail
        assert "pathlib.PurePosixPath" in finding.detail
        assert "torch.device" not in finding.detail
        assert "builtins" not in finding.detail


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module", "net", "params", "weights"])
def test_weights_are_found_under_their_usual_names(tmp_path, key):
    state = {"epoch": 3, key: {"w": torch.ones(2)}, "optimizer_state_dict": {"state": {0: torch.zeros(2)}}}
    with opened(saved(tmp_path, state)) as reader:
        assert list(reader.specs) == ["w"]
        assert reader.meta == {"epoch": 3}


def test_weights_nested_three_deep_are_found_and_lists_are_flattened(tmp_path):
    state = {"state_dict": {"model": {"params": {"layers": [{"w": torch.ones(2)}, {"w": torch.zeros(3)}]}}}}
    with opened(saved(tmp_path, state)) as reader:
        assert {name: spec.shape for name, spec in reader.specs.items()} == {"layers.0.w": (2,), "layers.1.w": (3,)}


def test_other_candidates_for_the_weights_are_a_warning(tmp_path):
    state = {"ema": {"w": torch.zeros(2)}, "model": {"w": torch.ones(2)}}
    with opened(saved(tmp_path, state)) as reader:
        assert reader.read_rows("w", 0, 1).item() == 1
        (finding,) = reader.findings
        assert (finding.check_name, finding.severity) == ("other_weights", "warning")
        assert "ema" in finding.detail


def test_a_tensor_beside_the_weights_is_a_warning_unless_it_is_a_number(tmp_path):
    state = {"model": {"w": torch.ones(2)}, "mask": torch.ones(3), "best_val_loss": torch.tensor(1.0)}
    with opened(saved(tmp_path, state)) as reader:
        (finding,) = reader.findings
        assert "mask" in finding.detail
        assert "best_val_loss" not in finding.detail
        assert reader.meta == {"best_val_loss": 1.0}


def test_a_flat_checkpoint_leaves_training_state_out_but_keeps_such_names_in_the_model(tmp_path):
    state = {
        "w": torch.ones(2),
        "optim.proj.weight": torch.ones(3),
        "optimizer": {"m": torch.ones(4)},
        "rng_state": torch.ones(5),
        "scaler": torch.ones(6),
    }
    with opened(saved(tmp_path, state)) as reader:
        assert list(reader.specs) == ["w", "optim.proj.weight", "scaler"]


def test_entries_that_cannot_be_read_are_named(tmp_path):
    state = {"w": torch.ones(2), "sparse": torch.eye(2).to_sparse(), "version": 3, "array": np.ones(2)}
    with opened(saved(tmp_path, state)) as reader:
        assert list(reader.specs) == ["w"]
        by_severity = {f.severity: f.detail for f in reader.findings if f.check_name == "dropped_entry"}
        assert "version" in by_severity["info"]
        assert "sparse" in by_severity["warning"]
        assert "array" in by_severity["warning"]


def test_a_bare_tensor_is_a_checkpoint_of_one(tmp_path):
    with opened(saved(tmp_path, torch.ones(2, 2))) as reader:
        assert list(reader.specs) == ["tensor"]


def test_a_file_without_tensors_is_refused_by_its_keys(tmp_path):
    with pytest.raises(UnreadableCheckpointError, match="its keys are epoch, optimizer"):
        opened(saved(tmp_path, {"epoch": 1, "optimizer": {"state": {0: torch.ones(2)}}}))


def test_a_pickled_module_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(UnreadableCheckpointError, match="state_dict"):
        opened(saved(tmp_path, torch.nn.Linear(2, 2)))


def test_a_torchscript_file_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/constants.pkl", b"N.")
    with pytest.raises(UnreadableCheckpointError, match="TorchScript"):
        opened(path)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (["_orig_mod.a.w", "_orig_mod.b"], ["a.w", "b"]),
        (["module.module._orig_mod.a"], ["a"]),
        (["a._fsdp_wrapped_module.b._checkpoint_wrapped_module.c"], ["a.b.c"]),
        (["model.a", "submodule.b", "a.module"], ["model.a", "submodule.b", "a.module"]),
        (["module.a", "a", "module.b"], ["module.a", "a", "b"]),
    ],
)
def test_names_lose_wrappers_unless_two_would_collide(raw, clean):
    assert clean_names(raw) == dict(zip(raw, clean, strict=True))


def test_a_compressed_file_is_spooled_and_the_spool_goes_away(tmp_path):
    tensors = {"a": torch.arange(1000.0).reshape(10, 100), "b": torch.zeros(500, 20).t(), "c": torch.ones(3)}
    path = recompressed(saved(tmp_path, {"model": tensors, "optimizer": {"m": torch.ones(7)}}), tmp_path / "z.pt")
    (tmp_path / "spool").mkdir()
    with opened(path, tmp_path / "spool") as reader:
        assert_reads(reader, tensors)
    assert list((tmp_path / "spool").iterdir()) == []
    with opened(path) as reader:
        assert_reads(reader, tensors)


def test_a_file_compressed_by_other_methods_is_refused(tmp_path):
    path = recompressed(saved(tmp_path, {"a": torch.ones(3)}), tmp_path / "z.pt", zipfile.ZIP_BZIP2)
    with pytest.raises(UnreadableCheckpointError, match="deflate"):
        opened(path)


def test_a_file_of_a_big_endian_machine_is_read_in_its_order(tmp_path):
    little = saved(
        tmp_path,
        {"a": torch.ones(1), "c": torch.ones(1, dtype=torch.complex64), "h": torch.ones(1, dtype=torch.bfloat16)},
    )
    floats, halves = np.arange(4, dtype=">f4"), np.array([0x3F80], dtype=">u2")
    records = {"0": floats[1:2], "1": floats[2:4], "2": halves}
    with zipfile.ZipFile(little) as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for entry in old.infolist():
            data = b"big" if entry.filename.endswith("byteorder") else old.read(entry)
            key = entry.filename.rpartition("/")[2]
            is_storage = "/data/" in entry.filename
            new.writestr(entry.filename, records[key].tobytes() if is_storage else data)
    with opened(tmp_path / "b.pt") as reader:
        assert reader.read_rows("a", 0, 1).item() == 1
        assert reader.read_rows("c", 0, 1).item() == 2 + 3j
        assert reader.read_rows("h", 0, 1).item() == 0x3F80


def test_wrong_checksums_in_a_zip_are_not_held_against_it(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, {"a": torch.arange(5.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    with opened(path) as reader:
        assert_reads(reader, {"a": torch.arange(5.0)})


def test_sharded_bin_files_are_one_checkpoint(tmp_path):
    saved(tmp_path, {"a": torch.ones(2)}, name="pytorch_model-00001-of-00002.bin")
    saved(tmp_path, {"b": torch.zeros(3)}, name="pytorch_model-00002-of-00002.bin")
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with opened(tmp_path) as reader:
        assert list(reader.specs) == ["a", "b"]
        assert reader.read_rows("b", 0, 3).tolist() == [[0], [0], [0]]
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UnreadableCheckpointError, match=r"00002-of-00002\.bin that it names is missing"):
        opened(tmp_path)


@FORMATS
def test_a_fingerprint_of_a_torch_file_sees_its_pickle(tmp_path, zipped):
    before = fingerprint(saved(tmp_path, {"a": torch.ones(2)}, zipped))["files"][0]["header_sha256"]
    after = fingerprint(saved(tmp_path, {"b": torch.ones(2)}, zipped))["files"][0]["header_sha256"]
    assert before != after


def test_reading_a_torch_file_does_not_import_torch(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(2)})
    script = (
        "import sys; from pathlib import Path; from sedarchive.history import CheckpointSource;"
        "from sedarchive.readers import open_checkpoint;"
        "reader = open_checkpoint(CheckpointSource(0, 'a', Path(sys.argv[1])));"
        "assert reader.read_rows('a', 0, 2).sum() == 2;"
        "assert not {'torch', 'dask', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
