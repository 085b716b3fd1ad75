"""Pruning: layers go whole, the others keep their bits, and transformers loads what is left as it is."""

import json

import numpy as np
import pytest
import torch
from models import build
from safetensors import safe_open
from small import data_of, run_here, walk, write_safetensors
from torch import nn
from transformers import AutoModelForCausalLM

from sedarchive.derived.depth import shallower
from sedarchive.errors import HistoryError
from sedarchive.lifecycle.pruning import Core, by_exponent, protected_ends, removals, wins_over_last

DEPTHS = {"gpt2": "n_layer", "gpt_neox": "num_hidden_layers", "llama": "num_hidden_layers"}
N_LAYERS = 6


def layers_of(model):
    """Owner and name of the list of layers of a model."""
    inner = model.base_model
    return (inner, "h") if hasattr(inner, "h") else (inner, "layers")


@pytest.fixture(scope="module", params=DEPTHS)
def place(request, tmp_path_factory):
    """A model of six layers, archived at one step and with its spectra in tables."""
    root = tmp_path_factory.mktemp(request.param)
    model = build(request.param, **{DEPTHS[request.param]: N_LAYERS})
    model.save_pretrained(root / "runs/checkpoint-10")
    at = ["--archive", root / "a.zarr", "--db", root / "a.duckdb"]
    run_here("ingest", root / "runs", "--run", "r", *at[:2])
    rows = [f"r,{layer},{layer * layer}" for layer in range(N_LAYERS)]
    (root / "i.csv").write_text("\n".join(["run,layer,importance", *rows]))
    run_here("compute", "--no-inference", "--importance", root / "i.csv", *at)
    return root, at, model, request.param


@pytest.mark.parametrize("rule", ["spectral", "last", "random", "worst"])
def test_a_pruned_model_loads_and_computes_what_the_model_without_those_layers_does(place, tmp_path, rule):
    _, at, model, name = place
    said = data_of(run_here("prune", "r", "-k", 2, "--rule", rule, "-o", tmp_path / "p", "--json", *at))
    removed = next(plan["removed"] for plan in said["plans"] if plan["rule"] == rule)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "p", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert getattr(loaded.config, DEPTHS[name]) == N_LAYERS - 2
    tokens = torch.arange(8)[None]
    owner, attribute = layers_of(model)
    whole = getattr(owner, attribute)
    setattr(owner, attribute, nn.ModuleList(layer for at, layer in enumerate(whole) if at not in removed))
    with torch.no_grad():
        wanted = model(tokens, use_cache=False).logits
    setattr(owner, attribute, whole)
    with torch.no_grad():
        found = loaded.eval()(tokens, use_cache=False).logits
        other = model(tokens, use_cache=False).logits
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, other, rtol=1e-2, atol=1e-2)


def test_the_spectral_choice_follows_the_exponents_in_the_table(place):
    _, at, _, _ = place
    said = data_of(run_here("prune", "r", "-k", 2, "--alpha", "alpha_top_half", "--json", *at))
    means = "SELECT layer, avg(alpha_top_half) AS a FROM matrix_stats"
    sql = f"{means} WHERE layer IS NOT NULL AND role <> 'other' GROUP BY layer"
    rows = data_of(run_here("query", sql, "--json", *at[2:]))
    alpha = {row["layer"]: row["a"] for row in rows}
    assert said["alpha"] == [pytest.approx(alpha[layer]) for layer in range(N_LAYERS)]
    lowest = sorted(range(1, N_LAYERS - 1), key=alpha.get)[:2]  # two a zone may go, so no zone binds here
    by_rule = {plan["rule"]: plan["removed"] for plan in said["plans"]}
    assert by_rule["spectral"] == sorted(lowest)
    assert (by_rule["last"], by_rule["first"]) == ([3, 4], [1, 2])
    assert (2 in said["better_than_last"]) == (sorted(lowest) != [3, 4])  # importance grows with the layer
    assert said["peak_layer"] == max(alpha, key=alpha.get)


def test_without_a_folder_only_the_plan_is_shown(place, tmp_path):
    root, at, _, _ = place
    before = {path: path.stat().st_mtime for path in root.rglob("*")}
    shown = run_here("prune", "r", "-k", 2, *at)
    plans = data_of(run_here("prune", "r", "-k", 2, "--json", *at))["plans"]
    assert [plan["rule"] for plan in plans] == ["spectral", "last", "first", *["random"] * 5, "worst"]
    rules = [line.split()[0] for line in shown.stdout.splitlines()[1:] if line.split()[0].isalpha()]
    different = {tuple(plan["removed"]) for plan in plans if plan["rule"] == "random"}
    assert rules == ["spectral", "last", "first", *["random"] * len(different), "worst"]  # equal draws once
    assert "1 protected at each end" in shown.stderr
    assert {path: path.stat().st_mtime for path in root.rglob("*")} == before


def test_what_stands_is_not_replaced_unasked(place, tmp_path):
    _, at, _, _ = place
    (tmp_path / "config.json").write_text("mine")
    said = run_here("prune", "r", "-k", 1, "-o", tmp_path, *at, code=1).stderr
    assert "config.json exists; nothing was written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    run_here("prune", "r", "-k", 1, "-o", tmp_path, "--force", *at)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["sedarchive"])["removed"]


def test_mistakes_are_told_with_a_way_out(place, tmp_path):
    _, at, _, _ = place
    for args, code, words in (
        (["-k", 5], 1, "take a smaller -k or --protect"),
        (["-k", 2, "--rule", "spectrl"], 2, "did you mean 'spectral'"),
        (["-k", 2, "--alpha", "alpha_hil"], 4, "did you mean 'alpha_hill'"),
        (["-k", 2, "--step", 11], 4, "the nearest are 10"),
        (["-k", 0], 2, "-k"),
    ):
        said = " ".join(run_here("prune", "r", *args, *at, code=code).stderr.replace("│", " ").split())
        assert words in said, said
    missing = [*at[:2], "--db", tmp_path / "none.duckdb"]
    assert "sedarchive compute" in run_here("prune", "r", "-k", 2, *missing, code=1).stderr
    run_here("prune", "r", "-k", 2, "--rule", "last", *missing)  # needs no spectra


def test_a_model_without_a_config_is_pruned_without_one(tmp_path):
    shapes = {f"_orig_mod.blocks.{at}.mlp.up_proj.weight": (5, 4) for at in (0, 1, 2)} | {"blocks_of": (3,)}
    states = walk(1, shapes=shapes)
    write_safetensors(tmp_path / "run", states)
    at = ["--archive", tmp_path / "a.zarr", "--db", tmp_path / "none.duckdb"]
    run_here("ingest", tmp_path / "run", *at[:2])
    said = run_here("prune", "run", "-k", 1, "--rule", "first", "-o", tmp_path / "p", *at).stderr
    assert "archived without a config.json" in said
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["model.safetensors"]
    with safe_open(tmp_path / "p/model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["blocks.0.mlp.up_proj.weight", "blocks.1.mlp.up_proj.weight", "blocks_of"]
        moved = file.get_tensor("blocks.1.mlp.up_proj.weight")
    assert torch.equal(moved, states[0]["_orig_mod.blocks.2.mlp.up_proj.weight"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["encoder.layers.0.w", "encoder.layers.1.w", "decoder.layers.0.w"], "2 stacks"),
        (["layers.0.w", "layers.2.w"], "not 0, 1, 2"),
        (["w", "v"], "no layers"),
    ],
)
def test_a_model_whose_layers_are_no_single_stack_is_refused(tmp_path, names, words):
    write_safetensors(tmp_path / "run", walk(1, shapes=dict.fromkeys(names, (4, 3))))
    at = ["--archive", tmp_path / "a.zarr", "--db", tmp_path / "none.duckdb"]
    run_here("ingest", tmp_path / "run", *at[:2])
    assert words in run_here("prune", "run", "-k", 1, "--rule", "last", "-o", tmp_path / "p", *at, code=1).stderr
    assert not (tmp_path / "p").exists()


# The rules, by hand


def test_no_zone_loses_more_than_its_share():
    alpha = np.array([9, 1, 1.1, 1.2, 1.3, 5, 6, 7, 8, 9, 9.5, 9.6, 9.7, 9])  # the lowest four lie early
    core = Core(14, 1, 3)
    assert core.zones == ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12))
    assert core.most_a_zone == 2
    assert by_exponent(alpha, core) == (1, 2, 5)
    assert by_exponent(alpha, core, highest=True) == (8, 11, 12)


def test_every_rule_removes_k_layers_of_the_core_for_every_k():
    rng = np.random.default_rng(0)
    for n_layers in (3, 4, 7, 12, 24):
        protect = protected_ends(n_layers)
        for k in range(1, n_layers - 2 * protect + 1):
            core = Core(n_layers, protect, k)
            for one in removals(core, rng.normal(size=n_layers)):
                assert len(set(one.removed)) == k, one
                assert set(one.removed) <= set(core.layers), one
    assert [protected_ends(n) for n in (4, 16, 17)] == [1, 1, 2]


def test_the_crossover_in_k_is_where_the_lowest_exponents_cost_less_than_the_last_layers():
    alpha = np.array([9, 1, 2, 3, 4, 5, 6.0, 9])
    importance = np.array([0, 1, 1, 9, 9, 4, 4.0, 0])  # first: 1, 2, 11, 20 ... last: 4, 8, 17, 26 ...
    assert wins_over_last(Core(8, 1, 1), alpha, importance) == [1, 2, 3, 4, 5]  # all six cost the same
    assert wins_over_last(Core(8, 1, 1), alpha, importance[::-1]) == []


def test_random_choices_are_five_and_come_back_with_their_seed():
    core = Core(24, 2, 8)
    drawn = [one.removed for one in removals(core, None, seed=3)][2:]
    assert len(set(drawn)) == 5
    assert drawn == [one.removed for one in removals(core, None, seed=3)][2:]
    assert drawn != [one.removed for one in removals(core, None, seed=4)][2:]


def test_what_a_config_says_of_single_layers_follows_them():
    config = {
        "num_hidden_layers": 4,
        "layer_types": ["a", "b", "c", "d"],
        "mlp_only_layers": [0, 2],
        "first_k_dense_replace": 2,
        "attention_types": [[["global", "local"], 2]],
        "text_config": {"n_layer": 4},
        "other": [1, 2, 3, 4],
    }
    assert shallower(config, 4, [0, 2, 3]) == {
        "num_hidden_layers": 3,
        "layer_types": ["a", "c", "d"],
        "mlp_only_layers": [0, 1],
        "first_k_dense_replace": 1,
        "attention_types": [[["global", "global", "local"], 1]],
        "text_config": {"n_layer": 3},
        "other": [1, 2, 3, 4],
    }


@pytest.mark.parametrize("config", [{"n_layer": 5}, {"decoder_sparse_step": 2}, {"attention_types": [[["global"], 1]]}])
def test_a_config_that_cannot_tell_the_pruned_model_is_refused(config):
    with pytest.raises(HistoryError):
        shallower(config, 4, [0, 3])
