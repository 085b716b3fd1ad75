"""Small training histories written with the real libraries: a toy task learned for some steps, saved after each.

Every factory writes one run into a folder; ``write_trained`` writes all of them below one root. The task is to go on
with arithmetic progressions modulo the size of the vocabulary.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.utils import logging

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS = 31, 12, 16, 2, 2
N_UPDATES = 25
SPACING = 10
"""Steps between checkpoints, as their names tell."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def steps_of(n_updates=N_UPDATES):
    return [SPACING * index for index in range(n_updates + 1)]


def progressions(generator, n=8):
    """Sequences (n, CONTEXT + 1): a, a + d, a + 2 d, ... modulo the vocabulary."""
    start = torch.randint(VOCABULARY, (n, 1), generator=generator)
    stride = torch.randint(1, 4, (n, 1), generator=generator)
    return (start + stride * torch.arange(CONTEXT + 1)) % VOCABULARY


@dataclass
class Training:
    """One model on the toy task; ``save(step)`` is called before the first and after every update."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    log: Path

    def run(self, save, n_updates=N_UPDATES):
        generator = torch.Generator().manual_seed(1)
        save(0)
        with self.log.open("w") as log:
            for step in steps_of(n_updates)[1:]:
                loss = self._update(progressions(generator))
                log.write(json.dumps({"step": step, "train_loss": loss, "lr": 3e-3}) + "\n")
                save(step)

    def _update(self, batch):
        scores = self.model(batch[:, :-1])
        scores = scores if isinstance(scores, torch.Tensor) else scores.logits
        loss = functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def adamw(model):
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(wanted, lr=3e-3, weight_decay=0.1)


def made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_gpt2(root):
    """GPT-2 of transformers, one training, three precisions of its checkpoints: ``gpt2_<precision>/checkpoint-N/``."""
    torch.manual_seed(0)
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT, "vocab_size": VOCABULARY}
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **off))
    folders = {name: made(root / f"gpt2_{name}") for name in PRECISIONS}

    def save(step):
        for name, folder in folders.items():
            stored = copy.deepcopy(model).to(PRECISIONS[name])
            stored.save_pretrained(folder / f"checkpoint-{step}")

    Training(model, adamw(model), folders["float32"] / "metrics.jsonl").run(save)


def write_neox(root):
    """GPT-NeoX of transformers, whose queries, keys and values interleave by head."""
    torch.manual_seed(2)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    more = {"intermediate_size": 3 * WIDTH, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, **more, bos_token_id=0, eos_token_id=0))
    folder = made(root / "neox")
    training = Training(model, adamw(model), folder / "metrics.jsonl")
    training.run(lambda step: model.save_pretrained(folder / f"checkpoint-{step}"))


class CausalAttention(nn.Module):
    """nanoGPT's attention: a Linear whose outputs are queries, keys and values, and a mask among its buffers."""

    def __init__(self):
        super().__init__()
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("bias", torch.tril(torch.ones(CONTEXT, CONTEXT)).view(1, 1, CONTEXT, CONTEXT))

    def forward(self, x):
        parts = self.c_attn(x).split(WIDTH, dim=2)
        query, key, value = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in parts)
        scores = (query @ key.transpose(-2, -1)) * (WIDTH // HEADS) ** -0.5
        scores = scores.masked_fill(self.bias == 0, float("-inf"))
        return self.c_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc = nn.Linear(WIDTH, 4 * WIDTH)
        self.c_proj = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.c_proj(functional.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = CausalAttention(), FeedForward()

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """Names and ties of nanoGPT."""

    def __init__(self):
        super().__init__()
        parts = {"wte": nn.Embedding(VOCABULARY, WIDTH), "wpe": nn.Embedding(CONTEXT, WIDTH)}
        blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.transformer = nn.ModuleDict({**parts, "h": blocks, "ln_f": nn.LayerNorm(WIDTH)})
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, tokens):
        parts = self.transformer
        x = parts["wte"](tokens) + parts["wpe"](torch.arange(tokens.shape[1]))
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


def write_nanogpt(root):
    """``ckpt_N.pt`` with optimizer, tied head, mask buffers and frozen positions."""
    torch.manual_seed(3)
    model = NanoGPT()
    model.transformer["wpe"].weight.requires_grad_(False)
    folder, optimizer = made(root / "nanogpt"), adamw(model)
    arguments = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "vocab_size": VOCABULARY}

    def save(step):
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "model_args": arguments}
        torch.save({**content, "iter_num": step}, folder / f"ckpt_{step}.pt")

    Training(model, optimizer, folder / "metrics.jsonl").run(save)


class Encoder(nn.Module):
    """nn.TransformerEncoder between an embedding and a head."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.encoder(self.embedding(tokens), mask=mask, is_causal=True))


def write_encoder(root):
    """State dicts ``model_N.pt`` in bfloat16, as a training in mixed precision would save them."""
    torch.manual_seed(4)
    model, folder = Encoder(), made(root / "encoder")

    def save(step):
        stored = copy.deepcopy(model).to(torch.bfloat16)
        torch.save(stored.state_dict(), folder / f"model_{step}.pt")

    Training(model, adamw(model), folder / "metrics.jsonl").run(save)


def regression(n_inputs, n_outputs, dtype, n=64):
    """Inputs (n, n_inputs) of falling scale, and what a random linear map makes of them."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(n, n_inputs, generator=generator, dtype=dtype) * torch.logspace(0, -1, n_inputs, dtype=dtype)
    return inputs, inputs @ torch.randn(n_inputs, n_outputs, generator=generator, dtype=dtype)


def descend(weight_of, task, optimizer, n_updates=N_UPDATES):
    """Weights (n_updates + 1) of a full-batch least-squares descent."""
    inputs, wanted = task
    weights = [weight_of().detach().clone()]
    for _ in range(n_updates):
        optimizer.zero_grad()
        functional.mse_loss(inputs @ weight_of().T, wanted).backward()
        optimizer.step()
        weights.append(weight_of().detach().clone())
    return weights


def write_collinear(root):
    """Plain gradient descent in float64 with a small rate: every update is nearly the one before."""
    torch.manual_seed(6)
    weight = torch.randn(9, 12, dtype=torch.float64, requires_grad=True)
    weights = descend(lambda: weight, regression(12, 9, torch.float64), torch.optim.SGD([weight], lr=0.3))
    frozen = torch.randn(5, 4, dtype=torch.float64)
    write_states(root / "collinear", [{"line.weight": weight, "still.weight": frozen} for weight in weights])


def write_adapter(root):
    """A frozen matrix with a trained product of rank 2 merged into it."""
    torch.manual_seed(7)
    base = torch.randn(24, 16) / 4
    up, down = torch.zeros(24, 2, requires_grad=True), (torch.randn(2, 16) / 4).requires_grad_()
    optimizer = torch.optim.Adam([up, down], lr=1e-2)
    weights = descend(lambda: base + up @ down, regression(16, 24, torch.float32), optimizer)
    write_states(root / "adapter", [{"merged.weight": weight, "product.weight": weight - base} for weight in weights])


def write_rank_two(root):
    """Whole numbers that move in two directions only: windows of rank 2 exactly, and matrices of rank 2."""
    generator = torch.Generator().manual_seed(8)
    slow, fast = (torch.randint(-4, 5, (10, 1), generator=generator).float() for _ in range(2))
    across, beside = (torch.randint(-4, 5, (1, 7), generator=generator).float() for _ in range(2))
    weights = [index * slow @ across + (index**2 % 7) * fast @ beside for index in range(N_UPDATES + 1)]
    write_states(root / "rank_two", [{"plane.weight": weight} for weight in weights])


def write_wide(root, n_updates=N_UPDATES):
    """One matrix large enough to be cut into slabs and bands, with Adam on a regression; the run's folder."""
    torch.manual_seed(9)
    weight = (torch.randn(320, 512) / 20).requires_grad_()
    task = regression(512, 320, torch.float32, n=32)
    weights = descend(lambda: weight, task, torch.optim.Adam([weight], lr=1e-3), n_updates)
    return write_states(root / "wide", [{"wide.weight": weight} for weight in weights])


def write_states(folder, states, steps=None):
    """``step_N.safetensors`` for each state dict; the folder."""
    made(folder)
    for step, state in zip(steps or steps_of(len(states) - 1), states, strict=True):
        save_file({name: value.contiguous() for name, value in state.items()}, folder / f"step_{step}.safetensors")
    return folder


def write_trained(root):
    """All trained runs below one folder; takes some seconds."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    writers = (write_gpt2, write_neox, write_nanogpt, write_encoder, write_collinear, write_adapter, write_rank_two)
    for write in writers:
        write(root)
    return root


def read_state(path):
    """Name -> tensor of one checkpoint, by the library that wrote it."""
    if path.is_dir():
        return load_file(path / "model.safetensors")
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("model", content)


def read_run(folder):
    """Checkpoints of a run in step order: [(step, name -> tensor)]."""
    found = [path for path in folder.iterdir() if path.is_dir() or path.suffix in (".pt", ".safetensors")]
    return sorted(((step_of(path), read_state(path)) for path in found), key=lambda one: one[0])


def step_of(path):
    return int(path.stem.replace("-", "_").rpartition("_")[2])
