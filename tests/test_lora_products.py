"""Products of LoRA factors against what peft merges: trained adapters, and small files with planted settings."""

import copy
import pickle
import shutil
from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import peft
import pytest
import torch
from adapters import SHAPES, adapter_state, swept, walk, write_adapters
from small import run_here
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sedarchive.archive import Archive
from sedarchive.archive.plainchunks import ReusedMemory
from sedarchive.compute.matrix.matrix_rows import stats_columns
from sedarchive.errors import MemoryBudgetError
from sedarchive.executor import Executor
from sedarchive.leaves import resolve_scopes
from sedarchive.lowrank.spectra import product_sigmas
from sedarchive.matrix.stack import SpectraStack
from sedarchive.plan import grid
from sedarchive.sizes import KIB, MIB
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.sweeps.gram_sweep import plan_gram_sweep, sweep_gram
from sedarchive.sweeps.product_sweep import product_tile
from sedarchive.sweeps.spectra_sweep import SpectraOptions, matrix_leaves, sweep_spectra
from sedarchive.sweeps.stored_grams import GramOptions

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
        again, _ = pickle.loads(pickle.dumps((parts, partial(product_tile, None, ReusedMemory()))))
        assert again.leaves == parts.leaves
        assert again.products == parts.products
        grams.append(
            [stored.gram(resolve_scopes(f"tensor:{leaf.name}", parts.leaves)[0]).full for leaf in parts.leaves]
        )
    for one, other in zip(*grams, strict=True):
        assert one.tobytes() == other.tobytes()
