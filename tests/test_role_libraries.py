"""The parts of fused weights against libraries that are no dependency: what is not installed here is skipped.

``pip install --no-deps litgpt timm megatron-core`` is enough, without what these would bring along; OLMo's own code
(``ai2-olmo``) needs all of its dependencies.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from models import kept, specs_of
from test_role_layouts import QKV, WIDTH, architecture, assert_attention_saw, attended, by_parts, inputs_of, randomised

from sedarchive.families import load_families
from sedarchive.roles import assign_roles

__all__ = ["attended"]  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
ONE_TOKEN = torch.tensor([[3], [7], [11]])  # at position 0 the rotation of queries and keys is the identity


@pytest.fixture(autouse=True)
def seeded():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def seen_in_attention(model, fused, x, attended):
    """Inputs of the fused module in one forward pass, and the first call of attention."""
    inputs = []
    inputs_of(model.get_submodule(fused), inputs)
    with torch.no_grad():
        model(x)
    return inputs[0], attended[0]


# LitGPT


def litgpt_model(kv_heads):
    module = pytest.importorskip("litgpt.model")
    config = module.Config(
        n_layer=1, n_embd=WIDTH, n_head=6, n_query_groups=kv_heads, padded_vocab_size=20, block_size=16,
        intermediate_size=20, mlp_class_name="LLaMAMLP", norm_class_name="RMSNorm", bias=True, rotary_percentage=1.0,
    )  # fmt: skip
    return randomised(module.GPT(config))


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_the_parts_make_the_queries_keys_and_values_of_litgpt(kv_heads, attended):
    model, fused = litgpt_model(kv_heads), "transformer.h.0.attn.qkv"
    x, call = seen_in_attention(model, fused, ONE_TOKEN, attended)
    found = architecture(model, heads=6, kv_heads=kv_heads)
    assert found.family == "litgpt"
    assert_attention_saw(call, by_parts(model, found, fused + ".weight", fused + ".bias", x), 6 // kv_heads)
    assert "--heads" in architecture(model).roles[fused + ".weight"].reason


def test_the_mlp_of_litgpt_computes_with_its_gate_up_and_down():
    model = litgpt_model(2)
    named = {role.role: name for name, role in architecture(model).roles.items() if ".mlp." in name and role.matrix}
    mlp = model.transformer.h[0].mlp
    x = torch.randn(3, WIDTH)
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}

    def linear(role, given):
        weight = named[role]
        return given @ state[weight].T + state[weight.replace("weight", "bias")]

    gate, up = linear("gate", x.double()), linear("up", x.double())
    expected = linear("down", torch.nn.functional.silu(gate) * up)
    np.testing.assert_allclose(mlp(x).detach().double(), expected, rtol=1e-4, atol=1e-4)


# timm


class _Nothing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that are there and do nothing: timm wants torchvision for images, of which there are none here."""

    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("torchvision") else None

    def create_module(self, spec):
        return mock.MagicMock(name=spec.name, __path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module):
        pass


@pytest.fixture
def timm():
    """Vision transformers of timm; torchvision is feigned where it is not installed, and forgotten afterwards."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    before, path = set(sys.modules), list(sys.meta_path)
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(_Nothing())
    try:
        yield importlib.import_module("timm.models.vision_transformer")
    finally:
        sys.meta_path[:] = path
        for name in {name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")} - before:
            del sys.modules[name]


def test_the_parts_make_the_queries_keys_and_values_of_timm(timm, attended):
    model = timm.VisionTransformer(img_size=8, patch_size=4, embed_dim=WIDTH, depth=1, num_heads=3, num_classes=5)
    fused = "blocks.0.attn.qkv"
    x, call = seen_in_attention(randomised(model), fused, torch.randn(2, 3, 8, 8), attended)
    found = architecture(model)
    assert found.family == "timm_vit"
    assert_attention_saw(call, by_parts(model, found, fused + ".weight", fused + ".bias", x))
    roles = {name: role.role for name, role in found.roles.items() if role.matrix}
    assert roles == {
        "pos_embed": "position", "patch_embed.proj.weight": "embedding", "blocks.0.attn.qkv.weight": "other",
        "blocks.0.attn.proj.weight": "output", "blocks.0.mlp.fc1.weight": "up", "blocks.0.mlp.fc2.weight": "down",
        "head.weight": "other",
    }  # fmt: skip


# Megatron core


@pytest.fixture
def megatron(tmp_path):
    """Build a GPT of Megatron core on one process."""
    pytest.importorskip("megatron.core")
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer.transformer_config import TransformerConfig

    def model(groups):
        config = TransformerConfig(
            num_layers=1, hidden_size=WIDTH, ffn_hidden_size=20, num_attention_heads=6, num_query_groups=groups,
            kv_channels=2, use_cpu_initialization=True, bias_activation_fusion=False,
            gradient_accumulation_fusion=False,
        )  # fmt: skip
        return randomised(GPTModel(config, get_gpt_layer_local_spec(), vocab_size=20, max_sequence_length=16))

    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        parallel_state.initialize_model_parallel()
        yield model
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_parts_make_the_queries_keys_and_values_of_megatron_core(megatron, groups):
    model, x = megatron(groups), torch.randn(3, 2, WIDTH)
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items() if tensor is not None}
    attention = "decoder.layers.0.self_attention."
    with torch.no_grad():
        split = model.get_submodule(attention[:-1]).get_query_key_value_tensors(x)
    found = architecture_of(state, heads=6, kv_heads=groups)
    assert found.family == "megatron_core"
    weight, bias = attention + "linear_qkv.weight", attention + "linear_qkv.bias"
    assert tuple(part.name for part in found.roles[weight].parts) == QKV
    for seen, part, of_bias in zip(split, found.roles[weight].parts, found.roles[bias].parts, strict=True):
        expected = x.double().numpy() @ kept(part, state[weight]).T + _of_vector(of_bias, state[bias])
        np.testing.assert_allclose(seen.reshape(3, 2, -1).double(), expected, rtol=1e-4, atol=1e-4)
    assert found.roles["decoder.layers.0.self_attention.linear_proj.weight"].role == "output"
    assert "--heads" in architecture_of(state).roles[weight].reason


def architecture_of(state, **options):
    return assign_roles(specs_of(state), **options)


def _of_vector(part, values):
    return values[[i for i in range(len(values)) if part.start <= i % part.period < part.stop]]


# OLMo's own code


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_the_parts_make_the_queries_keys_and_values_of_olmo_s_own_code(kv_heads, attended):
    olmo = pytest.importorskip("olmo.model")
    config = olmo.ModelConfig(
        d_model=WIDTH, n_heads=6, n_kv_heads=kv_heads, n_layers=1, mlp_ratio=4, vocab_size=20, embedding_size=20,
        max_sequence_length=16, rope=True, include_bias=False, init_device="cpu", weight_tying=False,
    )  # fmt: skip
    model, fused = randomised(olmo.OLMo(config)), "transformer.blocks.0.att_proj"
    x, call = seen_in_attention(model, fused, ONE_TOKEN, attended)
    found = architecture(model, heads=6, kv_heads=kv_heads)
    assert found.family == "olmo_native"
    assert_attention_saw(call, by_parts(model, found, fused + ".weight", fused + ".bias", x), 6 // kv_heads)


# What each family rests on


def test_a_family_that_transformers_does_not_have_says_what_its_layout_rests_on():
    resting = {name: family.evidence for name, family in load_families().items() if family.evidence}
    assert resting.keys() == {"internlm2", "litgpt", "megatron_core", "olmo_native", "timm_vit"}
    assert "not checked against its code" in resting.pop("internlm2")
    assert all("where it is installed" in evidence for evidence in resting.values())
