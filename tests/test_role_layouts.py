"""The parts of fused tensors against the queries, keys and values that real modules hand to attention."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)
from transformers.models.bloom import modeling_bloom

from sedarchive.history import TensorSpec
from sedarchive.roles import assign_roles

QKV = ("query", "key", "value")
WIDTH, VOCABULARY = 12, 20
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def attended(monkeypatch):
    """Queries, keys and values of every call of attention, each (batch, heads, tokens, d_head)."""
    calls = []
    attend = functional.scaled_dot_product_attention

    def record(query, key, value, *args, **kwargs):
        calls.append([tensor.detach().double().numpy() for tensor in (query, key, value)])
        return attend(query, key, value, *args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", record)
    return calls


def randomised(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module.eval()


def architecture(module, config=None, **options):
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return assign_roles({name: TensorSpec(name, "float32", shape) for name, shape in shapes.items()}, config, **options)


def inputs_of(module, seen):
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().double().numpy()))


def kept(part, array):
    axis = part.axis if array.ndim == 2 else 0
    inside = [i for i in range(array.shape[axis]) if part.start <= i % part.period < part.stop]
    return np.take(array, inside, axis=axis)


def by_parts(module, found, weight, bias, x):
    """Inputs times each part of a fused weight, plus the same part of its bias."""
    tensors = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    role = found.roles[weight]
    assert tuple(part.name for part in role.parts) == QKV, role.reason
    products = {p.name: x @ (kept(p, tensors[weight]) if p.axis else kept(p, tensors[weight]).T) for p in role.parts}
    for part in found.roles[bias].parts if bias in tensors else ():
        products[part.name] = products[part.name] + kept(part, tensors[bias])
    return [products[name] for name in QKV]


def joined(heads):
    """(batch, heads, tokens, d_head) as (batch, tokens, heads * d_head)."""
    return heads.transpose(0, 2, 1, 3).reshape(heads.shape[0], heads.shape[2], -1)


def assert_attention_saw(call, expected, groups=1):
    """Compare with one call of attention; keys and values may stand once for each of their group's queries."""
    for seen, product, share in zip(call, expected, (1, groups, groups), strict=True):
        repeated = share if joined(seen).shape != product.shape else 1
        np.testing.assert_allclose(joined(seen[:, ::repeated]), product, rtol=1e-4, atol=1e-4)


def run_one_token(model):
    """Three sequences of a single token: at position 0 the rotation of queries and keys is the identity."""
    with torch.no_grad():
        model(input_ids=torch.tensor([[3], [7], [11]]), use_cache=False)


def gpt2():
    config = GPT2Config(n_layer=2, n_embd=WIDTH, n_head=3, n_positions=8, attn_implementation="sdpa", **COMMON)
    return GPT2LMHeadModel(config), "gpt2", "transformer.h.1.attn.c_attn", 1


def gpt_neox():
    sizes = {"num_hidden_layers": 2, "hidden_size": WIDTH, "num_attention_heads": 3, "intermediate_size": 24}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, attn_implementation="sdpa", **COMMON))
    return model, "gpt_neox", "gpt_neox.layers.1.attention.query_key_value", 1


def phi3():
    sizes = {"num_hidden_layers": 2, "hidden_size": WIDTH, "intermediate_size": 24}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
    model = Phi3ForCausalLM(Phi3Config(**sizes, **heads, attn_implementation="sdpa", **COMMON))
    return model, "phi3", "model.layers.1.self_attn.qkv_proj", 3


def falcon(kind):
    heads = {"grouped": (True, False, 2), "multi_query": (False, True, 6), "by_head": (False, False, 6)}[kind]
    new, multi, kv_heads = heads
    sizes = {"num_hidden_layers": 2, "hidden_size": WIDTH, "num_attention_heads": 6, "num_kv_heads": kv_heads}
    layout = {"new_decoder_architecture": new, "multi_query": multi, "bias": True}
    model = FalconForCausalLM(FalconConfig(**sizes, **layout, attn_implementation="sdpa", **COMMON))
    groups = {"grouped": 3, "multi_query": 6, "by_head": 1}[kind]
    return model, "falcon", "transformer.h.1.self_attention.query_key_value", groups


def falcon_40b():
    return falcon("grouped")


def falcon_7b():
    return falcon("multi_query")


def falcon_rw():
    return falcon("by_head")


@pytest.mark.parametrize("build", [gpt2, gpt_neox, phi3, falcon_40b, falcon_7b, falcon_rw])
def test_the_parts_make_the_queries_keys_and_values_of_the_real_model(build, attended):
    model, family, fused, groups = build()
    randomised(model)
    found = architecture(model, model.config.to_dict())
    assert (found.family, found.n_layers) == (family, 2)
    x = []
    inputs_of(model.get_submodule(fused), x)
    run_one_token(model)
    assert_attention_saw(attended[1], by_parts(model, found, fused + ".weight", fused + ".bias", x[0]), groups)


def test_the_heads_of_gpt_neox_may_be_passed_by_hand(attended):
    model, _, fused, _ = gpt_neox()
    x = []
    inputs_of(randomised(model).get_submodule(fused), x)
    run_one_token(model)
    found = architecture(model, heads=3)
    assert_attention_saw(attended[1], by_parts(model, found, fused + ".weight", fused + ".bias", x[0]))


def test_another_number_of_heads_does_not_make_the_queries_of_gpt_neox(attended):
    model, _, fused, _ = gpt_neox()
    x = []
    inputs_of(randomised(model).get_submodule(fused), x)
    run_one_token(model)
    wrong = by_parts(model, architecture(model, heads=4), fused + ".weight", fused + ".bias", x[0])
    with pytest.raises(AssertionError):
        assert_attention_saw(attended[1], wrong)


def test_the_parts_make_the_queries_keys_and_values_of_bloom(monkeypatch):
    calls, x = [], []
    reshape = modeling_bloom.BloomAttention._reshape

    def record(self, fused):
        heads = reshape(self, fused)
        calls.append([tensor.detach().double().numpy() for tensor in heads])
        return heads

    monkeypatch.setattr(modeling_bloom.BloomAttention, "_reshape", record)
    model = randomised(BloomForCausalLM(BloomConfig(n_layer=2, hidden_size=WIDTH, n_head=3, **COMMON)))
    found = architecture(model, model.config.to_dict())
    fused = "transformer.h.1.self_attention.query_key_value"
    inputs_of(model.get_submodule(fused), x)
    run_one_token(model)
    assert found.family == "bloom"
    assert_attention_saw(calls[1], by_parts(model, found, fused + ".weight", fused + ".bias", x[0]))


def test_llama_with_grouped_queries_needs_no_split(attended):
    sizes = {"num_hidden_layers": 1, "hidden_size": WIDTH, "intermediate_size": 24}
    config = LlamaConfig(**sizes, num_attention_heads=6, num_key_value_heads=2, attn_implementation="sdpa", **COMMON)
    model, x = randomised(LlamaForCausalLM(config)), []
    found = architecture(model, config.to_dict())
    inputs_of(model.model.layers[0].self_attn.q_proj, x)
    run_one_token(model)
    by_role = {role.role: role for role in found.roles.values() if role.layer == 0}
    tensors = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    assert found.family == "llama"
    assert all(role.parts == () for role in found.roles.values())
    assert_attention_saw(attended[0], [x[0] @ tensors[by_role[name].tensor].T for name in QKV], groups=3)


def test_phi3_cuts_the_gate_from_the_up_projection():
    model = randomised(phi3()[0])
    mlp, name = model.model.layers[0].mlp, "model.layers.0.mlp.gate_up_proj.weight"
    gate, up = architecture(model, model.config.to_dict()).roles[name].parts
    fused = mlp.gate_up_proj.weight.detach().double().numpy()
    x = torch.randn(4, WIDTH)
    hidden = []
    inputs_of(mlp.down_proj, hidden)
    with torch.no_grad():
        mlp(x)
    gated, raised = (x.double().numpy() @ kept(part, fused).T for part in (gate, up))
    assert (gate.name, up.name) == ("gate", "up")
    np.testing.assert_allclose(hidden[0], gated / (1 + np.exp(-gated)) * raised, rtol=1e-4, atol=1e-4)


class CausalAttention(nn.Module):
    """Attention with one Linear for queries, keys and values, stacked, and a causal mask as a buffer."""

    def __init__(self, fused, projection):
        super().__init__()
        self.names = fused, projection
        self.add_module(fused, nn.Linear(WIDTH, 3 * WIDTH))
        self.add_module(projection, nn.Linear(WIDTH, WIDTH))
        self.register_buffer("bias", torch.tril(torch.ones(5, 5)).view(1, 1, 5, 5))

    def forward(self, x):
        batch, tokens, width = x.shape
        heads = getattr(self, self.names[0])(x).view(batch, tokens, 3, 3, width // 3).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        return getattr(self, self.names[1])(mixed.transpose(1, 2).reshape(batch, tokens, width))


def tower(block, **modules):
    """Modules under the names of a model: {block}.0.attn and {block}.0.mlp."""
    layer = nn.ModuleDict(modules)
    model = nn.Module()
    model.add_module(block, nn.ModuleList([layer]))
    return nn.ModuleDict({"transformer": model}) if block == "h" else model


def nanogpt():
    mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)})
    return tower("h", attn=CausalAttention("c_attn", "c_proj"), mlp=mlp), "nanogpt", "transformer.h.0.attn", "c_attn"


def mini_gpt():
    mlp = nn.ModuleDict({"w_up": nn.Linear(WIDTH, 4 * WIDTH), "w_down": nn.Linear(4 * WIDTH, WIDTH)})
    return tower("blocks", attn=CausalAttention("qkv", "out_proj"), mlp=mlp), "mini_gpt", "blocks.0.attn", "qkv"


@pytest.mark.parametrize("build", [nanogpt, mini_gpt])
def test_the_parts_make_the_queries_keys_and_values_of_stacked_linears(build, attended):
    model, family, attention, fused = build()
    randomised(model)
    found = architecture(model)
    x = torch.randn(2, 5, WIDTH)
    with torch.no_grad():
        model.get_submodule(attention)(x)
    name = f"{attention}.{fused}"
    assert found.family == family
    assert found.roles[attention + ".bias"].kind == "buffer"
    assert_attention_saw(attended[0], by_parts(model, found, name + ".weight", name + ".bias", x.double().numpy()))


def test_the_parts_make_the_queries_keys_and_values_of_torch_multihead_attention(attended):
    module = randomised(nn.MultiheadAttention(WIDTH, 3, batch_first=True))
    query, key, value = torch.randn(3, 2, 5, WIDTH)
    module(query, key, value, need_weights=False)
    found = architecture(module)
    weight = module.in_proj_weight.detach().double().numpy()
    bias = module.in_proj_bias.detach().double().numpy()
    expected = [
        x.double().numpy() @ kept(part, weight).T + kept(bias_part, bias)
        for x, part, bias_part in zip(
            (query, key, value), found.roles["in_proj_weight"].parts, found.roles["in_proj_bias"].parts, strict=True
        )
    ]
    assert found.family == "torch_mha"
    assert tuple(part.name for part in found.roles["in_proj_weight"].parts) == QKV
    assert found.roles["out_proj.weight"].role == "output"
    assert_attention_saw(attended[0], expected)


def test_the_parts_make_the_queries_keys_and_values_of_a_torch_transformer_encoder(attended):
    layer = nn.TransformerEncoderLayer(WIDTH, 3, 24, dropout=0.0, batch_first=True, norm_first=True)
    encoder = randomised(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    model, x = nn.ModuleDict({"encoder": encoder}), []
    encoder.layers[1].norm1.register_forward_hook(lambda *args: x.append(args[2].detach().double().numpy()))
    encoder(torch.randn(2, 5, WIDTH))
    found = architecture(model)
    attention = "encoder.layers.1.self_attn."
    expected = by_parts(model, found, attention + "in_proj_weight", attention + "in_proj_bias", x[0])
    assert_attention_saw(attended[1], expected)
    roles = {name.removeprefix("encoder.layers.1."): role.role for name, role in found.roles.items()}
    assert (roles["linear1.weight"], roles["linear2.weight"]) == ("up", "down")
    assert (roles["norm1.weight"], roles["norm2.bias"]) == ("norm", "bias")
    assert roles["self_attn.out_proj.weight"] == "output"
    assert (found.family, found.n_layers) == ("torch_mha", 2)


def test_gpt2_has_a_role_for_every_tensor_and_may_tie_its_head():
    model = gpt2()[0]
    found = architecture(model, model.config.to_dict())
    outer = {name: (role.role, role.layer) for name, role in found.roles.items() if role.layer is None}
    assert outer == {
        "transformer.wte.weight": ("embedding", None),
        "transformer.wpe.weight": ("position", None),
        "transformer.ln_f.weight": ("norm", None),
        "transformer.ln_f.bias": ("bias", None),
        "lm_head.weight": ("unembedding", None),
    }
    assert {role.layer for role in found.roles.values()} == {None, 0, 1}
    assert [role.tensor for role in found.roles.values() if role.role == "other" and not role.parts] == []
    assert found.tied_by_config is True
    assert found.tie_candidates == (("lm_head.weight", "transformer.wte.weight"),)
