"""Tiny models of transformers, one of each family, and what their forward pass shows of a tensor's part in it."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from unittest import mock

import numpy as np
import torch
import transformers
from torch.nn import functional
from transformers import AutoConfig

from sedarchive.history import TensorSpec
from sedarchive.roles import assign_roles

WIDTH, HIDDEN, VOCABULARY = 12, 20, 20
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
DEPTH = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 6}
SIZES = {**TOKENS, **DEPTH, "intermediate_size": HIDDEN, "max_position_embeddings": 16}
GROUPED = {**SIZES, "num_key_value_heads": 2}
MOE = {**GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
OLD = {**TOKENS, "n_embd": WIDTH, "n_layer": 1, "n_head": 6}
IMAGE = {**DEPTH, "intermediate_size": HIDDEN, "image_size": 8, "patch_size": 4}
TWO_SIDED = {
    **TOKENS, "d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 6,
    "decoder_attention_heads": 6, "encoder_ffn_dim": HIDDEN, "decoder_ffn_dim": HIDDEN, "decoder_start_token_id": 0,
}  # fmt: skip
T5 = {
    **TOKENS, "d_model": WIDTH, "d_kv": 2, "d_ff": HIDDEN, "num_layers": 1, "num_heads": 6, "decoder_start_token_id": 0,
}  # fmt: skip


def falcon(new, multi, kv_heads):
    return {
        **TOKENS, **DEPTH, "num_kv_heads": kv_heads, "new_decoder_architecture": new, "multi_query": multi,
        "bias": True, "alibi": False,
    }  # fmt: skip


LATENT = {
    **SIZES, "kv_lora_rank": 6, "q_lora_rank": 7, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 3,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "first_k_dense_replace": 0,
    "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
DBRX = {
    **TOKENS, "d_model": WIDTH, "n_heads": 6, "n_layers": 1, "max_seq_len": 16,
    "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 1000.0},
    "ffn_config": {"ffn_hidden_size": HIDDEN, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": WIDTH},
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """How to build one model."""

    model_type: str
    config: dict
    head: str
    family: str


KINDS = {
    "gpt2": Kind("gpt2", OLD, "GPT2LMHeadModel", "gpt2"),
    "gpt_neox": Kind("gpt_neox", SIZES, "GPTNeoXForCausalLM", "gpt_neox"),
    "llama": Kind("llama", GROUPED, "LlamaForCausalLM", "llama"),
    "mistral": Kind("mistral", GROUPED, "MistralForCausalLM", "llama"),
    "qwen2": Kind("qwen2", GROUPED, "Qwen2ForCausalLM", "llama"),
    "qwen3": Kind("qwen3", {**GROUPED, "head_dim": 2}, "Qwen3ForCausalLM", "llama"),
    "olmo": Kind("olmo", GROUPED, "OlmoForCausalLM", "llama"),
    "olmo2": Kind("olmo2", GROUPED, "Olmo2ForCausalLM", "llama"),
    "olmo3": Kind("olmo3", GROUPED, "Olmo3ForCausalLM", "llama"),
    "bloom": Kind("bloom", {**TOKENS, "hidden_size": WIDTH, "n_layer": 1, "n_head": 6}, "BloomForCausalLM", "bloom"),
    "falcon_40b": Kind("falcon", falcon(True, False, 2), "FalconForCausalLM", "falcon"),
    "falcon_7b": Kind("falcon", falcon(False, True, 6), "FalconForCausalLM", "falcon"),
    "falcon_rw": Kind("falcon", falcon(False, False, 6), "FalconForCausalLM", "falcon"),
    "opt": Kind(
        "opt",
        {**TOKENS, **DEPTH, "ffn_dim": HIDDEN, "word_embed_proj_dim": 8, "max_position_embeddings": 16},
        "OPTForCausalLM",
        "opt",
    ),
    "phi3": Kind("phi3", GROUPED, "Phi3ForCausalLM", "phi3"),
    "gemma": Kind("gemma", {**GROUPED, "head_dim": 2}, "GemmaForCausalLM", "gemma"),
    "gemma2": Kind("gemma2", {**GROUPED, "head_dim": 2}, "Gemma2ForCausalLM", "gemma"),
    "gemma3": Kind("gemma3_text", {**GROUPED, "head_dim": 2}, "Gemma3ForCausalLM", "gemma"),
    "glm": Kind("glm", {**GROUPED, "head_dim": 2}, "GlmForCausalLM", "glm"),
    "bert": Kind("bert", SIZES, "BertForPreTraining", "bert"),
    "roberta": Kind("roberta", SIZES, "RobertaForMaskedLM", "bert"),
    "distilbert": Kind(
        "distilbert",
        {**TOKENS, "dim": WIDTH, "n_layers": 1, "n_heads": 6, "hidden_dim": HIDDEN, "max_position_embeddings": 16},
        "DistilBertForMaskedLM",
        "distilbert",
    ),
    "modernbert": Kind(
        "modernbert",
        {**SIZES, "attention_bias": True, "mlp_bias": True, "cls_token_id": 0, "sep_token_id": 0},
        "ModernBertForMaskedLM",
        "modernbert",
    ),
    "t5": Kind("t5", T5, "T5ForConditionalGeneration", "t5"),
    "t5_gated": Kind("t5", {**T5, "feed_forward_proj": "gated-gelu"}, "T5ForConditionalGeneration", "t5"),
    "bart": Kind("bart", {**TWO_SIDED, "max_position_embeddings": 16}, "BartForConditionalGeneration", "bart"),
    "whisper": Kind(
        "whisper",
        {**TWO_SIDED, "num_mel_bins": 4, "max_source_positions": 8, "max_target_positions": 16},
        "WhisperForConditionalGeneration",
        "bart",
    ),
    "vit": Kind("vit", IMAGE, "ViTForImageClassification", "vit"),
    "deit": Kind("deit", IMAGE, "DeiTForImageClassification", "vit"),
    "clip": Kind(
        "clip",
        {
            "projection_dim": 8,
            "text_config": {**SIZES},
            "vision_config": IMAGE,
        },
        "CLIPModel",
        "clip",
    ),
    "mixtral": Kind("mixtral", {**MOE, "num_local_experts": 4}, "MixtralForCausalLM", "llama_moe"),
    "qwen2_moe": Kind(
        "qwen2_moe",
        {**MOE, "num_experts": 4, "shared_expert_intermediate_size": 8},
        "Qwen2MoeForCausalLM",
        "llama_moe",
    ),
    "qwen3_moe": Kind("qwen3_moe", {**MOE, "num_experts": 4, "head_dim": 2}, "Qwen3MoeForCausalLM", "llama_moe"),
    "olmoe": Kind("olmoe", {**MOE, "num_experts": 4}, "OlmoeForCausalLM", "llama_moe"),
    "gpt_oss": Kind("gpt_oss", {**MOE, "num_local_experts": 4, "head_dim": 2}, "GptOssForCausalLM", "gpt_oss"),
    "gpt_bigcode": Kind("gpt_bigcode", {**OLD, "n_positions": 16}, "GPTBigCodeForCausalLM", "gpt_bigcode"),
    "gpt_bigcode_by_head": Kind(
        "gpt_bigcode", {**OLD, "n_positions": 16, "multi_query": False}, "GPTBigCodeForCausalLM", "gpt_bigcode"
    ),
    "gptj": Kind("gptj", {**OLD, "n_positions": 16, "rotary_dim": 2}, "GPTJForCausalLM", "gptj"),
    "gpt_neo": Kind(
        "gpt_neo",
        {
            **TOKENS,
            "hidden_size": WIDTH,
            "num_layers": 1,
            "num_heads": 6,
            "attention_types": [[["global"], 1]],
            "intermediate_size": HIDDEN,
            "max_position_embeddings": 16,
        },
        "GPTNeoForCausalLM",
        "gpt_neo",
    ),
    "codegen": Kind(
        "codegen",
        {**TOKENS, "n_embd": 16, "n_layer": 1, "n_head": 8, "n_positions": 16, "n_ctx": 16, "rotary_dim": 2},
        "CodeGenForCausalLM",
        "codegen",
    ),
    "mpt": Kind(
        "mpt", {**TOKENS, "d_model": WIDTH, "n_heads": 6, "n_layers": 1, "max_seq_len": 16}, "MptForCausalLM", "mpt"
    ),
    "phi": Kind("phi", GROUPED, "PhiForCausalLM", "phi"),
    "persimmon": Kind("persimmon", {**SIZES, "qk_layernorm": False}, "PersimmonForCausalLM", "persimmon"),
    "stablelm": Kind("stablelm", GROUPED, "StableLmForCausalLM", "llama"),
    "starcoder2": Kind("starcoder2", GROUPED, "Starcoder2ForCausalLM", "starcoder2"),
    "cohere": Kind("cohere", GROUPED, "CohereForCausalLM", "cohere"),
    "cohere2": Kind("cohere2", GROUPED, "Cohere2ForCausalLM", "cohere"),
    "glm4": Kind("glm4", {**GROUPED, "head_dim": 2}, "Glm4ForCausalLM", "glm"),
    "deepseek_v2": Kind("deepseek_v2", LATENT, "DeepseekV2ForCausalLM", "deepseek"),
    "deepseek_v2_lite": Kind("deepseek_v2", {**LATENT, "q_lora_rank": None}, "DeepseekV2ForCausalLM", "deepseek"),
    "deepseek_v3": Kind("deepseek_v3", LATENT, "DeepseekV3ForCausalLM", "deepseek"),
    "dbrx": Kind("dbrx", DBRX, "DbrxForCausalLM", "dbrx"),
    "mamba": Kind(
        "mamba", {**TOKENS, "hidden_size": WIDTH, "num_hidden_layers": 1, "state_size": 4}, "MambaForCausalLM", "mamba"
    ),
}


def build(name, **more):
    """The model with random weights."""
    kind = KINDS[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind.model_type, **{**kind.config, **more})
    model = getattr(transformers, kind.head)(config)
    try:
        model.set_attn_implementation("sdpa")
    except (ValueError, ImportError):
        model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.eval()


def specs_of(tensors):
    return {name: TensorSpec(name, "float32", tuple(tensor.shape)) for name, tensor in tensors.items()}


def roles_of(model, tensors=None, **options):
    """Architecture of a model in memory, or of the tensors of a file that it wrote."""
    return assign_roles(specs_of(tensors or model.state_dict()), model.config.to_dict(), **options)


def indices(part, shape):
    """Which elements of a tensor (rows, everything else) a part holds, as a mask of the tensor's shape."""
    flat = np.zeros((shape[0], int(np.prod(shape[1:]))), dtype=bool)
    along = flat.shape[1] if part.axis else flat.shape[0]
    inside = [i for i in range(along) if part.start <= i % part.period < part.stop]
    rows = slice(None) if part.row is None else slice(part.row, part.row + 1)
    if part.axis:
        flat[rows, inside] = True
    else:
        flat[inside, :] = True
    return flat.reshape(shape)


def kept(part, array):
    """Elements of a part as its matrix."""
    picked = array[indices(part, array.shape)]
    if part.shape is not None:
        return picked.reshape(part.shape)
    shape = list(array.shape)
    shape[part.axis] = part.length(shape[part.axis])
    return picked.reshape(shape)


@contextmanager
def zeroed(model, found, role):
    """The model with every weight of one role, and the bias that goes with it, set to zero; as it was afterwards."""
    state = model.state_dict()
    saved = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for name, tensor in state.items():
            for mask in _masks(found, name, tuple(tensor.shape), role):
                tensor[torch.from_numpy(mask)] = 0
    try:
        yield
    finally:
        model.load_state_dict(saved)


def _masks(found, name, shape, role):
    """Masks of the elements of a tensor that are of a role, or of the bias of a weight of that role."""
    weight = name.removesuffix("bias") + "weight" if name.endswith(".bias") else name
    if weight not in found.roles:
        return
    own, its_weight = found.roles[name], found.roles[weight]
    if own.parts:
        yield from (indices(part, shape) for part in own.parts if part.name == role or part.role == role)
    elif its_weight.role == role:
        yield np.ones(shape, dtype=bool)


@dataclass
class Seen:
    """What one forward pass showed."""

    attended: list = field(default_factory=list)
    """(queries, keys, values, result) of every call of attention, each (batch, heads, tokens, d_head)."""
    inputs: dict = field(default_factory=dict)
    """Module -> what it was first given."""


def watch(model, modules=()):
    """Run the model once on a few inputs."""
    seen = Seen()
    attend = functional.scaled_dot_product_attention

    def record(query, key, value, *args, **kwargs):
        result = attend(query, key, value, *args, **kwargs)
        seen.attended.append([tensor.detach().double().numpy() for tensor in (query, key, value, result)])
        return result

    handles = [
        model.get_submodule(name).register_forward_pre_hook(partial(_note, seen.inputs, name)) for name in modules
    ]
    with (
        mock.patch.object(functional, "scaled_dot_product_attention", record),
        mock.patch.object(torch, "matmul", _Products(seen.attended)),
        torch.no_grad(),
    ):
        model(**_inputs(model))
    for handle in handles:
        handle.remove()
    return seen


class _Products:
    """``torch.matmul`` that notes attention written out: queries times keys, then weights times values."""

    def __init__(self, attended):
        self._attended, self._scores, self._matmul = attended, None, torch.matmul

    def __call__(self, left, right):
        result = self._matmul(left, right)
        if left.ndim != 4 or right.ndim != 4:
            return result
        if self._scores is None:
            self._scores = left, right.transpose(-1, -2)
        else:
            call = (*self._scores, right, result)
            self._attended.append([tensor.detach().double().numpy() for tensor in call])
            self._scores = None
        return result


def _note(seen, name, _, given):
    """Note what a module was given first; nothing is returned, which would replace it."""
    seen.setdefault(name, given[0].detach().double().numpy())


def _inputs(model):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, VOCABULARY, (2, 5), generator=generator)
    pixels = torch.randn(2, 3, 8, 8, generator=generator)
    kind = model.config.model_type
    if kind in ("vit", "deit"):
        return {"pixel_values": pixels}
    if kind == "clip":
        return {"input_ids": tokens, "pixel_values": pixels}
    if kind == "whisper":
        return {"input_features": torch.randn(2, 4, 16, generator=generator), "decoder_input_ids": tokens}
    if kind in ("t5", "bart"):
        return {"input_ids": tokens, "decoder_input_ids": tokens}
    return {"input_ids": tokens}
