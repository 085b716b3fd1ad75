"""Tensors of more than two axes as matrices: stacks of experts, heads, convolutions; and layouts without a library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import indices, kept
from safetensors.numpy import save_file

from sedarchive.families import Split, parse_family, shipped_text
from sedarchive.gram import select_part
from sedarchive.history import TensorSpec
from sedarchive.parts import MOST_EXPERTS, Heads, as_matrix, cut, experts
from sedarchive.roles import assign_roles

QKV = ("query", "key", "value")
NO_HEADS = Heads(None, None, None)
SIZES = st.integers(1, 4)


def specs(shapes):
    return {name: TensorSpec(name, "float32", tuple(shape)) for name, shape in shapes.items()}


def roles_of(shapes, config=None, **options):
    return assign_roles(specs(shapes), config, **options)


# Stacks.


@settings(deadline=None, max_examples=30)
@given(n=SIZES, rows=SIZES, columns=SIZES, axis=st.integers(0, 1), rule=st.sampled_from(["halves", "alternate"]))
def test_the_parts_of_a_stack_are_those_of_each_expert(n, rows, columns, axis, rule):
    shape = (n, rows * (1 + (axis == 0)), columns * (1 + (axis == 1)))
    stack = np.arange(np.prod(shape), dtype=float).reshape(shape)
    parts = experts("other", Split(rule, axis, ("gate", "up")), shape, NO_HEADS)
    found = {(part.row, part.role): kept(part, stack) for part in parts}
    for expert in range(n):
        halves = np.split(stack[expert], 2, axis) if rule == "halves" else None
        every = [np.take(stack[expert], range(at, shape[1 + axis], 2), axis) for at in range(2)]
        for role, truth in zip(("gate", "up"), halves or every, strict=True):
            np.testing.assert_array_equal(found[expert, role], truth)
    assert (sum(indices(part, shape).astype(int) for part in parts) == 1).all()


@settings(deadline=None, max_examples=30)
@given(n=SIZES, rows=SIZES, columns=SIZES, axis=st.integers(0, 1), cuts=st.integers(0, 4), steps=SIZES)
def test_the_parts_of_a_stack_are_picked_from_any_slab(n, rows, columns, axis, cuts, steps):
    shape = (n, 2 * rows, 2 * columns)
    theta = np.arange(steps * np.prod(shape), dtype=float).reshape(steps, n, -1)
    at = min(cuts, n)
    for part in experts("other", Split("halves", axis, ("gate", "up")), shape, NO_HEADS):
        picked = [select_part(theta[:, :at], 0, part), select_part(theta[:, at:], at, part)]
        truth = [kept(part, step.reshape(shape)).ravel() for step in theta]
        np.testing.assert_array_equal(np.concatenate(picked, axis=1), truth)


@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 4), (3, 4), (MOST_EXPERTS + 1, 1, 1), (10**12, 1, 1)])
def test_a_stack_that_is_none_has_no_parts(shape):
    assert experts("down", None, shape, NO_HEADS) == ()


def test_a_stack_of_too_many_experts_is_kept_whole_and_says_so():
    names = {f"layers.0.self_attn.{one}_proj.weight": (4, 4) for one in "qkvo"}
    role = roles_of({**names, "layers.0.mlp.experts.down_proj": (10**9, 1, 1)}).roles["layers.0.mlp.experts.down_proj"]
    assert (role.parts, role.kind, role.matrix) == ((), "array", None)
    assert "kept whole" in role.reason


# Views.


@settings(deadline=None, max_examples=30)
@given(heads=SIZES, width=SIZES, d_head=SIZES)
def test_heads_side_by_side_make_the_products_of_every_head(heads, width, d_head):
    rng = np.random.default_rng(0)
    stack, x = rng.standard_normal((heads, width, d_head)), rng.standard_normal((3, width))
    view = as_matrix(stack.shape, "beside")
    matrix = stack.reshape(view.blocks, view.rows, view.columns // view.blocks).swapaxes(0, 1).reshape(view.shape)
    np.testing.assert_allclose((x @ matrix).reshape(3, heads, d_head), np.einsum("tw,hwd->thd", x, stack))


@settings(deadline=None, max_examples=30)
@given(heads=SIZES, width=SIZES, d_head=SIZES)
def test_heads_one_below_the_other_sum_what_every_head_writes(heads, width, d_head):
    rng = np.random.default_rng(0)
    stack, z = rng.standard_normal((heads, d_head, width)), rng.standard_normal((3, heads, d_head))
    matrix = stack.reshape(as_matrix(stack.shape, "below").shape)
    np.testing.assert_allclose(z.reshape(3, -1) @ matrix, np.einsum("thd,hdw->tw", z, stack))


@pytest.mark.parametrize(
    ("shape", "view", "matrix"),
    [
        ((4, 5), "", (4, 5)),
        ((4, 5), "flat", (4, 5)),
        ((4, 5), "below", (4, 5)),
        ((4, 5), "vector", None),
        ((4, 3, 2, 2), "flat", (4, 12)),
        ((4, 1, 3), "flat", (4, 3)),
        ((1, 7, 4), "below", (7, 4)),
        ((2, 7, 4), "experts", None),
        ((2, 7, 4), "", None),
        ((4,), "flat", None),
        ((), "below", None),
        ((2, 3, 4, 5), "beside", None),
    ],
)
def test_a_view_makes_a_matrix_of_the_axes_it_is_for(shape, view, matrix):
    found = as_matrix(shape, view)
    assert (found and found.shape) == matrix


@pytest.mark.parametrize(
    ("name", "shape", "matrix"),
    [
        ("features.0.weight", (8, 3, 5, 5), (8, 75)),
        ("layer1.0.conv1.weight", (8, 4, 3, 3), (8, 36)),
        ("encoder.conv1.weight", (8, 4, 3), (8, 12)),
        ("patch_embed.proj.weight", (8, 3, 4, 4), (8, 48)),
        ("pos_embed", (1, 9, 8), (9, 8)),
        ("net.0.thing", (8, 3, 5), None),
        ("attn.in_bias", (2, 3), None),
    ],
)
def test_names_alone_tell_what_is_a_convolution_or_a_table(name, shape, matrix):
    found = roles_of({name: shape}).roles[name].matrix
    assert (found and found.shape) == matrix


# Layouts that no installed library writes, built from their parts.


def fused_by_groups(h, k, d, width):
    """Query, key and value matrices, and rows (k, h / k + 2, d) of them as Megatron lays them out."""
    rng = np.random.default_rng(0)
    q, key, v = (rng.standard_normal((n * d, width)) for n in (h, k, k))
    rows = []
    for group in range(k):
        per = h // k * d
        rows += [q[group * per : (group + 1) * per], key[group * d : (group + 1) * d], v[group * d : (group + 1) * d]]
    return dict(zip(QKV, (q, key, v), strict=True)), np.concatenate(rows)


def fused_by_sizes(h, k, d, width):
    truth, _ = fused_by_groups(h, k, d, width)
    return truth, np.concatenate(list(truth.values()))


INTERNLM2 = {
    "model.layers.0.attention.wo.weight": (8, 8),
    "model.layers.0.feed_forward.w1.weight": (16, 8),
    "model.tok_embeddings.weight": (9, 8),
}
MEGATRON = {"decoder.layers.0.self_attention.linear_proj.weight": (8, 8)}
LITGPT = {"transformer.h.0.attn.proj.weight": (8, 8), "transformer.h.0.norm_1.weight": (8,)}
OLMO = {"transformer.blocks.0.attn_out.weight": (8, 8), "transformer.blocks.0.ff_proj.weight": (32, 8)}


@pytest.mark.parametrize(
    ("family", "name", "others", "lay_out"),
    [
        ("megatron_core", "decoder.layers.0.self_attention.linear_qkv.weight", MEGATRON, fused_by_groups),
        ("litgpt", "transformer.h.0.attn.qkv.weight", LITGPT, fused_by_sizes),
        ("olmo_native", "transformer.blocks.0.att_proj.weight", OLMO, fused_by_sizes),
    ],
)
@pytest.mark.parametrize(("h", "k"), [(4, 2), (4, 4), (4, 1)])
def test_the_parts_of_a_layout_are_what_it_was_built_from(family, name, others, lay_out, h, k):
    truth, fused = lay_out(h, k, 2, 8)
    found = roles_of({**others, name: fused.shape}, heads=h, kv_heads=k)
    assert found.family == family
    assert tuple(part.name for part in found.roles[name].parts) == QKV, found.roles[name].reason
    for part in found.roles[name].parts:
        np.testing.assert_array_equal(kept(part, fused), truth[part.name])
    unknown = roles_of({**others, name: (16, 8)}).roles[name]
    assert unknown.parts == ()
    assert "--heads" in unknown.reason


def test_the_fused_weight_of_internlm2_is_kept_whole_until_a_family_file_tells_its_layout():
    name = "model.layers.0.attention.wqkv.weight"
    truth, fused = fused_by_groups(4, 2, 2, 8)
    whole = roles_of({**INTERNLM2, name: fused.shape}, heads=4, kv_heads=2)
    role = whole.roles[name]
    assert (whole.family, role.parts, role.contains, role.layer) == ("internlm2", (), QKV, 0)
    assert "not proved" in role.reason
    assert "arch show internlm2" in role.reason
    assert "--arch FILE" in role.reason
    mine = parse_family(shipped_text("internlm2").replace('rule = "unknown"', 'rule = "grouped"'), "mine.toml")
    found = roles_of({**INTERNLM2, name: fused.shape}, heads=4, kv_heads=2, families=(mine,)).roles[name]
    assert tuple(part.name for part in found.parts) == QKV
    for part in found.parts:
        np.testing.assert_array_equal(kept(part, fused), truth[part.name])


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("transformer.blocks.0.ff_proj.weight", {**OLMO, "transformer.blocks.0.att_proj.weight": (24, 8)}),
        (
            "decoder.layers.0.mlp.linear_fc1.weight",
            {**MEGATRON, "decoder.layers.0.self_attention.linear_qkv.weight": (24, 8)},
        ),
        (
            "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight",
            {"transformer.encoder.layers.0.self_attention.query_key_value.weight": (12, 8)},
        ),
    ],
)
def test_an_mlp_whose_gate_the_names_do_not_tell_is_kept_whole(name, others):
    role = roles_of({**others, name: (32, 8)}).roles[name]
    assert role.parts == ()
    assert set(role.contains) == {"gate", "up"}
    assert "kept whole" in role.reason


LENS = {
    "embed.W_E": (9, 6), "pos_embed.W_pos": (5, 6), "unembed.W_U": (6, 9), "unembed.b_U": (9,),
    "blocks.0.attn.W_Q": (3, 6, 2), "blocks.0.attn.W_K": (3, 6, 2), "blocks.0.attn.W_V": (3, 6, 2),
    "blocks.0.attn.W_O": (3, 2, 6), "blocks.0.attn.b_Q": (3, 2), "blocks.0.attn.b_O": (6,),
    "blocks.0.mlp.W_in": (6, 8), "blocks.0.mlp.W_out": (8, 6), "blocks.0.ln1.w": (6,),
}  # fmt: skip


def test_transformer_lens_has_a_matrix_for_all_heads_of_a_layer():
    found = roles_of(LENS)
    shapes = {name: role.matrix.shape for name, role in found.roles.items() if role.matrix}
    assert found.family == "transformer_lens"
    assert shapes == {
        "embed.W_E": (9, 6), "pos_embed.W_pos": (5, 6), "unembed.W_U": (6, 9), "blocks.0.attn.W_Q": (6, 6),
        "blocks.0.attn.W_K": (6, 6), "blocks.0.attn.W_V": (6, 6), "blocks.0.attn.W_O": (6, 6),
        "blocks.0.mlp.W_in": (6, 8), "blocks.0.mlp.W_out": (8, 6),
    }  # fmt: skip
    assert [found.roles[f"blocks.0.attn.W_{one}"].role for one in "QKVO"] == [*QKV, "output"]
    without = roles_of({name: shape for name, shape in LENS.items() if name != "blocks.0.attn.b_Q"})
    assert without.family == "plain"  # the same names with other axes exist
    assert without.roles["blocks.0.attn.W_Q"].matrix is None


def test_the_factors_of_an_adapter_are_no_weights_of_their_own():
    prefix = "base_model.model.model.layers.3.self_attn.q_proj."
    found = roles_of({prefix + "lora_A.weight": (2, 8), prefix + "lora_B.default.weight": (8, 2)})
    assert {role.role for role in found.roles.values()} == {"other"}
    assert all("adapter" in role.reason and role.layer == 3 for role in found.roles.values())


def test_a_model_under_an_adapter_is_known_by_its_own_names():
    prefix = "base_model.model.model.layers.3.self_attn."
    shapes = {f"{prefix}{one}_proj.base_layer.weight": (8, 8) for one in "qkvo"}
    found = roles_of({**shapes, prefix + "q_proj.lora_A.default.weight": (2, 8)})
    assert found.family == "llama"
    assert [found.roles[name].role for name in shapes] == [*QKV, "output"]


# Families of the user's own.

MINE = r"""
name = "mine"
block = 'b(?P<layer>\d+)\.'

[[tensor]]
pattern = '{block}mixed'
role = "other"
split = {rule = "thirds", parts = ["value", "query", "key"]}
"""


def test_a_family_of_the_users_own_goes_before_the_shipped_ones():
    own = (parse_family(MINE, "mine.toml"),)
    shapes = {f"layers.0.self_attn.{one}_proj.weight": (8, 8) for one in "qkvo"}
    found = roles_of({**shapes, "b2.mixed": (24, 8)}, families=own)
    assert (found.family, found.roles["b2.mixed"].layer) == ("mine", 2)
    assert [part.name for part in found.roles["b2.mixed"].parts] == ["value", "query", "key"]
    assert found.roles["layers.0.self_attn.q_proj.weight"].role == "query"  # by the names that speak for themselves
    assert roles_of(shapes, families=own).family == "llama"  # it knows none of the names


def test_an_entry_of_the_users_own_may_mean_one_layer():
    own = (parse_family(MINE.replace("{block}mixed", r"b12\.mixed"), "mine.toml"),)
    found = roles_of({f"b{layer}.mixed": (24, 8) for layer in (10, 11, 12)}, families=own)
    assert [len(role.parts) for role in found.roles.values()] == [0, 0, 3]


@pytest.mark.parametrize(
    "text",
    [
        MINE.replace("(?P<layer>", "("),
        MINE.replace('"mine"', "3"),
        MINE.replace('"mine"', '"a\\nb"'),
        MINE.replace("'{block}mixed'", "7"),
        MINE.replace('rule = "thirds"', 'rule = "lengths"'),
        MINE.replace("parts =", 'lengths = ["v_head_dim"], parts ='),
        MINE.replace('rule = "thirds", parts', 'rule = "lengths", lengths = ["a", "b", "c"], parts'),
        "name = 'x'\ntensor = 3",
        "name = 'x'\ntensor = [3]",
        "a = " + "[" * 5000,
        MINE.replace('role = "other"', 'role = "other"\nview = "sideways"'),
    ],
)
def test_a_family_file_that_means_nothing_is_refused_by_name(text):
    from sedarchive.errors import SedarchiveError

    with pytest.raises(SedarchiveError, match=r"mine\.toml"):
        parse_family(text, "mine.toml")


# Through the sweeps.


def history(folder, n):
    """A run of every view, the last of its checkpoints as arrays."""
    shapes = {
        "model.layers.0.mlp.experts.gate_up_proj": (5, 8, 6),
        "model.layers.0.mlp.experts.down_proj": (5, 6, 4),
        **{f"model.layers.0.self_attn.{one}_proj.weight": (6, 6) for one in "qkvo"},
        "vision.conv1.weight": (4, 3, 2, 2),
    }
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    states = []
    for step in range(n):
        target = folder / f"checkpoint-{step + 1}"
        target.mkdir(parents=True)
        save_file(state, target / "model.safetensors")
        (target / "config.json").write_text('{"model_type": "mixtral", "num_attention_heads": 3}')
        states.append(state)
        state = {name: value + rng.standard_normal(value.shape).astype("f4") / 10 for name, value in state.items()}
    return states


def lens_history(folder, n):
    rng = np.random.default_rng(1)
    states = [{name: rng.standard_normal(shape).astype("f4") for name, shape in LENS.items()} for _ in range(n)]
    folder.mkdir(parents=True)
    for step, state in enumerate(states):
        save_file(state, folder / f"step_{step}.safetensors")
    return states


def sigmas(analysis, run, step):
    sql = "SELECT matrix, sigma FROM matrix_spectra WHERE run = ? AND step = ?"
    return dict(analysis.rows(sql, [run, step]))


def assert_spectra(found, truth):
    assert found.keys() == truth.keys()
    for name, matrix in truth.items():
        np.testing.assert_allclose(found[name], np.linalg.svd(matrix.astype("f8"), compute_uv=False), rtol=1e-7)


def test_every_expert_has_a_spectrum_and_an_update_of_its_own(analysis, tmp_path):
    states = history(tmp_path / "runs" / "moe", 4)
    analysis.ingest(tmp_path / "runs" / "moe")
    (report,) = analysis.compute(inference=False, windows=(2,), scopes=("role:gate", "role:up", "role:down"))
    assert report.error is None
    last, prefix = states[-1], "model.layers.0.mlp.experts."
    truth = {name: last[name] for name in (f"model.layers.0.self_attn.{one}_proj.weight" for one in "qkvo")}
    truth["vision.conv1.weight"] = last["vision.conv1.weight"].reshape(4, 12)
    for expert in range(5):
        truth[f"{prefix}gate_up_proj:expert{expert}.gate"] = last[prefix + "gate_up_proj"][expert, :4]
        truth[f"{prefix}gate_up_proj:expert{expert}.up"] = last[prefix + "gate_up_proj"][expert, 4:]
        truth[f"{prefix}down_proj:expert{expert}"] = last[prefix + "down_proj"][expert]
    assert_spectra(sigmas(analysis, "moe", 4), truth)
    rows = analysis.rows("SELECT matrix, expert, role, n_rows, n_cols FROM matrices WHERE expert IS NOT NULL")
    assert len(rows) == 15
    assert (f"{prefix}gate_up_proj:expert3.up", 3, "up", 4, 6) in rows
    norms = dict(analysis.rows("SELECT scope, norm FROM updates WHERE step = 4 AND scope LIKE 'role:%'"))
    change = states[3][prefix + "gate_up_proj"].astype("f8") - states[2][prefix + "gate_up_proj"]
    assert norms["role:gate"] == pytest.approx(np.linalg.norm(change[:, :4]))
    assert norms["role:up"] == pytest.approx(np.linalg.norm(change[:, 4:]))


def test_the_gram_matrices_of_the_experts_add_up_whatever_the_slabs(analysis, tmp_path, monkeypatch):
    from sedarchive.archive import Archive
    from sedarchive.leaves import resolve_scopes
    from sedarchive.plan import grid
    from sedarchive.sweeps.anatomy import anatomy
    from sedarchive.sweeps.gram_sweep import GramOptions, StoredGrams, gram_key

    monkeypatch.setattr(grid, "SLAB_BYTES", 256)  # an expert or two a slab
    monkeypatch.setattr(grid, "SMALL_TENSOR_BYTES", 64)
    states = history(tmp_path / "runs" / "moe", 4)
    analysis.ingest(tmp_path / "runs" / "moe")
    analysis.compute(spectra=False, inference=False)
    archive = Archive(analysis.archive)
    parts = anatomy(archive.run("moe"))
    stored = StoredGrams(parts, archive.store, gram_key(parts, GramOptions(2**30)))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    (scope,) = resolve_scopes(f"tensor:{name}", parts.leaves)
    rows = np.array([state[name].astype("f8").ravel() for state in states])
    rows[1:] = np.diff(rows, axis=0)
    assert len(scope.leaves) == 10
    np.testing.assert_allclose(stored.gram(scope).full, rows @ rows.T, rtol=1e-12)


def test_the_heads_of_transformer_lens_have_the_spectrum_of_all_together(analysis, tmp_path):
    states = lens_history(tmp_path / "runs" / "lens", 3)
    analysis.ingest(tmp_path / "runs" / "lens")
    assert [report.error for report in analysis.compute(inference=False)] == [None]
    found, last = sigmas(analysis, "lens", 2), states[-1]
    names = [name for name in LENS if name.split(".")[-1].startswith("W_")]
    truth = {name: last[name] for name in names}
    for one in "QKV":
        truth[f"blocks.0.attn.W_{one}"] = np.concatenate(list(last[f"blocks.0.attn.W_{one}"]), axis=1)
    truth["blocks.0.attn.W_O"] = np.concatenate(list(last["blocks.0.attn.W_O"]), axis=0)
    assert_spectra(found, truth)


def test_cutting_a_stack_by_heads_is_refused_as_for_a_matrix():
    split = Split("sizes", 0, QKV)
    assert [part.shape for part in experts("other", split, (2, 8, 4), Heads(2, 1, 2))] == [(4, 4), (2, 4), (2, 4)] * 2
    assert [part.stop for part in cut(split, (8, 4), Heads(2, 1, 2))] == [4, 6, 8]
