"""Numbers of heads: from the user, from the config beside a checkpoint, and from the checkpoint itself."""

import numpy as np
import pytest
import torch
from small import data_of, few_draws, run_here, walk, write_safetensors, write_torch

from sedarchive.archive import Archive
from sedarchive.modelconfig import read_heads, with_checkpoint, with_given
from sedarchive.parts import Heads
from sedarchive.sweeps.anatomy import anatomy

QKV = "gpt_neox.layers.0.attention.query_key_value.weight"
NEOX = {QKV: (96, 32), "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": (64, 32)}
GROUPED = {
    "transformer.h.0.attn.qkv.weight": (64, 32),
    "transformer.h.0.attn.proj.weight": (32, 32),
    "transformer.h.0.norm_1.weight": (32,),
}


@pytest.fixture
def place(tmp_path):
    """An archive, a database, and two runs of GPT-NeoX without a config."""
    write_torch(tmp_path / "runs/one", walk(3, shapes=NEOX))
    write_torch(tmp_path / "runs/two", walk(3, shapes=NEOX, seed=1))
    return tmp_path


def archive(place):
    return "--archive", place / "a.zarr"


def ingest(place, *more, runs="runs", code=0):
    return run_here("ingest", place / runs, *archive(place), *more, code=code)


def compute(place, *more, code=0):
    with few_draws():
        return run_here(
            "compute", *archive(place), "--db", place / "a.duckdb", "--window", 2, "--no-inference", *more, code=code
        )


def rows(place, sql):
    return run_here("query", sql, "--db", place / "a.duckdb", "--format", "csv").stdout.split()[1:]


def matrices(place, run="one", **options):
    """Logical matrices of the fused weight, as compute sees them."""
    found = anatomy(Archive(place / "a.zarr").run(run), **options)
    return sorted(leaf.name for leaf in found.leaves_of(QKV))


def parts_planned(place, *more):
    plan = data_of(run_here("ingest", place / "runs", *archive(place), "--dry-run", "--json", *more))
    return [{role: n["tensors"] for role, n in run["model"]["roles"].items()}.get("query", 0) for run in plan["runs"]]


# Given by the user


def test_heads_given_to_ingest_cut_the_fused_weights_of_every_compute(place):
    ingest(place, "--heads", 4, runs="runs/one")
    assert matrices(place) == [f"{QKV}:{part}" for part in ("key", "query", "value")]
    compute(place)
    state = torch.load(place / "runs/one/ckpt_20.pt")[QKV].double().numpy()
    query = state.reshape(4, 3, 8, 32)[:, 0].reshape(32, 32)
    (largest,) = rows(
        place, f"select max(sigma[1]) from matrix_spectra where run = 'one' and step = 20 and matrix = '{QKV}:query'"
    )
    assert float(largest) == pytest.approx(np.linalg.norm(query, 2), rel=1e-9)


def test_heads_may_be_given_when_the_run_is_archived_already_and_stay_when_they_are_not_given_again(place):
    ingest(place)
    assert parts_planned(place) == [0, 0]
    ingest(place, "--heads", 4, runs="runs/one")
    ingest(place)
    assert parts_planned(place) == [1, 0]
    assert len(matrices(place)) == 3
    assert matrices(place, "two") == [QKV]
    assert len(matrices(place, "two", heads=8)) == 3


def test_a_dry_run_shows_what_heads_would_do(place):
    assert parts_planned(place) == [0, 0]
    assert parts_planned(place, "--heads", 4) == [1, 1]
    shown = run_here("ingest", place / "runs", *archive(place), "--dry-run").stdout
    assert "pass --heads N" in " ".join(shown.split())
    run_here("ingest", place / "runs", *archive(place), "--heads", 0, code=2)


@pytest.mark.parametrize("command", [("inspect",), ("ingest", "--dry-run"), ("ingest",)])
def test_heads_that_the_width_does_not_divide_into_are_refused_and_nothing_is_archived(place, command):
    options = archive(place) if command[0] == "ingest" else ()
    result = run_here(*command, place / "runs/one", *options, "--heads", 5, code=1)
    said = " ".join((result.stdout + result.stderr).split())
    assert f"--heads 5 cannot be right: tensor {QKV} is fused query, key, value, kept whole: axis 0 is 96 long" in said
    assert not list((place / "a.zarr").rglob("c"))


def test_heads_are_held_against_separate_queries_and_keys_too(tmp_path):
    shapes = {f"model.layers.0.self_attn.{one}_proj.weight": (8 if one in "kv" else 32, 32) for one in "qkvo"}
    write_safetensors(tmp_path / "run", walk(1, shapes=shapes))
    run_here("inspect", tmp_path / "run", "--heads", 8, "--kv-heads", 2)
    for option, count in (("--heads", 5), ("--kv-heads", 3)):
        result = run_here("inspect", tmp_path / "run", option, count, code=1)
        assert f"{option} {count} cannot be right" in result.stdout + result.stderr


def test_a_run_that_cannot_have_as_many_heads_keeps_nobody_from_the_others(place):
    write_torch(
        place / "runs/wide", walk(3, shapes={QKV: (90, 30), "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": (6, 30)})
    )
    reports = {report["run"]: report for report in data_of(ingest(place, "--heads", 4, "--json", code=1))}
    assert {run: report["added"] for run, report in reports.items()} == {"one": 3, "two": 3, "wide": 0}
    assert "--heads 4 cannot be right" in reports["wide"]["error"]


def test_compute_refuses_heads_that_no_run_can_have(place):
    ingest(place)
    assert "--heads 7 cannot be right" in compute(place, "--heads", 7, code=1).stderr


# Told by the checkpoint


def save_nanogpt(folder, shapes, model_args, settings):
    """``ckpt_N.pt`` as nanoGPT saves it, with an optimizer that has made a step."""
    folder.mkdir(parents=True)
    for at, state in enumerate(walk(3, shapes=shapes)):
        parameter = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([parameter], lr=1e-4 * 2**at, betas=(0.9, 0.95), weight_decay=0.2)
        parameter.sum().backward()
        optimizer.step()
        saved = {"model": state, "optimizer": optimizer.state_dict(), "model_args": model_args, "iter_num": at}
        torch.save({**saved, "best_val_loss": torch.tensor(3.0), "config": settings}, folder / f"ckpt_{at}.pt")


def test_the_heads_in_a_save_of_nanogpt_cut_its_weights_and_its_settings_reach_the_tables(place):
    save_nanogpt(
        place / "runs/nano",
        NEOX,
        {"n_layer": 1, "n_head": 4, "n_embd": 32},
        {"learning_rate": 6e-4, "weight_decay": 0.2, "beta1": 0.9, "beta2": 0.95, "n_head": 4},
    )
    assert parts_planned(place) == [1, 0, 0]
    for _ in range(2):  # the second time no checkpoint is opened
        ingest(place, runs="runs/nano")
    assert len(matrices(place, "nano")) == 3
    compute(place, "--no-spectra")
    assert rows(place, "select lr, weight_decay, beta1, beta2 from runs where run = 'nano'") == ["0.0006,0.2,0.9,0.95"]
    assert rows(place, "select step, lr, weight_decay from checkpoints where run = 'nano' order by step") == [
        f"{at},{1e-4 * 2**at:g},0.2" for at in range(3)
    ]


@pytest.mark.parametrize("key", ["model_args", "hyper_parameters", "config", "args", "cfg"])
def test_key_value_heads_stand_in_a_checkpoint_too(tmp_path, key):
    held = {"n_head": 4, "n_kv_head": 2, "n_embd": 32}
    torch.save({"net": walk(1, shapes=GROUPED)[0], key: {"model": held}}, tmp_path / "step_1.pt")
    (found,) = data_of(run_here("inspect", tmp_path, "--json"))
    assert (found["heads"], found["kv_heads"]) == (4, 2)
    (fused,) = (one for one in found["tensors"] if "qkv" in one["name"])
    assert [part["shape"] for part in fused["parts"]] == [[32, 32], [16, 32], [16, 32]]


def test_the_hyperparameters_of_lightning_cut_a_fused_weight(tmp_path):
    saved = {
        "pytorch-lightning_version": "2.6.0", "global_step": 5, "epoch": 0, "loops": {},
        "state_dict": {f"model.{name}": value for name, value in walk(1, shapes=NEOX)[0].items()},
        "hyper_parameters": {"num_attention_heads": 4, "hidden_size": 32, "learning_rate": 0.01},
    }  # fmt: skip
    torch.save(saved, tmp_path / "epoch=0-step=5.ckpt")
    (found,) = data_of(run_here("inspect", tmp_path, "--json"))
    assert (found["architecture"], found["heads"]) == ("gpt_neox", 4)
    assert [len(one["parts"]) for one in found["tensors"] if one["name"].endswith(QKV)] == [3]


# Which of them wins


def test_a_number_given_now_wins_over_one_given_before_over_the_config_over_the_checkpoint():
    config = with_checkpoint({"num_attention_heads": 8}, {"model_args": {"n_head": 2, "n_kv_head": 1, "n_embd": 64}})
    assert read_heads(config, None, None) == Heads(8, 1, 8)
    assert read_heads(with_given(config, 16, None), None, None) == Heads(16, 1, 4)
    assert read_heads(with_given(with_given(config, 16, None), None, 4), None, None) == Heads(16, 4, 4)
    assert read_heads(with_given(config, 16, 4), 32, 2) == Heads(32, 2, 2)


@pytest.mark.parametrize(
    "meta", [{}, {"model_args": 3}, {"model_args": {"n_head": "four"}}, {"config": {"n_head": -1, "d_model": True}}]
)
def test_values_that_are_no_numbers_of_heads_say_nothing(meta):
    assert with_checkpoint({}, meta) == {}
    assert read_heads({"given": [4], "n_head": 2.0, "in_checkpoint": "x"}, None, None) == Heads(None, None, None)


def test_a_config_of_endless_sections_is_read_to_a_depth():
    config = {"n_head": 4}
    for _ in range(800):
        config = {"model": config}
    assert read_heads(config, None, None).query is None
