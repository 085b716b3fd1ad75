"""Trains small GPTs on the bytes of the standard library's sources and leaves their histories on disk.

Names and layout are those of GPT-2 in transformers: weights lie as inputs x outputs, query, key and value together.
"""

import json
import math
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, embedding, gelu, layer_norm, scaled_dot_product_attention

Weights = dict[str, torch.Tensor]

VOCABULARY = 256
VALIDATION_EVERY = 20
"""Every so many files of the text are held out."""
EVALUATED = 32
"""Sequences of the validation loss, the same at every checkpoint."""


@dataclass(frozen=True)
class SmallGPT:
    """One training run: depth, model, optimizer and length."""

    layers: int
    steps: int
    width: int = 64
    heads: int = 4
    context: int = 64
    batch: int = 16
    lr: float = 3e-3
    """Largest, after ``warmup`` steps; then half a cosine down to a tenth."""
    warmup: int = 20
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    checkpoint_every: int = 25
    seed: int = 0

    @property
    def config(self) -> dict[str, object]:
        """The run in the keys of transformers and of trainers."""
        return {
            "model_type": "gpt2",
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_embd": self.width,
            "n_positions": self.context,
            "vocab_size": VOCABULARY,
            "tie_word_embeddings": True,
            "optimizer": "AdamW",
            "lr": self.lr,
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "weight_decay": self.weight_decay,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Text:
    """Bytes to train on and bytes held out."""

    train: torch.Tensor
    held_out: torch.Tensor


def standard_library() -> Text:
    """Bytes of the modules at the top of the standard library, in the order of their names, whole files held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    for index, path in enumerate(files):
        parts[index % VALIDATION_EVERY == 0].append(path.read_bytes())
    train, held_out = (torch.tensor(list(b"".join(parts[held])), dtype=torch.uint8) for held in (False, True))
    return Text(train, held_out)


def train(folder: Path, given: SmallGPT, text: Text) -> None:
    """Train one model and write checkpoints, log and config; one thread, so that a machine repeats itself."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(given.config, indent=2) + "\n")
    generator = torch.Generator().manual_seed(given.seed)
    weights = initial(given, generator)
    optimizer = _optimizer(weights, given)
    held_out = _batch(text.held_out, EVALUATED, given.context, torch.Generator().manual_seed(1))
    with (folder / "metrics.jsonl").open("w") as log:
        for step in range(given.steps + 1):
            batch = _batch(text.train, given.batch, given.context, generator)
            loss = loss_of(weights, batch, given)
            lr = _learning_rate(step, given)
            if step % given.checkpoint_every == 0:
                save_file(_detached(weights), str(folder / f"step_{step:06d}.safetensors"))
                with torch.no_grad():
                    losses = {"train_loss": float(loss), "val_loss": float(loss_of(weights, held_out, given))}
                log.write(json.dumps({"step": step, **losses, "lr": lr}) + "\n")
            _update(optimizer, loss, lr)


def initial(given: SmallGPT, generator: torch.Generator) -> Weights:
    """Weights as GPT-2 draws them: deviation 0.02, less by sqrt(2 layers) where a block ends."""
    width = given.width
    weights = {"wte.weight": torch.empty(VOCABULARY, width), "wpe.weight": torch.empty(given.context, width)}
    for layer in range(given.layers):
        weights |= {name: torch.empty(shape) for name, shape in _block(f"h.{layer}", width)}
    for name, weight in weights.items():
        spread = 0.02 / math.sqrt(2 * given.layers) if name.endswith("c_proj.weight") else 0.02
        weight.normal_(0.0, spread, generator=generator)
    norms = [f"h.{layer}.{norm}" for layer in range(given.layers) for norm in ("ln_1", "ln_2")]
    for norm in [*norms, "ln_f"]:
        weights[f"{norm}.weight"], weights[f"{norm}.bias"] = torch.ones(width), torch.zeros(width)
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def _block(name: str, width: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield f"{name}.attn.c_attn.weight", (width, 3 * width)
    yield f"{name}.attn.c_proj.weight", (width, width)
    yield f"{name}.mlp.c_fc.weight", (width, 4 * width)
    yield f"{name}.mlp.c_proj.weight", (4 * width, width)


def loss_of(weights: Weights, batch: torch.Tensor, given: SmallGPT) -> torch.Tensor:
    """Mean loss [nats] of the next byte; batch (b, context + 1)."""
    stream = embedding(batch[:, :-1], weights["wte.weight"]) + weights["wpe.weight"]
    for layer in range(given.layers):
        name = f"h.{layer}"
        stream = stream + _attention(weights, name, _norm(weights, f"{name}.ln_1", stream), given.heads)
        hidden = gelu(_norm(weights, f"{name}.ln_2", stream) @ weights[f"{name}.mlp.c_fc.weight"])
        stream = stream + hidden @ weights[f"{name}.mlp.c_proj.weight"]
    logits = _norm(weights, "ln_f", stream) @ weights["wte.weight"].T
    return cross_entropy(logits.reshape(-1, VOCABULARY), batch[:, 1:].reshape(-1))


def _attention(weights: Weights, name: str, stream: torch.Tensor, heads: int) -> torch.Tensor:
    batch, length, width = stream.shape
    fused = stream @ weights[f"{name}.attn.c_attn.weight"]
    query, key, value = (part.view(batch, length, heads, -1).transpose(1, 2) for part in fused.chunk(3, dim=-1))
    mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.transpose(1, 2).reshape(batch, length, width) @ weights[f"{name}.attn.c_proj.weight"]


def _norm(weights: Weights, name: str, stream: torch.Tensor) -> torch.Tensor:
    return layer_norm(stream, stream.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def _batch(text: torch.Tensor, n: int, context: int, generator: torch.Generator) -> torch.Tensor:
    starts = torch.randint(len(text) - context - 1, (n, 1), generator=generator)
    return text[starts + torch.arange(context + 1)].long()


def _learning_rate(step: int, given: SmallGPT) -> float:
    if step < given.warmup:
        return given.lr * (step + 1) / given.warmup
    done = (step - given.warmup) / max(given.steps - given.warmup, 1)
    return given.lr * (0.55 + 0.45 * math.cos(math.pi * done))


def _optimizer(weights: Weights, given: SmallGPT) -> torch.optim.Optimizer:
    """AdamW; norms do not decay."""
    groups = [
        {"params": [one for one in weights.values() if one.ndim == 2], "weight_decay": given.weight_decay},
        {"params": [one for one in weights.values() if one.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=given.lr, betas=given.betas)


def _update(optimizer: torch.optim.Optimizer, loss: torch.Tensor, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _detached(weights: Weights) -> Weights:
    return {name: weight.detach() for name, weight in weights.items()}
