"""Safetensors files written by the real library, and files that break each rule of the format."""

import json
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

from sedarchive.errors import UnreadableCheckpointError
from sedarchive.history import DTYPES, CheckpointSource
from sedarchive.readers import fingerprint, open_checkpoint

torch.set_num_threads(1)

DTYPES_WRITTEN = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.bool, torch.complex64,
]  # fmt: skip


def opened(path, step=7):
    return open_checkpoint(CheckpointSource(step, path.name, path))


def bytes_of(tensor):
    plain = tensor.detach().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def random_tensor(dtype, shape):
    n_bytes = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size()
    raw = np.random.default_rng(n_bytes).integers(0, 2 if dtype == torch.bool else 256, n_bytes, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def write_raw(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write_shards(folder, shards, weight_map=None):
    folder.mkdir()
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    found = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    index = {"metadata": {}, "weight_map": found if weight_map is None else weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_every_dtype_is_read_bit_exactly_in_odd_row_ranges(tmp_path):
    tensors = {str(dtype): random_tensor(dtype, (7, 3, 2)) for dtype in DTYPES_WRITTEN}
    save_file(tensors, tmp_path / "a.safetensors")
    with opened(tmp_path / "a.safetensors") as reader:
        assert set(reader.specs) == set(tensors)
        for name, tensor in tensors.items():
            spec = reader.specs[name]
            assert (spec.shape, f"torch.{spec.dtype}") == ((7, 3, 2), name)
            for start, stop in [(0, 7), (1, 4), (6, 7), (3, 3)]:
                rows = reader.read_rows(name, start, stop)
                assert rows.shape == (stop - start, 6)
                assert rows.dtype == np.dtype(DTYPES[spec.dtype].storage)
                assert rows.tobytes() == bytes_of(tensor[start:stop])


def test_scalars_vectors_and_empty_tensors_are_rows_by_columns(tmp_path):
    tensors = {
        "scalar": torch.tensor(3.5),
        "vector": torch.arange(5),
        "empty": torch.zeros(0, 4),
        "thin": torch.zeros(3, 0),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    with opened(tmp_path / "a.safetensors") as reader:
        assert reader.read_rows("scalar", 0, 1).tolist() == [[3.5]]
        assert reader.read_rows("vector", 1, 3).tolist() == [[1], [2]]
        assert reader.read_rows("empty", 0, 0).shape == (0, 4)
        assert reader.read_rows("thin", 0, 3).shape == (3, 0)


def test_rows_belong_to_the_caller_and_may_be_changed(tmp_path):
    save_file({"a": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with opened(tmp_path / "a.safetensors") as reader:
        reader.read_rows("a", 0, 2)[:] = 9
        assert reader.read_rows("a", 0, 2).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (0, 3), (2, 1)])
def test_rows_outside_the_tensor_are_an_index_error(tmp_path, start, stop):
    save_file({"a": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with opened(tmp_path / "a.safetensors") as reader, pytest.raises(IndexError):
        reader.read_rows("a", start, stop)


def test_threads_read_different_tensors_of_one_reader(tmp_path):
    tensors = {f"t{i}": torch.full((64, 128), float(i)) for i in range(8)}
    save_file(tensors, tmp_path / "a.safetensors")
    with opened(tmp_path / "a.safetensors") as reader, ThreadPoolExecutor(4) as pool:
        jobs = [(f"t{i % 8}", i % 64) for i in range(400)]
        rows = pool.map(lambda job: reader.read_rows(job[0], job[1], job[1] + 1), jobs)
        assert all((row == float(name[1:])).all() for row, (name, _) in zip(rows, jobs, strict=True))


def test_a_closed_reader_refuses_to_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    reader = opened(tmp_path / "a.safetensors")
    reader.close()
    reader.close()
    with pytest.raises(UnreadableCheckpointError, match="closed"):
        reader.read_rows("a", 0, 1)


def test_a_file_cut_while_it_is_open_is_an_error_not_a_crash(tmp_path):
    save_file({"a": torch.ones(4096)}, tmp_path / "a.safetensors")
    with opened(tmp_path / "a.safetensors") as reader:
        with (tmp_path / "a.safetensors").open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(UnreadableCheckpointError, match="cut"):
            reader.read_rows("a", 0, 4096)


def test_save_model_reports_the_dropped_name_as_a_tie(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = torch.nn.Embedding(5, 3)
            self.lm_head = torch.nn.Linear(3, 5, bias=False)
            self.lm_head.weight = self.wte.weight

    model = Tied()
    save_model(model, str(tmp_path / "a.safetensors"))
    with opened(tmp_path / "a.safetensors") as reader:
        assert set(reader.specs) == {"wte.weight", "lm_head.weight"}
        assert dict(reader.ties) == {"wte.weight": "lm_head.weight"}
        for name in reader.specs:
            assert reader.specs[name].name == name
            assert reader.read_rows(name, 0, 5).tobytes() == bytes_of(model.wte.weight)


def test_a_tensor_named_like_a_value_of_the_metadata_is_no_tie(tmp_path):
    save_file({"pt": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    with opened(tmp_path / "a.safetensors") as reader:
        assert dict(reader.ties) == {}
        assert list(reader.specs) == ["pt"]


def test_shards_are_one_checkpoint(tmp_path):
    shards = {"model-00001-of-00002.safetensors": {"a": torch.ones(2), "b": torch.zeros(3)}}
    shards["model-00002-of-00002.safetensors"] = {"c": torch.full((2, 2), 5.0)}
    with opened(write_shards(tmp_path / "step_3", shards)) as reader:
        assert list(reader.specs) == ["a", "b", "c"]
        assert reader.read_rows("c", 1, 2).tolist() == [[5.0, 5.0]]
        assert reader.read_rows("a", 0, 2).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": "one.safetensors", "b": "two.safetensors"}, "two.safetensors that it names is missing"),
        ({"a": "../one.safetensors"}, "not a file of its folder"),
        ({"a": "/etc/passwd"}, "not a file of its folder"),
        ({"a": "..\\one.safetensors"}, "not a file of its folder"),
        ({"a": ".."}, "not a file of its folder"),
        ({"a": "one.safetensors", "z": "one.safetensors"}, "does not hold the tensor 'z'"),
        ({}, "empty"),
        ({"a": 3}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path, weight_map, words):
    save_file({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    folder = write_shards(tmp_path / "step_3", {"one.safetensors": {"a": torch.ones(2)}}, weight_map)
    with pytest.raises(UnreadableCheckpointError, match=words) as caught:
        opened(folder)
    assert "index.json" in str(caught.value)


def test_a_tensor_that_the_index_does_not_name_is_refused(tmp_path):
    shards = {"one.safetensors": {"a": torch.ones(2), "b": torch.ones(2)}}
    with pytest.raises(UnreadableCheckpointError, match="does not name the tensor 'b'"):
        opened(write_shards(tmp_path / "step_3", shards, {"a": "one.safetensors"}))


def test_shards_without_an_index_are_refused_with_words(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UnreadableCheckpointError, match="no index"):
        opened(tmp_path)


def test_a_folder_of_a_foreign_format_or_without_weights_is_refused_with_words(tmp_path):
    with pytest.raises(UnreadableCheckpointError, match="no weights"):
        opened(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"x")
    with pytest.raises(UnreadableCheckpointError, match=r"\.metadata"):
        opened(tmp_path)


def test_a_folder_prefers_the_model_to_optimizer_and_adapter(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    save_file({"o": torch.ones(2)}, tmp_path / "optimizer.safetensors")
    save_file({"l": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    with opened(tmp_path) as reader:
        assert list(reader.specs) == ["a"]
    (tmp_path / "weights.safetensors").unlink()
    with opened(tmp_path) as reader:
        assert list(reader.specs) == ["l"]


def test_a_folder_with_two_candidates_is_never_guessed(tmp_path):
    for name in ("a", "b"):
        save_file({"a": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UnreadableCheckpointError, match=r"a\.safetensors, b\.safetensors"):
        opened(tmp_path)


GOOD = {"a": entry()}
BROKEN_HEADERS = {
    "a hole before the first tensor": ({"a": entry(offsets=(4, 12))}, bytes(12)),
    "a hole between tensors": ({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "an overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "bytes behind the last tensor": (GOOD, bytes(9)),
    "bytes missing": (GOOD, bytes(7)),
    "fewer bytes than the shape": ({"a": entry(shape=(3,))}, bytes(8)),
    "a shape whose product wraps 64 bits": ({"a": entry(shape=(2**32, 2**31, 4), offsets=(0, 0))}, b""),
    "a negative axis": ({"a": entry(shape=(-1, -2))}, bytes(8)),
    "negative offsets": ({"a": entry(offsets=(-8, 0))}, bytes(8)),
    "offsets the wrong way": ({"a": entry(offsets=(8, 0))}, bytes(8)),
    "a fraction as an axis": ({"a": entry(shape=(2.0,))}, bytes(8)),
    "a boolean as an axis": ({"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, bytes(8)),
    "three offsets": ({"a": entry(offsets=(0, 8, 9))}, bytes(8)),
    "an unknown dtype": ({"a": entry(dtype="F4")}, bytes(8)),
    "a dtype that is no text": ({"a": entry(dtype=[1])}, bytes(8)),
    "a missing field": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "an unknown field": ({"a": entry() | {"x": 1}}, bytes(8)),
    "an entry that is no object": ({"a": 3}, bytes(8)),
    "metadata that is no map": ({"__metadata__": [], "a": entry()}, bytes(8)),
    "metadata with a number": ({"__metadata__": {"x": 1}, "a": entry()}, bytes(8)),
    "a key twice": (b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", bytes(8)),
    "a list": (b"[]", b""),
    "a leading space": (b" " + json.dumps(GOOD).encode(), bytes(8)),
    "no JSON": (b"{nonsense", bytes(8)),
    "no UTF-8": (b'{"\xff":1}', bytes(8)),
    "endless nesting": (b'{"a":' + b"[" * 200_000, b""),
    "an integer of 10000 digits": (b'{"a":' + b"9" * 10_000 + b"}", b""),
    "no tensor": ({}, b""),
    "an empty name": ({"": entry()}, bytes(8)),
    "half a surrogate in a name": (json.dumps({"\ud800": entry()}).encode(), bytes(8)),
    "an empty tensor of absurd shape": ({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}, b""),
}


@pytest.mark.parametrize("case", BROKEN_HEADERS)
def test_a_broken_header_is_refused_with_the_file_named(tmp_path, case):
    header, data = BROKEN_HEADERS[case]
    path = write_raw(tmp_path / "a.safetensors", header, data)
    with pytest.raises(UnreadableCheckpointError, match=r"a\.safetensors"):
        opened(path)


@pytest.mark.parametrize("length", [0, 1, 10**6, 99_999_999, 10**12, 2**64 - 1])
def test_a_header_length_that_the_file_does_not_have_is_refused(tmp_path, length):
    path = write_raw(tmp_path / "a.safetensors", GOOD, bytes(8), length)
    with pytest.raises(UnreadableCheckpointError, match=r"header|cannot be read"):
        opened(path)


def test_the_unbroken_header_of_these_tests_is_read(tmp_path):
    with opened(write_raw(tmp_path / "a.safetensors", GOOD, bytes(8))) as reader:
        assert reader.specs["a"].shape == (2,)


def test_a_fingerprint_tells_size_time_and_header_but_not_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(100_000)}, path)
    (before,) = fingerprint(path)["files"]
    assert before["path"] == "a.safetensors"
    assert before["size"] == path.stat().st_size
    assert before["mtime_ns"] == path.stat().st_mtime_ns
    save_file({"a": torch.zeros(100_000)}, path)
    (same,) = fingerprint(path)["files"]
    assert same["header_sha256"] == before["header_sha256"]
    save_file({"b": torch.zeros(100_000)}, path)
    (other,) = fingerprint(path)["files"]
    assert other["header_sha256"] != before["header_sha256"]
    assert json.loads(json.dumps(other)) == other


def test_the_fingerprint_of_a_folder_names_its_shards_and_index(tmp_path):
    shards = {"x.safetensors": {"a": torch.ones(2)}, "y.safetensors": {"c": torch.ones(2)}}
    folder = write_shards(tmp_path / "step_3", shards)
    names = [file["path"] for file in fingerprint(folder)["files"]]
    assert names == ["model.safetensors.index.json", "x.safetensors", "y.safetensors"]
    (folder / "y.safetensors").unlink()
    with pytest.raises(UnreadableCheckpointError, match="missing"):
        fingerprint(folder)
