"""Restore: an archived checkpoint comes back bit-exact, and other tools load it."""

import json

import ml_dtypes
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import numpy_bits, walk, write_safetensors

from sedarchive.archive import Archive
from sedarchive.errors import DamagedArchiveError, UnknownNameError
from sedarchive.floats import decode
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.restore import restore

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
EIGHTS = [torch.float8_e4m3fn, torch.float8_e5m2]
WHOLES = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


def state_at(step):
    """One tensor of every kind: random bits too, so that NaN payloads and infinities are among the floats."""
    generator = torch.Generator().manual_seed(step)
    bits = torch.randint(0, 256, (24, 16), generator=generator, dtype=torch.uint8)
    state = {f"bits.{str(dtype)[6:]}": bits.clone().view(dtype) for dtype in [*FLOATS, *EIGHTS, *WHOLES]}
    state |= {f"flat.{str(dtype)[6:]}": torch.randn(9, generator=generator).to(dtype) for dtype in FLOATS}
    return state | {
        "flags": torch.rand(3, 4, generator=generator) > 0.5,
        "one.number": torch.tensor(float(step)),
        "one.whole": torch.tensor(step),
        "none.columns": torch.zeros(3, 0),
        "none.rows": torch.zeros(0, 5),
        "four.axes": torch.randn(2, 3, 4, 5, generator=generator),
        "h.0.attn.bias": torch.ones(1, 1, 4, 4).tril().bool(),
        "position_ids": torch.arange(7)[None],
        "negative.zero": torch.tensor([-0.0, 0.0, float("nan"), float("inf")]),
    }


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert numpy_bits(found[name]) == numpy_bits(tensor), name


@pytest.mark.parametrize("codec", ["none", "lz4", "small"])
def test_every_dtype_and_shape_comes_back_to_the_bit(tmp_path, codec):
    paths = write_safetensors(tmp_path / "run", [state_at(step) for step in range(10)], steps=range(10))
    ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions(codec=codec))
    run = Archive(tmp_path / "a.zarr").run("run")
    for step in (0, 4, 9):
        restore(run, step, tmp_path / "out" / f"{step}.safetensors")
        assert_same(load_file(tmp_path / "out" / f"{step}.safetensors"), load_file(paths[step]))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_comes_back_with_its_ties_written_out_and_named(tmp_path, legacy):
    state = walk(1)[0]
    state["lm_head.weight"] = state["wte.weight"]
    state["strided"] = torch.arange(12.0).reshape(3, 4).T
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run/ckpt_5.pt", _use_new_zipfile_serialization=not legacy)
    ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    commit = restore(Archive(tmp_path / "a.zarr").run("run"), 5, tmp_path / "out.safetensors")
    assert_same(load_file(tmp_path / "out.safetensors"), torch.load(tmp_path / "run/ckpt_5.pt", weights_only=True))
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ties"]) == {"lm_head.weight": "wte.weight"}
        assert file.metadata()["step"] == "5"
    assert commit.tensors["lm_head.weight"].shared_with == "wte.weight"
    stored = [path.name for path in (tmp_path / "a.zarr/run/theta").iterdir()]
    assert not any("lm_head" in name for name in stored)  # tied bytes are stored once


def test_what_is_restored_is_ingested_to_the_same_digest(tmp_path):
    write_safetensors(tmp_path / "run", walk(3))
    ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    run = Archive(tmp_path / "a.zarr").run("run")
    for step in run.steps:
        restore(run, step, tmp_path / "again" / f"step_{step}.safetensors")
    ingest([tmp_path / "again"], tmp_path / "b.zarr", IngestOptions())
    again = Archive(tmp_path / "b.zarr").run("again")
    assert [commit.digest for commit in again.commits] == [commit.digest for commit in run.commits]


@pytest.mark.parametrize("dtype", EIGHTS)
def test_float8_decodes_as_torch_and_ml_dtypes_do(tmp_path, dtype):
    every = torch.arange(256, dtype=torch.uint8)
    found = decode(every.numpy(), str(dtype)[6:])
    wanted = every.numpy().view(getattr(ml_dtypes, str(dtype)[6:])).astype("f4")
    assert found.tobytes() == wanted.tobytes()


def test_a_step_that_is_not_there_is_said_with_its_neighbours(tmp_path):
    write_safetensors(tmp_path / "run", walk(3))
    ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    with pytest.raises(UnknownNameError, match="no step 11; the nearest are 10, 20, 0"):
        restore(Archive(tmp_path / "a.zarr").run("run"), 11, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_damaged_checkpoint_is_not_restored_over_a_good_file(tmp_path):
    write_safetensors(tmp_path / "run", walk(3))
    ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    chunk = next(path for path in (tmp_path / "a.zarr/run/theta/wte.weight/c").rglob("*") if path.is_file())
    data = bytearray(chunk.read_bytes())
    data[17] ^= 8
    chunk.write_bytes(data)
    save_file({"mine": torch.ones(2)}, tmp_path / "out.safetensors")
    before = (tmp_path / "out.safetensors").read_bytes()
    with pytest.raises(DamagedArchiveError, match=r"wte\.weight"):
        restore(Archive(tmp_path / "a.zarr").run("run"), 10, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.partial")] == []
