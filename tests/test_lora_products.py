"""Products of LoRA factors against what peft merges: trained adapters, and small files with planted settings."""

import copy
import json
import pickle
import shutil
from collections import Counter
from itertools import pairwise

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file
from small import data_of, few_draws, run_here
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sedarchive.archive import Archive
from sedarchive.compute.matrix_rows import stats_columns
from sedarchive.errors import MemoryBudgetError
from sedarchive.executor import Executor
from sedarchive.history import TensorSpec
from sedarchive.leaves import resolve_scopes
from sedarchive.lowrank.products import find_products
from sedarchive.lowrank.spectra import product_sigmas
from sedarchive.matrix.stack import SpectraStack
from sedarchive.plan import grid
from sedarchive.sizes import KIB, MIB
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.sweeps.gram_sweep import plan_gram_sweep, sweep_gram
from sedarchive.sweeps.spectra_sweep import SpectraOptions, matrix_leaves, sweep_spectra
from sedarchive.sweeps.stored_grams import GramOptions, StoredGrams, gram_key

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")
N_STEPS = 6


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=2, n_head=2))


def llama():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=13,
            hidden_size=8,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


def train(base, config, folder, n_steps=N_STEPS, rate=1e-2):
    """Adapters as the Trainer leaves them, and what merging each adds to every weight of the base, in float64."""
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config)
    before = {name: value.double().clone() for name, value in copy.deepcopy(model).unload().state_dict().items()}
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=rate)
    tokens = torch.randint(0, 13, (4, 8), generator=torch.Generator().manual_seed(1))
    added = []
    for step in range(n_steps):
        model.save_pretrained(folder / f"checkpoint-{10 * step}")
        merged = copy.deepcopy(model).double().merge_and_unload().state_dict()
        added.append({name: (merged[name] - value).numpy() for name, value in before.items() if name in merged})
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return added


CASES = {
    "gpt2": (gpt2, {"r": 2, "lora_alpha": 6, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "llama": (llama, {"r": 3, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "rslora": (llama, {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": ["q_proj", "o_proj"]}),
    "patterns": (
        llama,
        {
            "r": 2,
            "lora_alpha": 4,
            "target_modules": ["q_proj", "up_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 4},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 7, "^model.layers.0.mlp.up_proj": 3},
        },
    ),
    "embedding": (llama, {"r": 2, "lora_alpha": 4, "target_modules": ["embed_tokens", "k_proj"]}),
    "pissa": (llama, {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "init_lora_weights": "pissa"}),
}


def trained(name, folder):
    make, settings = CASES[name]
    torch.manual_seed(3)
    return train(make(), peft.LoraConfig(task_type="CAUSAL_LM", **settings), folder / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An archive of all cases, and what peft adds to the weights: {case: [{weight: matrix} a step]}."""
    folder = tmp_path_factory.mktemp("adapters")
    added = {name: trained(name, folder / "runs") for name in CASES}
    run_here("ingest", folder / "runs", "--archive", folder / "a.zarr")
    return folder / "a.zarr", added


def swept(archive, run, max_mem=256 * MIB, band=None, workers=1):
    """Anatomy of a run and its stored Gram matrices."""
    opened = Archive(archive)
    parts = anatomy(opened.run(run))
    options = GramOptions(max_mem, band)
    with opened.writing("test") as store:
        outcome = sweep_gram(parts, store, options, Executor(workers))
        assert not outcome.failed
    return parts, StoredGrams(parts, opened.store, gram_key(parts, options))


def weight_of(leaf):
    return leaf.product.weight.removeprefix("base_model.model.")


def part_of(leaf, matrix):
    """Elements of a matrix that a leaf holds, by an own reading of its part."""
    if leaf.part is None:
        return matrix
    index = np.arange(matrix.shape[leaf.part.axis]) % leaf.part.period
    keep = (index >= leaf.part.start) & (index < leaf.part.stop)
    return matrix.compress(keep, axis=leaf.part.axis)


def rows_of(matrices):
    """theta_0 and the updates of a history of matrices, flat."""
    return np.stack([matrices[0], *(b - a for a, b in pairwise(matrices))]).reshape(len(matrices), -1)


@pytest.mark.parametrize("case", CASES)
def test_the_gram_matrix_of_a_product_is_that_of_the_merged_weights(runs, case):
    archive, added = runs
    parts, stored = swept(archive, case)
    products = [leaf for leaf in parts.leaves if leaf.product]
    assert products
    for leaf in products:
        matrices = [part_of(leaf, step[weight_of(leaf)]) for step in added[case]]
        if case == "pissa":  # it changes the base: only the updates are the merged weights'
            matrices = [matrix - matrices[0] for matrix in matrices]
        rows = rows_of(matrices)
        own = resolve_scopes(f"tensor:{leaf.name}", parts.leaves)[0]
        assert own.leaves[0].shape == matrices[0].shape
        gram, expected = stored.gram(own).full, rows @ rows.T
        first = 1 if case == "pissa" else 0
        norms = np.sqrt(np.diag(expected))[first:]
        error = np.abs(gram - expected)[first:, first:]
        assert (error <= 1e-11 * np.maximum(np.outer(norms, norms), 1e-300)).all()


@pytest.mark.parametrize("case", CASES)
def test_the_singular_values_of_a_product_are_those_of_the_merged_weights(runs, case):
    archive, added = runs
    parts = anatomy(Archive(archive).run(case))
    wanted = {product.name: range(N_STEPS) for product in parts.products.formed}
    found = [one for part in sweep_spectra(parts, wanted, SpectraOptions(MIB * 64), Executor()) for one in part]
    found = [one for one in found if one.leaf.product]
    assert len(found) >= N_STEPS * len(wanted)
    for one in found:
        if case == "pissa":
            continue  # the base changed too; the updates are compared above
        matrix = part_of(one.leaf, added[case][one.position][weight_of(one.leaf)])
        expected = np.linalg.svd(matrix, compute_uv=False)
        assert len(one.spectrum.sigma) == min(one.leaf.shape) == len(expected)
        assert np.abs(one.spectrum.sigma - expected).max() <= 1e-9 * expected[0]
        rank = min(one.leaf.product.rank, len(expected))
        assert one.spectrum.n_resolved == (rank if expected[0] else 0)
        assert one.spectrum.status == ("ok" if expected[0] else "zero")


def test_statistics_of_a_product_are_those_of_a_matrix_of_its_rank():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((40, 3)), rng.standard_normal((3, 25))
    spectrum = product_sigmas(left, right, 1.5)
    stats = stats_columns(SpectraStack(spectrum.sigma[None], np.array([spectrum.n_resolved])), 40, 25)
    sigma = np.linalg.svd(1.5 * left @ right, compute_uv=False)[:3]
    share = sigma**2 / np.sum(sigma**2)
    assert np.isclose(stats["frobenius_norm"], np.linalg.norm(sigma), rtol=1e-12)
    assert np.isclose(stats["effective_rank"], np.exp(-np.sum(share * np.log(share))), rtol=1e-12)
    assert stats["effective_rank"] < 3
    assert np.isnan([stats["mp_scale"], stats["n_outliers"], stats["outlier_share"]]).all()  # no bulk to speak of
    assert product_sigmas(np.full((4, 1), np.nan), right[:1], 1.0).status == "nonfinite"
    assert product_sigmas(left[:0], right, 1.0).status == "empty"


def adapter_state(rng, shapes, rank):
    """Factors of some modules of (outputs, inputs), as numpy."""
    state = {}
    for module, (outputs, inputs) in shapes.items():
        state[f"{module}.lora_A.weight"] = rng.standard_normal((rank, inputs)).astype(np.float32)
        state[f"{module}.lora_B.weight"] = rng.standard_normal((outputs, rank)).astype(np.float32)
    return state


def write_adapters(folder, states, config=None):
    """Checkpoints of adapters with planted factors."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4} if config is None else config
    for at, state in enumerate(states):
        inner = folder / f"checkpoint-{10 * at}"
        inner.mkdir(parents=True)
        save_file({name: torch.from_numpy(value) for name, value in state.items()}, inner / "adapter_model.safetensors")
        (inner / "adapter_config.json").write_text(json.dumps(config))
    return folder


LAYER = "base_model.model.model.layers.{}.self_attn.{}"
SHAPES = {LAYER.format(layer, name): (48, 64) for layer in (0, 1) for name in ("q_proj", "v_proj")}


def walk(n_steps, rank=2, step=1e-2, shapes=SHAPES, collinear=False):
    """Factors that walk; with ``collinear`` all but a millionth of every update is the same one."""
    rng = np.random.default_rng(5)
    first, drift = adapter_state(rng, shapes, rank), adapter_state(rng, shapes, rank)
    states = [first]
    for _ in range(n_steps - 1):
        noise, small = adapter_state(rng, shapes, rank), 1e-6 if collinear else 1.0
        before = states[-1]
        moved = {name: drift[name] * collinear + small * noise[name] for name in before}
        states.append({name: (before[name] + step * moved[name]).astype(np.float32) for name in before})
    return states


def dense(states, module, scale):
    """Products of a history in float64."""
    names = f"{module}.lora_B.weight", f"{module}.lora_A.weight"
    return [scale * state[names[0]].astype(np.float64) @ state[names[1]].astype(np.float64) for state in states]


def exact_updates(states, module, scale):
    """Updates of a product in long double, from which float64 takes what it can hold."""
    wide = [{name: value.astype(np.longdouble) for name, value in state.items()} for state in states]
    found = [scale * one[f"{module}.lora_B.weight"] @ one[f"{module}.lora_A.weight"] for one in wide]
    return np.stack([(b - a).astype(np.float64).ravel() for a, b in pairwise(found)])


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """An archive of planted adapters, and their states."""
    folder = tmp_path_factory.mktemp("planted")
    states = {"walk": walk(20), "collinear": walk(12, collinear=True, step=1e-3)}
    for name, own in states.items():
        write_adapters(folder / "runs" / name, own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "SLAB_BYTES", KIB // 4)
        patch.setattr(grid, "SMALL_TENSOR_BYTES", 64)
        run_here("ingest", folder / "runs", "--archive", folder / "a.zarr")
    return folder / "a.zarr", states


def test_windows_of_nearly_collinear_products_are_as_exact_as_the_dense_ones(planted):
    archive, states = planted
    parts, stored = swept(archive, "collinear")
    for module in SHAPES:
        (scope,) = resolve_scopes(f"tensor:{module}.lora", parts.leaves)
        energy = np.linalg.eigvalsh(stored.gram(scope).updates(0, 11))[::-1]
        expected = np.linalg.svd(exact_updates(states["collinear"], module, 2.0), compute_uv=False)
        resolved = expected > 1e-6 * expected[0]
        assert resolved.sum() > 2
        error = np.abs(np.sqrt(np.maximum(energy, 0)) - expected)[resolved] / expected[resolved]
        assert (error <= 1e-9 + 1e-14 * (expected[0] / expected[resolved]) ** 2).all()


def test_factors_that_move_against_each_other_make_no_update(tmp_path):
    """B G and G^-1 A are the same product: its update is rounding, whatever the factors do."""
    first = adapter_state(np.random.default_rng(1), {"m": (30, 20)}, 2)
    turn = np.array([[0.5, 2.0], [0.0, 0.25]])
    turned = {
        "m.lora_B.weight": first["m.lora_B.weight"] @ turn,
        "m.lora_A.weight": np.linalg.inv(turn) @ first["m.lora_A.weight"],
    }
    write_adapters(tmp_path / "run", [first, {name: value.astype(np.float32) for name, value in turned.items()}])
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    parts, stored = swept(tmp_path / "a.zarr", "run")
    gram = stored.gram(resolve_scopes("tensor:m.lora", parts.leaves)[0]).full
    assert gram[1, 1] <= 1e-12 * gram[0, 0]
    factor = stored.gram(resolve_scopes("tensor:m.lora_B.weight", parts.leaves)[0]).full
    assert factor[1, 1] >= 0.1 * factor[0, 0]


@pytest.mark.parametrize("max_mem", [20 * MIB, 12 * MIB])
@pytest.mark.parametrize("band", [None, 3])
def test_tiles_add_up_to_the_whole(planted, tmp_path, max_mem, band):
    archive, states = planted
    parts, stored = swept(archive, "walk", max_mem=max_mem, band=band)
    for module in SHAPES:
        gram = stored.gram(resolve_scopes(f"tensor:{module}.lora", parts.leaves)[0])
        rows = rows_of(dense(states["walk"], module, 2.0))
        expected = rows @ rows.T
        index = np.arange(19)
        first, second = np.meshgrid(index, index, indexing="ij")
        near = np.abs(first - second) <= (band or 19)
        got = gram.products(first[near], second[near])
        norms = np.sqrt(np.diag(expected))[1:]
        assert (np.abs(got - expected[1:, 1:][near]) <= 1e-11 * np.outer(norms, norms)[near]).all()
        assert np.allclose(gram.origin, expected[0], rtol=0, atol=1e-11 * norms.max() * np.sqrt(expected[0, 0]))


def test_little_memory_cuts_the_rows_and_too_little_is_refused_with_the_number_that_would_do(planted):
    parts = anatomy(Archive(planted[0]).run("walk"))
    names = [product.name for product in parts.products.formed]

    def planned(max_mem):
        return plan_gram_sweep(parts, names, GramOptions(max_mem), 1)

    with pytest.raises(MemoryBudgetError, match=r"lora: one row of its Gram matrix at 20 steps needs .*max-mem") as no:
        planned(MIB)
    tight, plenty = planned(no.value.needed), planned(256 * MIB)
    assert (plenty.decodes_per_chunk, len(plenty.tiles)) == (1, len(names))
    assert tight.decodes_per_chunk > 1
    assert tight.read_bytes > plenty.read_bytes
    assert tight.projected_mem <= no.value.needed < plenty.projected_mem
    with pytest.raises(MemoryBudgetError):
        planned(no.value.needed - MIB)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sweep_fetches_every_chunk_of_the_factors_once(planted, tmp_path, workers):
    shutil.copytree(planted[0], tmp_path / "a.zarr")
    archive = Archive(tmp_path / "a.zarr")
    parts = anatomy(archive.run("walk"))
    folder = tmp_path / "a.zarr" / "walk" / "theta"
    chunks = {path.relative_to(tmp_path / "a.zarr").as_posix() for path in folder.glob("*/c/**/*") if path.is_file()}
    chunks = {key for key in chunks if "/step/" not in key}
    assert len(chunks) > 40
    for other in (folder.parent / "gram",):
        shutil.rmtree(other, ignore_errors=True)
    with archive.writing("test") as store:
        assert not sweep_gram(parts, store, GramOptions(256 * MIB), Executor(workers)).failed
    fetched = Counter(archive.store.counts.fetches)
    assert {key: times for key, times in fetched.items() if "/theta/" in key} == dict.fromkeys(chunks, 1)
    wanted = {leaf.tensor: range(20) for leaf in matrix_leaves(parts)}
    found = [one for part in sweep_spectra(parts, wanted, SpectraOptions(256 * MIB), Executor(workers)) for one in part]
    assert Counter(one.leaf.name for one in found) == {leaf.name: 20 for leaf in matrix_leaves(parts)}
    assert Counter(archive.store.counts.fetches)[min(chunks)] == 2
    assert {key: times for key, times in archive.store.counts.fetches.items() if key in chunks} == dict.fromkeys(
        chunks, 2
    )


def test_workers_and_pickling_change_no_bit(planted, tmp_path):
    grams = []
    for workers in (1, 2):
        shutil.copytree(planted[0], tmp_path / f"{workers}.zarr")
        parts, stored = swept(tmp_path / f"{workers}.zarr", "walk", workers=workers)
        again = pickle.loads(pickle.dumps(parts))
        assert again.leaves == parts.leaves
        assert again.products == parts.products
        grams.append(
            [stored.gram(resolve_scopes(f"tensor:{leaf.name}", parts.leaves)[0]).full for leaf in parts.leaves]
        )
    for one, other in zip(*grams, strict=True):
        assert one.tobytes() == other.tobytes()


def test_groups_hold_products_and_scopes_of_tensors_the_factors(planted):
    parts = anatomy(Archive(planted[0]).run("walk"))
    q0 = LAYER.format(0, "q_proj")
    products = {f"{module}.lora" for module in SHAPES}

    def names(scope):
        return {leaf.name for one in resolve_scopes(scope, parts.leaves) for leaf in one.leaves}

    assert names("all") == names("trunk") == names("attention") == products
    assert names("layer:0") == {name for name in products if ".0." in name}
    assert names("role:query") == {name for name in products if "q_proj" in name}
    assert names("role:other") == names("mlp") == set()
    assert names(f"tensor:{q0}.lora_A.weight") == {f"{q0}.lora_A.weight"}
    assert names(f"tensor:{q0}.lora") == {f"{q0}.lora"}
    assert names("own=*q_proj*") == {name for name in products if "q_proj" in name}
    assert names("own=*lora_B*") == {f"{module}.lora_B.weight" for module in SHAPES}
    (leaf,) = resolve_scopes(f"tensor:{q0}.lora", parts.leaves)[0].leaves
    assert (leaf.layer, leaf.role, leaf.shape, leaf.n_elements) == (0, "query", (48, 64), 48 * 64)
    assert parts.n_parameters == sum(2 * (48 + 64) for _ in SHAPES)


def counts_of(states, folder):
    write_adapters(folder / "run", states)
    run_here("ingest", folder / "run", "--archive", folder / "a.zarr")
    parts, stored = swept(folder / "a.zarr", "run")
    return stored, resolve_scopes("tensor:m.lora", parts.leaves)[0]


def test_what_does_not_change_and_what_is_not_finite_is_counted(tmp_path):
    first = adapter_state(np.random.default_rng(1), {"m": (5, 7)}, 2)
    same = {name: value.copy() for name, value in first.items()}
    one_row = {name: value.copy() for name, value in first.items()}
    one_row["m.lora_B.weight"][3] += 1
    broken = {name: value.copy() for name, value in one_row.items()}
    broken["m.lora_A.weight"][0, 2] = np.nan
    stored, scope = counts_of([first, same, one_row, broken], tmp_path)
    counts, gram = stored.counts(scope), stored.gram(scope).full
    assert counts.zeros.tolist()[:3] == [0, 35, 28]
    assert counts.nonfinite.tolist() == [0, 0, 0, 5]
    assert gram[1, 1] == 0
    assert np.isnan(gram[3]).all()
    assert np.isfinite(gram[:3, :3]).all()


def test_rounding_of_the_factors_is_the_expected_rounding_of_the_product(tmp_path):
    rng = np.random.default_rng(2)
    exact = {name: rng.standard_normal(shape) for name, shape in (("B", (60, 4)), ("A", (4, 50)))}
    state = {f"m.lora_{name}.weight": value.astype(np.float32) for name, value in exact.items()}
    write_adapters(tmp_path / "run", [state, state], {"peft_type": "LORA", "r": 4, "lora_alpha": 4})
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    parts, stored = swept(tmp_path / "a.zarr", "run")
    (scope,) = resolve_scopes("tensor:m.lora", parts.leaves)
    rounded = state["m.lora_B.weight"].astype(float) @ state["m.lora_A.weight"].astype(float)
    error = np.sum((rounded - exact["B"] @ exact["A"]) ** 2)
    assert 0.8 < error / stored.counts(scope).rounding[0] < 1.25


def specs(**shapes):
    return [TensorSpec(name.replace("__", "."), "float32", shape) for name, shape in shapes.items()]


PAIR = specs(m__lora_A__weight=(2, 6), m__lora_B__weight=(8, 2))
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


@pytest.mark.parametrize(
    ("tensors", "settings", "why"),
    [
        (PAIR, None, "adapter_config.json"),
        (PAIR, {**LORA, "peft_type": "ADALORA"}, "ADALORA"),
        (PAIR, {**LORA, "use_dora": True}, "use_dora"),
        (PAIR, {**LORA, "r": 3}, "rank 2"),
        (PAIR, {**LORA, "r": "2"}, "no positive number"),
        (PAIR, {**LORA, "lora_alpha": None}, "lora_alpha"),
        (PAIR, {**LORA, "alpha_pattern": {"(a+)+$": 3}}, "only plain names"),
        (PAIR, {**LORA, "rank_pattern": [1]}, "no table"),
        (PAIR[:1], LORA, "other factor"),
        (specs(m__lora_A__weight=(2, 6, 3, 3), m__lora_B__weight=(8, 2, 1, 1)), LORA, "convolution"),
        (specs(m__lora_A__weight=(2, 6), m__lora_B__weight=(8, 3)), LORA, "no product"),
        ([*PAIR, *specs(m__lora=(8, 6))], LORA, "a tensor of its own"),
        ([*PAIR, *specs(n__lora_A__other__weight=(2, 6), n__lora_B__other__weight=(8, 2))], LORA, "several adapters"),
    ],
)
def test_what_makes_no_product_is_told_with_the_reason(tensors, settings, why):
    found = find_products(tensors, settings)
    assert found.formed == ()
    assert "m.lora_A.weight" in found.unformed
    assert all(why in reason for reason in found.unformed.values())


def test_biases_magnitudes_and_saved_modules_are_no_factors():
    others = specs(m__lora_B__bias=(8,), m__lora_magnitude_vector=(8,), score__weight=(3, 8))
    found = find_products([*PAIR, *others], LORA)
    assert [product.name for product in found.formed] == ["m.lora"]
    assert found.unformed == {}


def test_tables_and_plans_show_products(tmp_path):
    write_adapters(tmp_path / "run", walk(8))
    where = {"SEDARCHIVE_ARCHIVE": str(tmp_path / "a.zarr"), "SEDARCHIVE_DB": str(tmp_path / "a.duckdb")}
    run_here("ingest", tmp_path / "run", **where)
    with few_draws():
        run_here("compute", "--window", "3", **where)
    sql = (
        "SELECT tensor, shape, role, kind, skipped_reason FROM tensors WHERE tensor LIKE '%0.%q_proj%' ORDER BY tensor"
    )
    product, right, left = data_of(run_here("query", sql, "--json", **where))
    q0 = LAYER.format(0, "q_proj")
    assert (product["tensor"], product["shape"]) == (f"{q0}.lora", "48x64")
    assert (product["role"], product["kind"]) == ("query", "matrix")
    assert "product 2 x B A of rank 2" in product["skipped_reason"]
    assert all(f"factor of {q0}.lora" in one["skipped_reason"] for one in (left, right))
    sql = "SELECT DISTINCT n_rows, n_cols, status FROM matrix_stats WHERE matrix LIKE '%.lora'"
    assert data_of(run_here("query", sql, "--json", **where)) == [{"n_rows": 48, "n_cols": 64, "status": "ok"}]
    sql = "SELECT count(*) AS n, min(edge_ratio) AS least FROM windows WHERE scope = 'attention' AND window_size = 3"
    (windows,) = data_of(run_here("query", sql, "--json", **where))
    assert windows["n"] == 5
    assert windows["least"] >= 1
    sql = "SELECT count(*) AS n FROM matrix_excess WHERE matrix LIKE '%.lora'"
    assert data_of(run_here("query", sql, "--json", **where)) == [{"n": 0}]  # a full random matrix is no null for it
    (status,) = data_of(run_here("status", "--json", **where))["runs"]
    assert (status["tensors"], status["products"]) == (8, 4)
    (seen,) = data_of(run_here("inspect", tmp_path / "run", "--json"))
    assert next((one["name"], one["matrix"]) for one in seen["products"]) == (f"{q0}.lora", [48, 64])
    assert seen["n_parameters"] == 4 * 2 * (48 + 64)
    shown = run_here("ingest", "--dry-run", tmp_path / "run", **where).output
    assert "products" in shown
    assert "product 2 x B A of rank 2" in shown
    again = run_here("compute", "--window", "3", **where)
    assert "0 sets of windows" in again.output
    assert "spectra: 0 computed" in again.output


def test_checkpoints_of_different_scale_make_no_product(tmp_path):
    write_adapters(tmp_path / "run", walk(3))
    (tmp_path / "run" / "checkpoint-20" / "adapter_config.json").write_text(json.dumps({**LORA, "lora_alpha": 9}))
    said = run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr").output
    assert "another rank, alpha or kind" in said
    parts = anatomy(Archive(tmp_path / "a.zarr").run("run"))
    assert parts.products.formed == ()
    assert {leaf.name for scope in resolve_scopes("all", parts.leaves) for leaf in scope.leaves} == set(parts.tensors)


def test_another_scale_asks_for_new_gram_matrices_and_spectra(tmp_path):
    keys = set()
    for alpha in (4, 8):
        write_adapters(tmp_path / f"{alpha}" / "run", walk(3), {**LORA, "lora_alpha": alpha})
        run_here("ingest", tmp_path / f"{alpha}" / "run", "--archive", tmp_path / f"{alpha}.zarr")
        keys.add(gram_key(anatomy(Archive(tmp_path / f"{alpha}.zarr").run("run")), GramOptions(MIB)))
    assert len(keys) == 2
