import pytest

from sedarchive.errors import SedarchiveError
from sedarchive.families import ROLES, load_families, parse_family
from sedarchive.history import TensorSpec
from sedarchive.roles import ATTENTION, MLP, assign_roles


def specs(shapes, dtype="float32"):
    return {name: TensorSpec(name, dtype, tuple(shape)) for name, shape in shapes.items()}


def role_of(name, shape=(8, 8), others=None):
    return assign_roles(specs({**(others or {}), name: shape})).roles[name]


# Names.


@pytest.mark.parametrize(
    ("name", "role", "layer"),
    [
        ("model.layers.11.self_attn.q_proj.weight", "query", 11),
        ("layers.2.attention.wk.weight", "key", 2),
        ("layers.2.attention.wo.weight", "output", 2),
        ("layers.2.feed_forward.w1.weight", "gate", 2),
        ("layers.2.feed_forward.w3.weight", "up", 2),
        ("layers.2.feed_forward.w2.weight", "down", 2),
        ("blocks.0.attn.W_Q", "query", 0),
        ("blocks.0.attn.b_Q", "bias", 0),
        ("blocks.0.mlp.W_in", "up", 0),
        ("blocks.0.mlp.W_out", "down", 0),
        ("blocks.0.ln1.w", "norm", 0),
        ("unembed.W_U", "unembedding", None),
        ("embed.W_E", "embedding", None),
        ("pos_embed.W_pos", "position", None),
        ("blocks.3.sa.heads.1.key.weight", "key", 3),
        ("blocks.3.sa.proj.weight", "output", 3),
        ("blocks.3.ffwd.net.0.weight", "up", 3),
        ("blocks.3.ffwd.net.2.weight", "down", 3),
        ("transformer.h.5.attn.attention.v_proj.weight", "value", 5),
        ("transformer.layer.1.attention.q_lin.weight", "query", 1),
        ("transformer.layer.1.ffn.lin1.weight", "up", 1),
        ("transformer.layer.1.ffn.lin2.weight", "down", 1),
        ("vit.encoder.layer.4.attention.output.dense.weight", "output", 4),
        ("vit.encoder.layer.4.intermediate.dense.weight", "up", 4),
        ("vit.encoder.layer.4.output.dense.weight", "down", 4),
        ("encoder.block.2.layer.1.DenseReluDense.wo.weight", "down", 2),
        ("encoder.block.2.layer.0.SelfAttention.o.weight", "output", 2),
        ("model.layers.2.mlp.Wo.weight", "down", 2),
        ("model.layers.2.attn.Wo.weight", "output", 2),
        ("backbone.layers.2.mixer.out_proj.weight", "other", 2),
        ("model.layers.2.mamba.out_proj.weight", "other", 2),
        ("model.layers.3.self_attn.q_norm.weight", "norm", 3),
        ("model.layers.3.self_attn.q_proj.lora_A.weight", "other", 3),
        ("layer1.0.conv1.weight", "other", 1),
        ("encoder.layers_7.w_up", "up", 7),
        ("fc1.weight", "other", None),
        ("mlp.fc1.weight", "up", None),
        ("lm_head.weight", "unembedding", None),
        ("lm_head.bias", "bias", None),
        ("transformer.ln_f.weight", "norm", None),
        ("transformer.ln_f.bias", "bias", None),
    ],
)
def test_a_name_alone_tells_role_and_layer(name, role, layer):
    shape = (8,) if role in ("norm", "bias") else (8, 8)
    found = role_of(name, shape, others={"a.blocks.0.x": (2,)})
    assert (found.role, found.layer) == (role, layer)


def test_integers_in_names_are_layers_only_where_no_name_has_a_block():
    assert assign_roles(specs({"net.0.weight": (4, 4), "net.2.weight": (4, 4)})).n_layers == 2
    assert role_of("net.2.weight").layer == 2
    assert role_of("head.2.weight", others={"blocks.0.attn.wq": (4, 4)}).layer is None


@pytest.mark.parametrize("name", ["blocks.{}.attn.wq", "net.{}.weight", "experts.{}.w1.weight"])
def test_digits_that_are_too_many_for_an_index_are_none(name):
    found = role_of(name.format("9" * 5000))
    assert (found.layer, found.expert) == (None, None)


def test_layers_from_ten_on_are_told_apart_and_of_one_role():
    names = [f"model.layers.{layer}.mlp.experts.{layer}.up_proj.weight" for layer in (9, 10, 11, 123)]
    roles = assign_roles(specs(dict.fromkeys(names, (4, 4)))).roles
    assert [(roles[name].layer, roles[name].expert) for name in names] == [(9, 9), (10, 10), (11, 11), (123, 123)]
    assert {role.role for role in roles.values()} == {"up"}


def test_a_name_longer_than_any_models_is_looked_at_no_further():
    name = "layers.1." * 1000 + "q_proj.weight"
    found = assign_roles(specs({name: (4, 4), "layers.1.q_proj.weight": (4, 4)})).roles
    assert (found[name].role, found[name].layer, found[name].pattern) == ("other", None, None)
    assert found["layers.1.q_proj.weight"].role == "query"


def test_wrappers_in_names_do_not_matter_and_the_true_name_is_kept():
    name = "_orig_mod.model.layers.1._fsdp_wrapped_module.self_attn.q_proj.base_layer.weight"
    found = role_of(name)
    assert (found.tensor, found.role, found.layer) == (name, "query", 1)


def test_experts_have_an_index_and_their_gate_is_a_router():
    shapes = {f"layers.0.self_attn.{letter}_proj.weight": (8, 8) for letter in "qkvo"}
    shapes |= {"layers.0.block_sparse_moe.experts.5.w1.weight": (8, 8), "layers.0.block_sparse_moe.gate.weight": (2, 8)}
    roles = assign_roles(specs(shapes)).roles
    assert roles["layers.0.block_sparse_moe.gate.weight"].role == "router"
    expert = roles["layers.0.block_sparse_moe.experts.5.w1.weight"]
    assert (expert.role, expert.expert) == ("gate", 5)
    assert roles["layers.0.self_attn.q_proj.weight"].expert is None


def test_the_gate_of_an_mlp_without_experts_is_a_gate():
    assert role_of("layers.0.mlp.gate.weight").role == "gate"
    assert (
        role_of("layers.0.mlp.gate.weight", others={"layers.0.mlp.experts.0.up_proj.weight": (8, 8)}).role == "router"
    )


# Kinds.


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.h.0.attn.bias", (1, 1, 6, 6)),
        ("h.0.attn.bias", (6, 6)),
        ("h.0.attn.masked_bias", ()),
        ("gpt_neox.layers.0.attention.bias", (1, 1, 6, 6)),
        ("blocks.0.sa.heads.0.tril", (6, 6)),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (4,)),
        ("freqs_cis", (6, 4)),
        ("embeddings.position_ids", (1, 6)),
        ("bn1.running_mean", (6,)),
        ("bn1.num_batches_tracked", ()),
    ],
)
def test_buffers_are_no_parameters_and_say_so(name, shape):
    found = role_of(name, shape)
    assert (found.kind, found.role) == ("buffer", "other")
    assert "not a parameter" in found.reason


@pytest.mark.parametrize("name", ["h.0.attn.bias", "attention.bias", "mask_token", "h.0.attn.out_bias"])
def test_a_vector_that_only_looks_like_a_mask_is_a_parameter(name):
    assert role_of(name, (6,)).kind == "vector"


@pytest.mark.parametrize("dtype", ["int64", "int8", "bool", "complex64"])
def test_elements_that_are_no_floats_are_never_split(dtype):
    shapes = {"h.0.attn.c_attn.weight": (24, 8), "h.0.mlp.c_fc.weight": (32, 8)}
    found = assign_roles(specs(shapes, dtype)).roles["h.0.attn.c_attn.weight"]
    assert (found.kind, found.parts) == ("integer", ())
    assert dtype in found.reason


@pytest.mark.parametrize(
    ("shape", "kind"), [((), "vector"), ((3,), "vector"), ((3, 4), "matrix"), ((3, 4, 5), "array")]
)
def test_the_kind_of_a_parameter_is_its_number_of_axes(shape, kind):
    assert role_of("x", shape).kind == kind


# Ties.


TIED = {"transformer.wte.weight": (9, 8), "lm_head.weight": (9, 8), "transformer.wpe.weight": (9, 8)}


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        (None, None),
        ({}, None),
        ({"n_head": 4}, None),
        ({"model_type": "gpt2"}, True),
        ({"model_type": "gpt_neox"}, False),
        ({"model_type": "never-heard-of"}, None),
        ({"model_type": "gpt2", "tie_word_embeddings": False}, False),
        ({"text_config": {"tie_word_embeddings": True}}, True),
    ],
)
def test_whether_the_head_is_tied_is_what_the_config_says(config, tied):
    assert assign_roles(specs(TIED), config).tied_by_config is tied


def test_a_head_may_be_tied_to_an_embedding_of_its_shape_and_dtype_only():
    assert assign_roles(specs(TIED)).tie_candidates == (("lm_head.weight", "transformer.wte.weight"),)
    assert assign_roles(specs({**TIED, "lm_head.weight": (10, 8)})).tie_candidates == ()
    mixed = {**specs(TIED), "lm_head.weight": TensorSpec("lm_head.weight", "float16", (9, 8))}
    assert assign_roles(mixed).tie_candidates == ()


# The files.


def test_every_family_file_is_read_and_every_split_has_roles():
    families = load_families()
    assert {"gpt2", "nanogpt", "gpt_neox", "llama", "torch_mha", "plain", "buffers"} <= set(families)
    assert all(rule.reason for rule in families["buffers"].rules)
    assert {*ATTENTION, *MLP} < set(ROLES)


ENTRY = "[[tensor]]\npattern = '{block}x'\nrole = \"query\"\n"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("name = ", "family file mine.toml"),
        ('name = "mine"', "'tensor' is missing"),
        (ENTRY, "name"),
        ('name = "mine"\n' + ENTRY.replace("query", "quarry"), "'quarry' is not a role"),
        ('name = "mine"\n' + ENTRY.replace("x", "("), "mine.toml"),
        ('name = "mine"\n' + ENTRY + 'shape = "round"', "'round' is not a shape"),
        ('name = "mine"\n' + ENTRY + "colour = 1", "colour"),
        ('name = "mine"\n' + ENTRY + 'split = {rule = "fifths", parts = ["key", "value"]}', "'fifths'"),
        ('name = "mine"\n' + ENTRY + 'split = {rule = "halves", parts = ["key", "key"]}', "different parts"),
        ('name = "mine"\n' + ENTRY + 'split = {rule = "thirds", parts = ["key", "value"]}', "2 parts"),
        ('name = "mine"\n' + ENTRY + 'split = {rule = "sizes", parts = ["gate", "up"]}', "query, key and value"),
        ('name = "mine"\n' + ENTRY + 'split = {rule = "halves", axis = 2, parts = ["key", "value"]}', "axis 2"),
    ],
)
def test_a_family_file_with_a_mistake_is_refused_by_name(text, cause):
    with pytest.raises(SedarchiveError, match=r"mine\.toml") as caught:
        parse_family(text, "mine.toml")
    assert cause in str(caught.value)


def test_a_family_may_be_written_by_hand():
    family = parse_family("name = \"mine\"\nblock = 'b(?P<layer>\\d+)/'\n" + ENTRY, "mine.toml")
    assert family.rules[0].matches("b7/x", (3, 4))
    assert not family.rules[0].matches("c7/x", (3, 4))
