"""Spectral warm-up: singular values of a checkpoint, random singular vectors, and a model that transformers loads."""

import numpy as np
import pytest
import torch
from models import build
from safetensors.torch import load_file
from small import data_of, run_here
from transformers import AutoModelForCausalLM

from sedarchive.matrix.warmup import haar_columns, resampled

DEPTHS = {"gpt2": "n_layer", "gpt_neox": "num_hidden_layers", "llama": "num_hidden_layers"}
WIDER = {
    "gpt2": {"n_embd": 24},
    "gpt_neox": {"hidden_size": 24, "intermediate_size": 40},
    "llama": {"hidden_size": 24, "intermediate_size": 40},
}


@pytest.fixture(scope="module", params=DEPTHS)
def place(request, tmp_path_factory):
    """A model of two layers, archived at one step and with its spectra in tables."""
    root = tmp_path_factory.mktemp(request.param)
    model = build(request.param, **{DEPTHS[request.param]: 2})
    model.save_pretrained(root / "runs/checkpoint-10")
    at = ["--archive", root / "a.zarr", "--db", root / "a.duckdb"]
    run_here("ingest", root / "runs", "--run", "r", *at[:2])
    run_here("compute", "--no-inference", *at)
    return at, model, request.param


def loaded(folder):
    """The model, with strict names."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def parts_of(name, tensor, kind):
    """Logical matrices of a tensor, cut by hand."""
    if "query_key_value" in name:
        return [part.reshape(-1, 12) for part in tensor.reshape(6, 3, 2, 12).transpose(0, 1).numpy()]
    if "c_attn" in name:
        return list(tensor.reshape(12, 3, 12).transpose(0, 1).numpy())
    return [tensor.numpy()]


@pytest.mark.parametrize("scale", ["frobenius", "spectral", "none"])
def test_every_matrix_has_the_singular_values_of_the_checkpoint_times_one_number(place, tmp_path, scale):
    at, model, kind = place
    run_here("warmup", "r", "-o", tmp_path / "w", "--scale", scale, *at)
    found, before = loaded(tmp_path / "w").state_dict(), model.state_dict()
    matrices = [name for name in before if before[name].ndim == 2]
    assert len(matrices) >= 8
    for name in matrices:
        for new, old in zip(parts_of(name, found[name], kind), parts_of(name, before[name], kind), strict=True):
            sigma, wanted = (np.linalg.svd(one.astype("f8"), compute_uv=False) for one in (new, old))
            m, n = new.shape
            s = {
                "frobenius": 0.02 * np.sqrt(m * n) / np.linalg.norm(wanted),
                "spectral": 0.02 * (np.sqrt(m) + np.sqrt(n)) / wanted[0],
                "none": 1.0,
            }[scale]
            assert np.abs(sigma - s * wanted).max() < 1e-5 * s * wanted[0], name
            assert np.abs(new - s * old).max() > 0.05 * s * np.abs(old).max(), name
    for name in before:
        if before[name].ndim == 1:
            assert set(found[name].tolist()) == {float("bias" not in name)}, name


def test_another_width_gets_the_resampled_spectrum_and_the_norms_of_its_own_start(place, tmp_path):
    at, model, kind = place
    other = build(kind, **{DEPTHS[kind]: 2}, **WIDER[kind])
    other.save_pretrained(tmp_path / "like")
    run_here("warmup", "r", "-o", tmp_path / "w", "--like", tmp_path / "like", *at)
    found, start, before = loaded(tmp_path / "w").state_dict(), other.state_dict(), model.state_dict()
    for name in start:
        if start[name].ndim != 2:
            assert torch.equal(found[name], start[name]), name
            continue
        assert torch.linalg.norm(found[name]) == pytest.approx(torch.linalg.norm(start[name]).item(), rel=1e-5)
    name = next(
        name for name in start if name.endswith(("mlp.c_proj.weight", "dense_4h_to_h.weight", "down_proj.weight"))
    )
    sigma, old = (np.linalg.svd(one[name].double().numpy(), compute_uv=False) for one in (found, before))
    assert (len(sigma), len(old)) == (24, 12)
    wanted = np.exp(np.interp((np.arange(24) + 0.5) / 24, (np.arange(12) + 0.5) / 12, np.log(old)))
    assert np.allclose(sigma / sigma[0], wanted / wanted[0], atol=1e-5)


def test_a_seed_gives_the_same_model_and_another_seed_another(place, tmp_path):
    at, _, _ = place
    said = data_of(run_here("warmup", "r", "-o", tmp_path / "a", "--json", *at))
    assert said["kept"] == []
    run_here("warmup", "r", "-o", tmp_path / "b", *at)
    run_here("warmup", "r", "-o", tmp_path / "c", "--seed", 1, *at)
    a, b, c = (load_file(tmp_path / folder / "model.safetensors") for folder in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a if a[name].ndim == 2)


def test_mistakes_are_told_with_a_way_out(place, tmp_path):
    at, _, _ = place
    for args, code, words in (
        (["--scale", "frobenus"], 2, "did you mean 'frobenius'"),
        (["--step", 11], 4, "the nearest are 10"),
        (["--like", tmp_path / "none"], 1, "none"),
    ):
        said = run_here("warmup", "r", "-o", tmp_path / "w", *args, *at, code=code).stderr
        assert words in " ".join(said.replace("│", " ").split()), said
    missing = [*at[:2], "--db", tmp_path / "none.duckdb"]
    assert "sedarchive compute" in run_here("warmup", "r", "-o", tmp_path / "w", *missing, code=1).stderr
    assert not (tmp_path / "w").exists()


def test_haar_columns_are_orthonormal_and_have_no_preferred_sign():
    rng = np.random.default_rng(0)
    first = np.array([haar_columns(rng, 4, 2)[:, 0] for _ in range(2000)])
    one = haar_columns(rng, 7, 3)
    assert np.allclose(one.T @ one, np.eye(3))
    assert np.abs(first.mean(axis=0)).max() < 4 * 0.5 / np.sqrt(2000)
    assert np.allclose((first**2).mean(axis=0), 0.25, atol=0.02)


def test_a_power_law_stays_one_when_it_is_resampled():
    sigma = np.exp(-3 * (np.arange(50) + 0.5) / 50)
    assert np.allclose(resampled(sigma, 20), np.exp(-3 * (np.arange(20) + 0.5) / 20), rtol=0.02)
    assert resampled(sigma, 50) is not None
    assert np.array_equal(resampled(sigma, 50), sigma)
    assert np.array_equal(resampled(np.zeros(5), 8), np.zeros(8))
