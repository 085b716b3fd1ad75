import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.errors import HistoryError
from sedarchive.history import TensorSpec
from sedarchive.roles import Part, assign_roles

QKV = ("query", "key", "value")
SIZES = st.integers(1, 4)


def specs(shapes, dtype="float32"):
    return {name: TensorSpec(name, dtype, tuple(shape)) for name, shape in shapes.items()}


def role_of(name, shape=(8, 8), others=None, config=None, **options):
    return assign_roles(specs({**(others or {}), name: shape}), config, **options).roles[name]


def kept(part, array):
    axis = part.axis if array.ndim == 2 else 0
    inside = [i for i in range(array.shape[axis]) if part.start <= i % part.period < part.stop]
    return np.take(array, inside, axis=axis)


def neox(rows=24):
    name = "gpt_neox.layers.0.attention.query_key_value."
    shapes = {name + "weight": (rows, rows // 3), name + "bias": (rows,)}
    return name, {**shapes, "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": (4 * rows // 3, rows // 3)}


def assert_parts_are(truth, fused, shapes, name, config):
    role = assign_roles(specs({**shapes, name: fused.shape}), config).roles[name]
    assert role.reason is None
    assert tuple(part.name for part in role.parts) == tuple(truth)
    for part in role.parts:
        np.testing.assert_array_equal(kept(part, fused), truth[part.name])
        assert part.length(fused.shape[part.axis]) == truth[part.name].shape[part.axis]
    elements = np.concatenate([kept(part, fused).ravel() for part in role.parts])
    np.testing.assert_array_equal(np.sort(elements), np.sort(fused, axis=None))


def numbered(query_rows, other_rows, columns):
    """Query, key and value matrices whose elements are all different."""
    sizes = [query_rows * columns, other_rows * columns, other_rows * columns]
    flat = np.arange(sum(sizes))
    q, k, v = np.split(flat, np.cumsum(sizes)[:-1])
    return {"query": q.reshape(-1, columns), "key": k.reshape(-1, columns), "value": v.reshape(-1, columns)}


# Fused layouts, built from their parts.


@settings(deadline=None, max_examples=20)
@given(width=st.integers(2, 9))
def test_thirds_by_rows_and_by_columns_give_back_what_was_stacked(width):
    truth = numbered(width, width, width)
    name, mlp = "h.0.attn.c_attn.weight", {"h.0.mlp.c_fc.weight": (4 * width, width)}
    assert_parts_are(truth, np.concatenate(list(truth.values()), axis=0), mlp, name, None)
    assert_parts_are(truth, np.concatenate(list(truth.values()), axis=1), mlp, name, None)


@settings(deadline=None, max_examples=20)
@given(heads=SIZES, d_head=SIZES)
def test_parts_that_alternate_by_head_give_back_what_was_interleaved(heads, d_head):
    truth = numbered(heads * d_head, heads * d_head, heads * d_head)
    blocks = [matrix.reshape(heads, 1, d_head, -1) for matrix in truth.values()]
    fused = np.concatenate(blocks, axis=1).reshape(3 * heads * d_head, -1)
    name, others = neox(rows=fused.shape[0])
    assert_parts_are(truth, fused, others, name + "weight", {"num_attention_heads": heads})


@settings(deadline=None, max_examples=20)
@given(groups=SIZES, kv_heads=SIZES, d_head=SIZES)
def test_groups_of_queries_with_their_key_and_value_give_back_what_was_grouped(groups, kv_heads, d_head):
    width = groups * kv_heads * d_head
    truth = numbered(width, kv_heads * d_head, width)
    blocks = [matrix.reshape(kv_heads, -1, width) for matrix in truth.values()]
    fused = np.concatenate(blocks, axis=1).reshape(-1, width)
    config = {"model_type": "falcon", "num_attention_heads": groups * kv_heads, "num_kv_heads": kv_heads}
    config |= {"hidden_size": width, "new_decoder_architecture": True, "multi_query": True}
    assert_parts_are(truth, fused, {}, "transformer.h.3.self_attention.query_key_value.weight", config)


@settings(deadline=None, max_examples=20)
@given(groups=SIZES, kv_heads=SIZES, d_head=SIZES)
def test_blocks_of_unequal_size_give_back_what_was_stacked(groups, kv_heads, d_head):
    width = groups * kv_heads * d_head
    truth = numbered(width, kv_heads * d_head, width)
    config = {"num_attention_heads": groups * kv_heads, "num_key_value_heads": kv_heads}
    mlp = {"model.layers.0.mlp.gate_up_proj.weight": (2 * width, width)}
    name = "model.layers.0.self_attn.qkv_proj.weight"
    assert_parts_are(truth, np.concatenate(list(truth.values())), mlp, name, config)


@settings(deadline=None, max_examples=60)
@given(length=st.integers(0, 60), cuts=st.lists(st.integers(0, 12), min_size=3, max_size=3).map(sorted))
def test_the_length_of_a_part_counts_its_indices_even_where_a_period_is_cut_off(length, cuts):
    start, stop, period = cuts[0], cuts[1], max(cuts[2], 1)
    start, stop = min(start, period), min(stop, period)
    part = Part("key", "key", 0, period, start, stop)
    assert part.length(length) == sum(start <= i % period < stop for i in range(length))


def test_a_fused_bias_is_cut_as_its_weight_and_its_parts_are_biases():
    name, shapes = neox()
    roles = assign_roles(specs(shapes), {"num_attention_heads": 4}).roles
    weight, bias = roles[name + "weight"], roles[name + "bias"]
    assert [(p.name, p.role) for p in bias.parts] == [(part, "bias") for part in QKV]
    assert [(p.period, p.start, p.stop) for p in bias.parts] == [(p.period, p.start, p.stop) for p in weight.parts]
    assert [p.role for p in weight.parts] == list(QKV)
    assert (weight.contains, bias.contains) == (QKV, ())


def test_a_one_dimensional_bias_of_a_conv1d_is_cut_along_its_only_axis():
    shapes = {"h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_attn.bias": (12,)}
    roles = assign_roles(specs(shapes)).roles
    assert [p.axis for p in roles["h.0.attn.c_attn.weight"].parts] == [1, 1, 1]
    assert [p.axis for p in roles["h.0.attn.c_attn.bias"].parts] == [0, 0, 0]


# What is kept whole, and why.


def test_an_interleaved_tensor_is_kept_whole_while_the_heads_are_unknown_and_says_how_to_pass_them():
    name, shapes = neox()
    role = assign_roles(specs(shapes)).roles[name + "weight"]
    assert role.parts == ()
    assert "heads unknown: pass --heads N" in role.reason
    assert assign_roles(specs(shapes), heads=4).roles[name + "weight"].parts[0].stop == 2


def test_names_of_nanogpt_under_another_model_type_are_not_cut_as_nanogpt_cuts():
    """transformers' GPT-BigCode has nanoGPT's names and interleaves its heads."""
    name = "transformer.h.0.attn.c_attn.weight"
    shapes = {name: (24, 8), "transformer.h.0.mlp.c_fc.weight": (32, 8), "transformer.wte.weight": (11, 8)}
    assert [part.name for part in assign_roles(specs(shapes)).roles[name].parts] == ["query", "key", "value"]
    by_heads = assign_roles(specs(shapes), {"model_type": "gpt_bigcode", "n_head": 2}).roles[name]
    assert [(part.name, part.period, part.start) for part in by_heads.parts] == [
        ("query", 12, 0), ("key", 12, 4), ("value", 12, 8)
    ]  # fmt: skip
    role = assign_roles(specs(shapes), {"model_type": "of_another", "n_head": 2}).roles[name]
    assert role.parts == ()
    assert role.reason


def test_heads_passed_by_hand_win_over_the_config():
    name, shapes = neox()
    roles = assign_roles(specs(shapes), {"num_attention_heads": 2}, heads=4).roles
    assert roles[name + "weight"].parts[0] == Part("query", "query", 0, 6, 0, 2)


@pytest.mark.parametrize("section", ["text_config", "model_args", "hyper_parameters", "args"])
def test_heads_are_found_in_nested_sections_of_the_config(section):
    name, shapes = neox()
    roles = assign_roles(specs(shapes), {"lr": 0.1, section: {"n_head": 4, "n_embd": 8}}).roles
    assert roles[name + "weight"].parts[0] == Part("query", "query", 0, 6, 0, 2)


@pytest.mark.parametrize("value", [True, "4", 4.0, None, 0, -4])
def test_a_number_of_heads_that_is_no_positive_integer_is_not_believed(value):
    name, shapes = neox()
    assert assign_roles(specs(shapes), {"num_attention_heads": value}).roles[name + "weight"].parts == ()


def test_heads_that_do_not_divide_the_tensor_leave_it_whole():
    name, shapes = neox()
    role = assign_roles(specs(shapes), heads=5).roles[name + "weight"]
    assert role.parts == ()
    assert "24 long" in role.reason
    assert "5 heads" in role.reason
    assert "--heads" in role.reason


def test_heads_that_contradict_the_configs_head_length_leave_the_tensor_whole():
    name, shapes = neox()
    role = assign_roles(specs(shapes), {"head_dim": 4}, heads=4).roles[name + "weight"]
    assert role.parts == ()
    assert "one is 2 long, by the config 4" in role.reason


def phi3(rows):
    return {"layers.0.self_attn.qkv_proj.weight": (rows, 8), "layers.0.mlp.gate_up_proj.weight": (16, 8)}


def test_key_value_heads_are_not_guessed_from_a_bare_number_of_heads():
    role = assign_roles(specs(phi3(24)), heads=4).roles["layers.0.self_attn.qkv_proj.weight"]
    assert role.parts == ()
    assert "--kv-heads" in role.reason
    split = assign_roles(specs(phi3(16)), heads=4, kv_heads=2).roles["layers.0.self_attn.qkv_proj.weight"]
    assert [(p.start, p.stop) for p in split.parts] == [(0, 8), (8, 12), (12, 16)]


def test_a_config_without_key_value_heads_means_as_many_as_query_heads():
    role = assign_roles(specs(phi3(24)), {"num_attention_heads": 4}).roles["layers.0.self_attn.qkv_proj.weight"]
    assert [(p.start, p.stop) for p in role.parts] == [(0, 8), (8, 16), (16, 24)]


def test_query_heads_that_form_no_equal_groups_leave_the_tensor_whole():
    config = {"model_type": "falcon", "num_attention_heads": 5, "num_kv_heads": 2}
    role = role_of("h.0.self_attention.query_key_value.weight", (18, 10), config=config)
    assert role.parts == ()
    assert "equal groups" in role.reason


def test_multi_query_means_one_key_value_head():
    config = {"model_type": "falcon", "num_attention_heads": 4, "num_kv_heads": 4, "multi_query": True}
    role = role_of("h.0.self_attention.query_key_value.weight", (12, 8), config=config)
    assert [(p.period, p.start, p.stop) for p in role.parts] == [(12, 0, 8), (12, 8, 10), (12, 10, 12)]


@pytest.mark.parametrize("name", ["blocks.0.attn.qkv.weight", "layer.0.Wqkv.weight", "h.0.c_attn.weight"])
def test_a_fused_tensor_of_an_unknown_layout_is_kept_whole_and_says_what_it_contains(name):
    role = role_of(name, (24, 8))
    assert (role.role, role.kind, role.parts, role.contains) == ("other", "matrix", (), QKV)
    assert "kept whole" in role.reason


def test_a_fused_bias_of_an_unknown_layout_is_kept_whole_too():
    role = role_of("blocks.0.attn.qkv.bias", (24,))
    assert (role.role, role.parts, role.contains) == ("bias", (), ())
    assert "kept whole" in role.reason


def test_stacked_experts_are_kept_whole():
    role = role_of("model.layers.0.mlp.experts.gate_up_proj", (2, 48, 12))
    assert (role.kind, role.parts, role.contains) == ("array", (), ("gate", "up"))
    assert "3 dimensions" in role.reason


@pytest.mark.parametrize(("option", "words"), [("heads", "--heads"), ("kv_heads", "--kv-heads")])
def test_a_number_of_heads_below_one_is_refused(option, words):
    with pytest.raises(HistoryError, match=rf"{words} is 0"):
        assign_roles({}, **{option: 0})


# Families.


def test_gpt2_and_nanogpt_are_told_apart_by_the_shape_of_c_attn():
    mlp = {"transformer.h.0.mlp.c_fc.weight": (32, 8)}
    wide = assign_roles(specs({**mlp, "transformer.h.0.attn.c_attn.weight": (8, 24)}))
    tall = assign_roles(specs({**mlp, "transformer.h.0.attn.c_attn.weight": (24, 8)}), {"model_type": "gpt2"})
    neither = assign_roles(specs({**mlp, "transformer.h.0.attn.c_attn.weight": (16, 8)}))
    assert (wide.family, tall.family, neither.family) == ("gpt2", "nanogpt", "plain")


def test_a_model_type_that_the_names_do_not_confirm_is_not_believed():
    _, shapes = neox()
    assert assign_roles(specs(shapes), {"model_type": "llama"}).family == "gpt_neox"


def test_a_model_type_decides_between_families_of_the_same_names():
    shapes = {f"model.layers.0.self_attn.{letter}_proj.weight": (8, 8) for letter in "qkvo"}
    shapes["model.layers.0.mlp.gate_proj.weight"] = (16, 8)
    assert assign_roles(specs(shapes)).family == "llama"
    assert assign_roles(specs(shapes), {"model_type": "gemma2"}).family == "gemma"


def test_names_that_say_nothing_are_of_an_unknown_family_and_the_role_other():
    found = assign_roles(specs({"a": (3, 4), "b.c": (5,), "d": ()}))
    assert (found.family, found.n_layers) == ("unknown", 0)
    assert [(r.role, r.kind, r.layer) for r in found.roles.values()] == [
        ("other", "matrix", None),
        ("other", "vector", None),
        ("other", "vector", None),
    ]


def test_no_tensors_at_all_are_an_empty_architecture():
    found = assign_roles({})
    assert (found.family, found.n_layers, dict(found.roles), found.tie_candidates) == ("unknown", 0, {}, ())


def test_the_timm_classifier_is_no_unembedding():
    shapes = {"blocks.0.attn.qkv.weight": (24, 8), "blocks.0.attn.proj.weight": (8, 8), "head.weight": (10, 8)}
    found = assign_roles(specs({**shapes, "patch_embed.proj.weight": (8, 3, 4, 4), "pos_embed": (1, 5, 8)}))
    assert found.family == "timm_vit"
    assert [p.name for p in found.roles["blocks.0.attn.qkv.weight"].parts] == list(QKV)
    assert found.roles["head.weight"].role == "other"
    assert found.roles["pos_embed"].role == "position"


def test_the_code_of_the_spectral_edge_papers_is_known():
    shapes = {"blocks.1.attn.qkv.weight": (24, 8), "blocks.1.attn.out_proj.weight": (8, 8)}
    shapes |= {"blocks.1.mlp.w_up.weight": (32, 8), "blocks.1.mlp.w_down.weight": (8, 32), "lm_head.weight": (9, 8)}
    found = assign_roles(specs({**shapes, "tok_emb.weight": (9, 8), "blocks.1.attn.causal_mask": (1, 1, 5, 5)}))
    assert found.family == "mini_gpt"
    assert [role.role for role in found.roles.values()][1:6] == ["output", "up", "down", "unembedding", "embedding"]
    assert found.roles["blocks.1.attn.causal_mask"].kind == "buffer"
    assert [(p.start, p.stop) for p in found.roles["blocks.1.attn.qkv.weight"].parts] == [(0, 8), (8, 16), (16, 24)]
