"""Element types from file to table: each comes back to the bit, and narrow floats are analysed as their values."""

import json

import numpy as np
import pytest
import torch
from conftest import Analysis
from safetensors.torch import load_file, save_file
from small import numpy_bits, walk, write_safetensors, write_torch

from sedarchive.archive import Archive
from sedarchive.errors import UnreadableCheckpointError
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.readers import find_runs, open_checkpoint
from sedarchive.restore import restore

torch.set_num_threads(1)

FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip
WHOLES = [
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    torch.bool,
]  # fmt: skip
ALL = [*FLOATS, *WHOLES]


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def any_bits(dtype, shape, seed):
    """A tensor of random bits: not a number and infinities too; of flags, random ones."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(2, shape, generator=generator).bool()
    n_bytes = torch.Size(shape).numel() * torch.empty((), dtype=dtype).element_size()
    bits = torch.randint(256, (n_bytes,), generator=generator, dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """What was saved by either library at three steps, and what came back: container -> states."""
    folder = tmp_path_factory.mktemp("bits")
    shapes = {"weight": (5, 7), "bias": (9,), "scale": (), "none": (0, 3), "stack": (2, 3, 4)}
    states = [
        {f"{name_of(dtype)}.{name}": any_bits(dtype, shape, seed) for dtype in ALL for name, shape in shapes.items()}
        for seed in range(3)
    ]
    write_safetensors(folder / "runs" / "safetensors", states)
    write_torch(folder / "runs" / "torch", states)
    write_torch(folder / "runs" / "legacy", states, legacy=True)
    reports = ingest([folder / "runs"], folder / "a.zarr", IngestOptions())
    assert [report.error for report in reports] == [None] * 3
    found = {}
    for run in Archive(folder / "a.zarr").runs():
        for step in run.steps:
            restore(run, step, folder / "out.safetensors")
            found.setdefault(run.name, []).append(load_file(folder / "out.safetensors"))
    return states, found


@pytest.mark.parametrize("container", ["safetensors", "torch", "legacy"])
@pytest.mark.parametrize("dtype", ALL, ids=name_of)
def test_what_either_library_wrote_is_restored_to_the_bit(restored, dtype, container):
    saved, found = restored
    assert len(found[container]) == len(saved)
    for state, back in zip(saved, found[container], strict=True):
        assert state.keys() == back.keys()
        for name in (name for name in state if name.startswith(f"{name_of(dtype)}.")):
            assert (back[name].dtype, back[name].shape) == (dtype, state[name].shape)
            assert numpy_bits(back[name]) == numpy_bits(state[name])


def narrowed(state):
    """Each tensor rounded to the type in its name; one of powers of two alone has no negative numbers."""
    dtypes = {name: getattr(torch, name.partition(".")[0]) for name in state}
    return {
        name: (value.abs() if dtypes[name] == torch.float8_e8m0fnu else value).to(dtypes[name])
        for name, value in state.items()
    }


def upcast(state):
    """The same values in float32, those of float32 and float64 in float64."""
    return {name: value.double() if value.element_size() > 2 else value.float() for name, value in state.items()}


def history(shapes, n, dtypes):
    """Random walk in tensors of several element types."""
    of_all = {f"{name_of(dtype)}.{name}": shape for dtype in dtypes for name, shape in shapes.items()}
    return [narrowed(state) for state in walk(n, shapes=of_all)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A history that holds every type, as either library writes it, and the one of the upcast values; computed."""
    folder = tmp_path_factory.mktemp("dtypes")
    states = history({"weight": (9, 6), "bias": (6,)}, 8, FLOATS)
    write_safetensors(folder / "runs" / "safetensors", states)
    write_torch(folder / "runs" / "torch", states)
    write_safetensors(folder / "runs" / "upcast", [upcast(state) for state in states])
    made = Analysis(folder / "archive.zarr", folder / "archive.duckdb")
    made.ingest(folder / "runs")
    made.compute(inference=False, scopes=("all", *(f"{name_of(dtype)}={name_of(dtype)}.*" for dtype in FLOATS)))
    return made, states


def spectra(analysis, run, dtype):
    sql = "SELECT step, matrix, sigma, resolution, n_resolved, method, status FROM matrix_spectra WHERE run = ?"
    return sorted(row for row in analysis.rows(sql, [run]) if row[1] == f"{dtype}.weight")


def window_sigmas(analysis, run, scope):
    sql = "SELECT window_size, step, k, sigma, ratio FROM window_sigmas WHERE run = ? AND scope = ?"
    return sorted(analysis.rows(sql, [run, scope]), key=lambda row: row[:3])


@pytest.mark.parametrize("dtype", [*map(name_of, FLOATS)])
def test_the_spectra_of_matrices_are_those_of_the_upcast_weights_to_the_bit(small, dtype):
    analysis, states = small
    found = spectra(analysis, "safetensors", dtype)
    assert [step for step, *_ in found] == [10 * at for at in range(len(states))]
    for (_, _, sigma, *_), state in zip(found, states, strict=True):
        dense = np.linalg.svd(state[f"{dtype}.weight"].double().numpy(), compute_uv=False)
        np.testing.assert_allclose(sigma, dense, rtol=0, atol=1e-9 * dense[0])
    for run in ("torch", "upcast"):
        assert spectra(analysis, run, dtype) == found


@pytest.mark.parametrize("scope", ["all", *map(name_of, FLOATS)])
def test_the_windows_are_those_of_the_upcast_weights_to_the_bit(small, scope):
    analysis, states = small
    found = window_sigmas(analysis, "safetensors", scope)
    flat = [
        torch.cat([v.double().flatten() for name, v in state.items() if scope in ("all", name.partition(".")[0])])
        for state in states
    ]
    updates = torch.stack(flat).diff(dim=0).numpy()
    for step, first in ((50, 0), (60, 1), (70, 2)):
        sigma = [row[3] for row in found if row[:2] == (5, step)]
        dense = np.linalg.svd(updates[first : first + 5], compute_uv=False)
        np.testing.assert_allclose(sigma, dense, rtol=1e-9)
    for run in ("torch", "upcast"):
        assert window_sigmas(analysis, run, scope) == found


def test_a_matrix_that_is_cut_into_other_slabs_has_the_same_spectrum(analysis, tmp_path):
    states = history({"weight": (320, 512)}, 6, [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
    write_safetensors(tmp_path / "runs" / "safetensors", states)
    write_safetensors(tmp_path / "runs" / "upcast", [upcast(state) for state in states])
    analysis.ingest(tmp_path / "runs")
    stored, wide = (Archive(analysis.archive).run(run).arrays for run in ("safetensors", "upcast"))
    assert all(stored[name].grid.slab_rows != wide[name].grid.slab_rows for name in stored)
    analysis.compute(inference=False, scopes=tuple(f"tensor:{name}" for name in stored), every=5)
    for name in stored:
        dtype = name.partition(".")[0]
        assert spectra(analysis, "safetensors", dtype) == spectra(analysis, "upcast", dtype)
        found, wanted = (window_sigmas(analysis, run, f"tensor:{name}") for run in ("safetensors", "upcast"))
        assert len(found) == 5
        np.testing.assert_allclose([row[3] for row in found], [row[3] for row in wanted], rtol=1e-12)


def test_whole_numbers_and_flags_are_kept_and_not_analysed_and_it_is_said_why(analysis, tmp_path):
    shape = (6, 12)
    states = [
        {name_of(dtype): any_bits(dtype, shape, seed) for dtype in WHOLES} | {"h.0.mlp.c_fc.weight": torch.randn(shape)}
        for seed in range(3)
    ]
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    analysis.compute(inference=False)
    rows = analysis.rows("SELECT tensor, dtype, kind, skipped_reason FROM tensors WHERE kind = 'integer'")
    assert sorted(rows) == sorted(
        (name, name, "integer", f"{name} elements: stored and restored, never differenced")
        for name in map(name_of, WHOLES)
    )
    assert analysis.rows("SELECT DISTINCT matrix FROM matrix_spectra") == [("h.0.mlp.c_fc.weight",)]
    assert analysis.rows("SELECT n_parameters FROM runs") == [(72,)]


def packed(n_bytes):
    """A tensor of two numbers a byte."""
    return torch.arange(n_bytes, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_tensor_of_half_bytes_is_left_out_with_a_word_and_the_others_are_read(tmp_path, sharded):
    state = {"kept.weight": torch.randn(3, 4), "half.weight": packed(6), "last.bias": torch.randn(5)}
    folder = tmp_path / "step_1"
    folder.mkdir()
    if sharded:
        names = dict(zip(state, ("a.safetensors", "b.safetensors", "b.safetensors"), strict=True))
        for file in set(names.values()):
            save_file({name: value for name, value in state.items() if names[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    else:
        save_file(state, folder / "model.safetensors")
    (run,) = find_runs(tmp_path)
    with open_checkpoint(run.checkpoints[0]) as reader:
        assert set(reader.specs) == set(state) - {"half.weight"}
        for name in reader.specs:
            assert reader.read_rows(name, 0, reader.specs[name].rows).tobytes() == numpy_bits(state[name])
        (finding,) = reader.findings
    assert (finding.check_name, finding.severity) == ("dropped_entry", "warning")
    assert "half.weight" in finding.detail


def test_a_file_of_half_bytes_alone_holds_no_tensor_and_their_bytes_are_counted(tmp_path):
    save_file({"half.weight": packed(6)}, tmp_path / "step_1.safetensors")
    with pytest.raises(UnreadableCheckpointError, match="holds no tensor"):
        open_checkpoint(find_runs(tmp_path)[0].checkpoints[0])
    text = (tmp_path / "step_1.safetensors").read_bytes()
    for old, new in ((b"[12]", b"[13]"), (b"[12]", b"[14]"), (b"[12]", b"[-1]"), (b'"F4"', b'"F5"')):
        assert old in text
        (tmp_path / "step_1.safetensors").write_bytes(text.replace(old, new))
        with pytest.raises(UnreadableCheckpointError, match=r"not as many|whole numbers|unknown dtype"):
            open_checkpoint(find_runs(tmp_path)[0].checkpoints[0])
