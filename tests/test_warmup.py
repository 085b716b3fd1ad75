"""Spectral warm-up: singular values of a checkpoint, random singular vectors, and a model that transformers loads."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
import transformers
from models import KINDS, build, specs_of
from safetensors.torch import load_file
from small import data_of, run_here
from transformers import AutoConfig, AutoModelForCausalLM

from sedarchive.derived.width import resized
from sedarchive.errors import HistoryError
from sedarchive.matrix.warmup import haar_columns, resampled
from sedarchive.roles import assign_roles

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
    """Logical matrices of a tensor, cut by hand; a head has 2 elements at any width."""
    if "query_key_value" in name:
        d = tensor.shape[1]
        return [part.reshape(-1, d) for part in tensor.reshape(d // 2, 3, 2, d).transpose(0, 1).numpy()]
    if "c_attn" in name:
        d = tensor.shape[0]
        return list(tensor.reshape(d, 3, d).transpose(0, 1).numpy())
    return [tensor.numpy()]


def sigmas(matrix):
    return np.linalg.svd(matrix.astype("f8"), compute_uv=False)


def by_rank(sigma, r):
    """Singular values of another number: log sigma at the same relative rank."""
    n = len(sigma)
    return np.exp(np.interp((np.arange(r) + 0.5) / r, (np.arange(n) + 0.5) / n, np.log(sigma)))


@pytest.mark.parametrize("scale", ["frobenius", "spectral", "none"])
def test_every_matrix_has_the_singular_values_of_the_checkpoint_times_one_number(place, tmp_path, scale):
    at, model, kind = place
    run_here("warmup", "r", "-o", tmp_path / "w", "--scale", scale, *at)
    found, before = loaded(tmp_path / "w").state_dict(), model.state_dict()
    matrices = [name for name in before if before[name].ndim == 2]
    assert len(matrices) >= 8
    for name in matrices:
        for new, old in zip(parts_of(name, found[name], kind), parts_of(name, before[name], kind), strict=True):
            sigma, wanted = sigmas(new), sigmas(old)
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
    sigma, old = (sigmas(one[name].numpy()) for one in (found, before))
    assert (len(sigma), len(old)) == (24, 12)
    wanted = by_rank(old, 24)
    assert np.allclose(sigma / sigma[0], wanted / wanted[0], atol=1e-5)


SIZES = {
    ("gpt2", "2"): {"n_embd": 24, "n_head": 12},
    ("gpt2", "0.5"): {"n_embd": 6, "n_head": 3},
    ("gpt_neox", "2"): {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 12},
    ("gpt_neox", "0.5"): {"hidden_size": 6, "intermediate_size": 10, "num_attention_heads": 3},
    ("llama", "2"): {
        "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 2,
    },
    ("llama", "0.5"): {
        "hidden_size": 6, "intermediate_size": 10, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("factor", ["2", "0.5"])
def test_a_factor_gives_the_same_architecture_at_another_width(place, tmp_path, factor):
    at, model, kind = place
    said = data_of(run_here("warmup", "r", "-o", tmp_path / "w", "--width", factor, "--json", *at))
    new = loaded(tmp_path / "w")
    sizes = SIZES[kind, factor]
    other = build(kind, **{DEPTHS[kind]: 2}, **sizes)
    config = json.loads((tmp_path / "w/config.json").read_text())
    was = model.config.to_dict()
    assert {key: config[key] for key in sizes} == sizes
    assert {key for key in was if key in config and config[key] != was[key]} - {"dtype", "architectures"} == {
        key for key in sizes if key != "head_dim"
    }
    found, before, like = (one.state_dict() for one in (new, model, other))
    assert {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in like.items()}
    matrices = [name for name in before if before[name].ndim == 2]
    for name in matrices:
        for matrix, old in zip(parts_of(name, found[name], kind), parts_of(name, before[name], kind), strict=True):
            wanted = by_rank(sigmas(old), min(matrix.shape))
            s = 0.02 * np.sqrt(matrix.size) / np.linalg.norm(wanted)
            assert np.abs(sigmas(matrix) - s * wanted).max() < 1e-5 * s * wanted[0], name
    assert 0 < said["resampled"] <= said["matrices"]
    assert torch.isfinite(new(torch.arange(5)[None]).logits).all()


@pytest.mark.parametrize("place", ["gpt2"], indirect=True)
def test_a_seed_gives_the_same_model_and_another_seed_another(place, tmp_path):
    at, _, _ = place
    said = data_of(run_here("warmup", "r", "-o", tmp_path / "a", "--json", *at))
    assert said["kept"] == []
    run_here("warmup", "r", "-o", tmp_path / "b", *at)
    run_here("warmup", "r", "-o", tmp_path / "c", "--seed", 1, *at)
    a, b, c = (load_file(tmp_path / folder / "model.safetensors") for folder in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a if a[name].ndim == 2)


@pytest.mark.parametrize("place", ["gpt2"], indirect=True)
def test_mistakes_are_told_with_a_way_out(place, tmp_path):
    at, _, _ = place
    for args, code, words in (
        (["--scale", "frobenus"], 2, "did you mean 'frobenius'"),
        (["--step", 11], 4, "the nearest are 10"),
        (["--like", tmp_path / "none"], 1, "none"),
        (["--like", tmp_path / "none", "--width", 2], 2, "leave --width out"),
        (["--width", 1.3], 1, "would become 15.6"),
        (["--width", 0], 2, "not above 0 and at most 64"),
        (["--width", "1e99"], 2, "write 2, 1.5 or 3/2"),
    ):
        said = run_here("warmup", "r", "-o", tmp_path / "w", *args, *at, code=code).stderr
        assert words in " ".join(said.replace("│", " ").split()), said
    missing = [*at[:2], "--db", tmp_path / "none.duckdb"]
    assert "sedarchive compute" in run_here("warmup", "r", "-o", tmp_path / "w", *missing, code=1).stderr
    assert not (tmp_path / "w").exists()


def described(name, **more):
    """Shapes, config and architecture of a model that has no memory for its weights."""
    kind = KINDS[name]
    with torch.device("meta"):
        model = getattr(transformers, kind.head)(
            AutoConfig.for_model(**{"model_type": kind.model_type, **kind.config, **more})
        )
    specs, config = specs_of(model.state_dict()), model.config.to_dict()
    return specs, config, assign_roles(specs, config)


@pytest.mark.parametrize(
    "name",
    [
        "roberta",
        "distilbert",
        "falcon_40b",
        "gemma3",
        "gpt_bigcode_by_head",
        "gpt_neo",
        "mixtral",
        "olmo2",
        "phi",
        "qwen3",
    ],
)
def test_shapes_at_another_width_are_those_of_transformers(name):
    specs, config, found = described(name, vocab_size=31)
    wider = resized(specs, config, found, Fraction(2))
    assert described(name, **wider.config)[0] == wider.specs
    assert resized(specs, config, found, Fraction(1)).specs == specs


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bert", "cls.predictions.bias of 20 elements may be a width or not"),  # as many tokens as hidden units
        ("clip", "section vision_config has widths of its own"),
        ("deepseek_v3", "the config has qk_nope_head_dim"),
        ("falcon_7b", "the config says multi_query"),
        ("mamba", "none of the widths that the config tells (12, 24)"),
        ("opt", "embed_tokens.weight (20 x 8)"),
    ],
)
def test_a_model_whose_widths_are_not_certain_is_refused(name, words):
    with pytest.raises(HistoryError, match="--like") as told:
        resized(*described(name), Fraction(2))
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        ("5/3", "intermediate_size = 20 would become 33.3333; the factors of this model are multiples of 1/2, "),
        ("5/3", "the nearest 3/2 and 2"),
        ("1/4", "num_attention_heads = 6 would become 1.5; the factors of this model are multiples of 1/2, "),
        ("1/4", "the nearest 1/2"),
    ],
)
def test_a_factor_that_gives_no_whole_number_is_told_with_the_nearest_that_do(factor, words):
    with pytest.raises(HistoryError) as told:
        resized(*described("llama"), Fraction(factor))
    assert words in str(told.value)


def test_without_a_config_the_widths_are_not_known():
    specs, _, found = described("llama")
    with pytest.raises(HistoryError, match="no config that tells the width"):
        resized(specs, {}, found, Fraction(2))


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
