"""Roles and parts against models of transformers: what is set to zero by its role is what the forward pass misses."""

from functools import cache

import numpy as np
import pytest
import torch
from models import KINDS, VOCABULARY, build, indices, kept, roles_of, specs_of, watch, zeroed
from safetensors import safe_open

from sedarchive.roles import assign_roles

QKV = ("query", "key", "value")
LATENT = {"deepseek_v2", "deepseek_v2_lite", "deepseek_v3"}  # part of their keys is rotary and made elsewhere
WITHOUT_CALLS = {"bloom", "mamba"}  # these compute attention, if any, by themselves
ATTENDING = sorted(set(KINDS) - WITHOUT_CALLS)


built = cache(build)
"""For tests that leave the model as it was."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def saved(model, folder):
    """Tensors of the file that the model writes."""
    model.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


SHARED = "what key and value are made from, kept whole: no part of it is of one alone"
REASONS = (
    "head on top of the blocks",
    "layer between the blocks and the head",
    "learned token",
    "scale of the logits",
    "from the width of the embedding to that of the blocks, or back",
    "from a tower into the space that both share",
    "convolution, looked at as outputs x (inputs x kernel)",
    "convolution of a state space mixer, looked at as outputs x (inputs x kernel)",
    "state space mixer: neither attention nor MLP",
    "logit of each head's attention sink",
    SHARED,
)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_parameter_has_a_role_or_a_reason_in_memory_and_in_the_file(name, tmp_path):
    model = built(name)
    for tensors in (model.state_dict(), saved(model, tmp_path)):
        found = roles_of(model, tensors)
        assert found.family == KINDS[name].family
        bare = [
            (role.tensor, role.reason)
            for role in found.roles.values()
            if role.kind not in ("buffer", "integer") and role.role == "other" and not role.parts
            if role.reason not in REASONS
        ]
        assert bare == []
        assert {role.layer for role in found.roles.values()} == {None, 0}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_parts_hold_every_element_once_and_no_fused_tensor_is_left_whole(name):
    model = built(name)
    found = roles_of(model)
    for role in found.roles.values():
        assert not role.contains or role.parts or role.reason == SHARED, role.reason
        if role.parts:
            shape = tuple(model.state_dict()[role.tensor].shape)
            assert (sum(indices(part, shape).astype(int) for part in role.parts) == 1).all()


@pytest.mark.parametrize(
    ("name", "at"), [(name, at) for name in ATTENDING for at in range(3) if at != 1 or name not in LATENT]
)
def test_what_is_zeroed_by_its_role_is_zero_in_attention_and_the_others_are_not(name, at):
    model = built(name)
    found = roles_of(model)
    before = watch(model).attended
    with zeroed(model, found, QKV[at]):
        after = watch(model).attended
    assert before
    assert len(before) == len(after)
    for call in after:
        assert not call[at].any()
        assert all(call[other].any() for other in range(3) if other != at)
    for other in set(range(3)) - {at}:  # later calls see what the first ones changed
        np.testing.assert_array_equal(after[0][other], before[0][other])


@pytest.mark.parametrize("name", sorted(LATENT))
def test_keys_made_from_a_latent_are_zero_but_for_their_rotary_part(name):
    model = built(name)
    found = roles_of(model)
    length = model.config.qk_nope_head_dim
    ((queries, keys, values, _),) = watch(model).attended
    with zeroed(model, found, "key"):
        ((queries_after, keys_after, values_after, _),) = watch(model).attended
    assert keys[..., :length].all()
    assert not keys_after[..., :length].any()
    np.testing.assert_array_equal(keys_after[..., length:], keys[..., length:])
    np.testing.assert_array_equal(queries_after, queries)
    np.testing.assert_array_equal(values_after, values)


@pytest.mark.parametrize("name", sorted(LATENT))
def test_what_keys_and_values_are_both_made_from_is_kept_whole_and_counts_as_both(name):
    model = build(name)
    (shared,) = (role for role in roles_of(model).roles.values() if role.reason == SHARED)
    assert (shared.parts, shared.contains) == ((), ("key", "value"))
    with torch.no_grad():
        model.get_parameter(shared.tensor).zero_()
    ((queries, keys, values, _),) = watch(model).attended
    assert queries.any()
    assert not keys.any()
    assert not values.any()


def test_lengths_that_no_config_tells_or_that_do_not_fit_leave_keys_and_values_together():
    model = build("deepseek_v3")
    name, config = "model.layers.0.self_attn.kv_b_proj.weight", model.config.to_dict()
    state = specs_of(model.state_dict())
    without = assign_roles(state).roles[name]
    assert (without.parts, without.contains) == ((), ("key", "value"))
    assert "qk_nope_head_dim, v_head_dim" in without.reason
    assert "config.json" in without.reason
    for wrong in ({"v_head_dim": 5}, {"num_attention_heads": 3}):
        role = assign_roles(state, config | wrong).roles[name]
        assert role.parts == ()
        assert "does not divide into" in role.reason


@pytest.mark.parametrize("name", sorted(KINDS))
def test_without_heads_a_tensor_laid_out_by_heads_is_kept_whole_and_says_what_to_pass(name):
    model = build(name)
    state = specs_of(model.state_dict())
    told = assign_roles(state, model.config.to_dict())
    bare = assign_roles(state, {"model_type": model.config.model_type})
    assert bare.family == told.family
    for role in bare.roles.values():
        if role.parts != told.roles[role.tensor].parts:
            assert role.parts == () or all(part.row is not None for part in role.parts)
            assert "kept whole" in role.reason
            assert "pass --heads N" in role.reason or "config.json" in role.reason


def modules_of(found, role):
    names = [name for name, one in found.roles.items() if one.role == role and one.layer is not None]
    return [name.removesuffix(".weight") for name in names if name.endswith(".weight")]


@pytest.mark.parametrize("name", ATTENDING)
def test_the_output_projection_is_what_takes_the_result_of_attention(name):
    model = build(name)
    modules = modules_of(roles_of(model), "output")
    seen = watch(model, modules)
    results = [call[3].transpose(0, 2, 1, 3).reshape(*call[3].shape[::2], -1) for call in seen.attended]
    assert len(modules) == len(results) == len(seen.inputs)
    for given in seen.inputs.values():
        close = [result for result in results if result.size == given.size]
        assert any(np.allclose(given.reshape(-1), result.reshape(-1), rtol=1e-4, atol=1e-5) for result in close)


STACKED = {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", *LATENT}
EXPERTS = {*STACKED, "gpt_oss", "dbrx"}


@pytest.mark.parametrize("role", ["gate", "up"])
@pytest.mark.parametrize("name", sorted(set(KINDS) - EXPERTS - {"mamba"}))
def test_the_way_down_takes_nothing_where_the_gate_or_the_way_up_is_zero(name, role):
    model = build(name)
    found = roles_of(model)
    there = {one.role for one in found.roles.values()} | {p.role for one in found.roles.values() for p in one.parts}
    if role not in there:
        assert role == "gate"
        return
    modules = modules_of(found, "down")
    assert modules
    assert all(given.any() for given in watch(model, modules).inputs.values())
    with zeroed(model, found, role):
        given = watch(model, modules).inputs
    assert len(given) == len(modules)
    assert not any(one.any() for one in given.values())  # every activation here is zero at zero


def gate_parts(model, found):
    """The numbers of gates as the model calls them: what goes into an activation function."""
    seen = []
    kinds = ("Activation", "SiLU", "GELU", "ReLU")
    handles = [
        module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().double().numpy()))
        for module in model.modules()
        if any(kind in type(module).__name__ for kind in kinds)
    ]
    watch(model)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["phi3", "glm", "modernbert", "llama", "gemma", "t5_gated", "olmo2"])
def test_the_gate_is_what_goes_into_the_activation(name):
    model = build(name)
    found = roles_of(model)
    before = gate_parts(model, found)
    with zeroed(model, found, "up"):
        unchanged = gate_parts(model, found)
    with zeroed(model, found, "gate"):
        gone = gate_parts(model, found)
    assert before[0].any()
    np.testing.assert_array_equal(unchanged[0], before[0])
    assert not gone[0].any()


@pytest.mark.parametrize("name", sorted(KINDS))
def test_embedding_and_head_are_what_the_model_says_they_are(name):
    model = build(name)
    found = roles_of(model)
    if model.config.model_type in ("vit", "deit"):
        return
    state = model.state_dict()
    text = model.text_model if name == "clip" else model
    pointers = {tensor.data_ptr(): one for one, tensor in reversed(state.items())}
    embedding = text.get_input_embeddings().weight
    tied = [one for one, tensor in state.items() if tensor.data_ptr() == embedding.data_ptr()]
    assert {found.roles[one].role for one in tied} <= {"embedding", "unembedding"}
    head = model.get_output_embeddings() if name != "clip" else None
    if head is not None:
        assert found.roles[pointers[head.weight.data_ptr()]].role in ("embedding", "unembedding")
        heads = [one for one, role in found.roles.items() if role.role == "unembedding"]
        assert [state[one].shape[0] for one in heads] == [VOCABULARY]


# Experts.


@pytest.mark.parametrize("name", sorted(STACKED))
def test_the_parts_of_a_stack_are_the_experts_of_the_file(name, tmp_path):
    model = build(name)
    memory, file = model.state_dict(), saved(model, tmp_path)
    stacked, apart = roles_of(model, memory), roles_of(model, file)
    found = {
        (role.layer, part.row, part.role): kept(part, memory[role.tensor].numpy())
        for role in stacked.roles.values()
        for part in role.parts
        if part.row is not None
    }
    written = {
        (role.layer, role.expert, role.role): file[role.tensor].numpy()
        for role in apart.roles.values()
        if role.expert is not None
    }
    assert len(written) == 12
    assert found.keys() == written.keys()
    assert all(np.array_equal(found[key], written[key]) for key in found)


def one_expert(model, expert, x):
    """What one expert makes of some inputs."""
    module = model.model.layers[0].mlp.experts
    chosen = torch.full((len(x), 1), expert)
    with torch.no_grad():
        return module(torch.from_numpy(x).float(), chosen, torch.ones(len(x), 1)).double().numpy()


def parts_of_expert(model, expert):
    found = roles_of(model)
    return {
        part.role: kept(part, model.state_dict()[role.tensor].double().numpy())
        for role in found.roles.values()
        for part in role.parts
        if part.row == expert
    }


def silu(x, slope=1.0):
    return x / (1 + np.exp(-slope * x))


@pytest.mark.parametrize("name", sorted(STACKED))
def test_an_expert_computes_with_its_gate_up_and_down(name):
    model = build(name)
    x = np.random.default_rng(0).standard_normal((3, 12))
    parts = parts_of_expert(model, 2)
    expected = (silu(x @ parts["gate"].T) * (x @ parts["up"].T)) @ parts["down"].T
    np.testing.assert_allclose(one_expert(model, 2, x), expected, rtol=1e-4, atol=1e-4)


def test_the_experts_of_dbrx_lie_one_below_the_other_in_the_matrices_of_their_roles():
    model = build("dbrx")
    module = model.transformer.blocks[0].ffn.experts
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    experts = {role.role: role for role in roles_of(model).roles.values() if ".experts." in role.tensor}
    assert sorted(experts) == ["down", "gate", "up"]
    assert all("one below the other" in role.reason and role.parts == () for role in experts.values())
    x = np.random.default_rng(0).standard_normal((3, 12))
    gate, up, down = (state[experts[role].tensor].reshape(4, 20, 12)[2] for role in ("gate", "up", "down"))
    with torch.no_grad():
        chosen = torch.full((3, 1), 2)
        found = module(torch.from_numpy(x).float(), chosen, torch.ones(3, 1)).double().numpy().reshape(3, 12)
    np.testing.assert_allclose(found, (silu(x @ gate.T) * (x @ up.T)) @ down, rtol=1e-4, atol=1e-4)


def test_an_expert_of_gpt_oss_has_gate_and_up_in_alternating_columns():
    model = build("gpt_oss")
    experts = model.model.layers[0].mlp.experts
    with torch.no_grad():
        experts.gate_up_proj_bias.zero_()
        experts.down_proj_bias.zero_()
    x = np.random.default_rng(0).standard_normal((3, 12))
    parts = parts_of_expert(model, 1)
    gate, up = np.minimum(x @ parts["gate"], experts.limit), np.clip(x @ parts["up"], -experts.limit, experts.limit)
    expected = (silu(gate, experts.alpha) * (up + 1)) @ parts["down"]
    np.testing.assert_allclose(one_expert(model, 1, x), expected, rtol=1e-4, atol=1e-4)
    assert roles_of(model).roles["model.layers.0.mlp.experts.gate_up_proj_bias"].matrix is None


def test_stacked_experts_without_a_config_are_told_apart_but_not_cut():
    model = build("mixtral")
    state = model.state_dict()
    found = roles_of(model, state)
    bare = assign_roles(specs_of(state))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert (bare.family, len(bare.roles[name].parts)) == ("llama", 4)
    assert len(found.roles[name].parts) == 8
    assert "kept whole" in bare.roles[name].reason
    assert [part.shape for part in bare.roles[name].parts] == [(40, 12)] * 4
    assert bare.roles[name].contains == ("gate", "up")
