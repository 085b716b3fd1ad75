"""Which factors make a product, what scopes and tables show of it, and what is told where there is none."""

import json

import numpy as np
import pytest
from adapters import LAYER, SHAPES, adapter_state, swept, walk, write_adapters
from peft.utils.other import get_pattern_key
from small import data_of, few_draws, run_here

from sedarchive.archive import Archive
from sedarchive.history import TensorSpec
from sedarchive.leaves import resolve_scopes
from sedarchive.lowrank.products import find_products
from sedarchive.sizes import MIB
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.sweeps.stored_grams import GramOptions, gram_key


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive of one run of planted adapters."""
    folder = tmp_path_factory.mktemp("planted")
    write_adapters(folder / "walk", walk(3))
    run_here("ingest", folder / "walk", "--archive", folder / "a.zarr")
    return folder / "a.zarr"


def test_groups_hold_products_and_scopes_of_tensors_the_factors(archive):
    parts = anatomy(Archive(archive).run("walk"))
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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_does_not_change_and_what_is_not_finite_is_counted(tmp_path, bad):
    first = adapter_state(np.random.default_rng(1), {"m": (5, 7)}, 2)
    same = {name: value.copy() for name, value in first.items()}
    one_row = {name: value.copy() for name, value in first.items()}
    one_row["m.lora_B.weight"][3] += 1
    broken = {name: value.copy() for name, value in one_row.items()}
    broken["m.lora_A.weight"][0, 2] = bad
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
        (PAIR, {**LORA, "lora_alpha": 10**400}, "lora_alpha"),
        (PAIR, {**LORA, "rank_pattern": {"m": 10**400}}, "no positive number"),
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


def test_patterns_stand_for_names_and_their_ends_as_peft_takes_them():
    patterns = {"^a.q": 3, "b.q": 5, "q": 7, r"c\.q": 9}
    names = {"base_model.model.a.q": 3, "base_model.model.x.a.q": 7, "x.b.q": 5, "x.bb.q": 7, "c.q": 7, "xq": 4}
    for module, alpha in names.items():
        found = find_products(
            [
                TensorSpec(f"{module}.lora_A.weight", "float32", (2, 6)),
                TensorSpec(f"{module}.lora_B.weight", "float32", (8, 2)),
            ],
            {**LORA, "alpha_pattern": patterns},
        )
        assert [product.alpha for product in found.formed] == [alpha], module
        key = get_pattern_key(patterns, module.removeprefix("base_model.model."))
        assert patterns.get(key, 4) == alpha


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
        run_here("compute", "--window", "3", "--no-inference", **where)
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
    again = run_here("compute", "--window", "3", "--no-inference", **where)
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


def test_an_archive_made_without_the_settings_learns_them_from_another_ingest(tmp_path):
    write_adapters(tmp_path / "run", walk(3))
    configs = sorted((tmp_path / "run").glob("*/adapter_config.json"))
    for path in configs:
        path.rename(path.with_suffix(".away"))
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    before = anatomy(Archive(tmp_path / "a.zarr").run("run"))
    assert before.products.formed == ()
    assert "ingest again" in before.skipped_reason(min(before.tensors))
    for path in configs:
        path.with_suffix(".away").rename(path)
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    assert len(anatomy(Archive(tmp_path / "a.zarr").run("run")).products.formed) == len(SHAPES)


def test_one_checkpoint_has_a_product_and_no_update(tmp_path):
    write_adapters(tmp_path / "run", walk(1))
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    parts, stored = swept(tmp_path / "a.zarr", "run")
    gram = stored.gram(resolve_scopes("layer:0", parts.leaves)[0])
    assert gram.full.shape == (1, 1)
    assert gram.origin_norm2 > 0


def test_an_absent_factor_leaves_its_product_out_of_groups(tmp_path):
    states = walk(4)
    gone = LAYER.format(1, "q_proj")
    del states[2][f"{gone}.lora_A.weight"]
    write_adapters(tmp_path / "run", states)
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    parts, stored = swept(tmp_path / "a.zarr", "run")
    assert {leaf.name for one in resolve_scopes("all", parts.leaves) for leaf in one.leaves} == {
        f"{module}.lora" for module in SHAPES if module != gone
    }
    (own,) = resolve_scopes(f"tensor:{gone}.lora", parts.leaves)
    assert np.isnan(np.diag(stored.gram(own).full)).tolist() == [False, False, True, True]
    assert parts.positions(own.leaves[0]) == [0, 1, 3]
