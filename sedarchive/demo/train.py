"""Trains small transformers on modular addition and leaves their histories on disk.

The task is (a + b) mod p, learnt from a part of the unordered pairs {a, b}. A
run with weight decay first memorises its pairs and much later generalises to
the held-out ones (grokking); the same run without weight decay memorises only.
(Power et al., arXiv:2201.02177; Nanda et al., arXiv:2301.05217.) What remains in
a run's folder is what a user's training would leave: ``step_000100.pt``,
``metrics.jsonl``, ``config.json``.

Needs torch, the extra ``sedarchive[demo]``; importing this module does not.
"""

import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.errors import HistoryError, MissingExtraError

CHECKPOINTS = "step_*.pt"
"""Pattern of the files of a run."""
LOG, CONFIG = "metrics.jsonl", "config.json"

Tensor = Any  # torch.Tensor; torch is imported only by those who train
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class TrainSettings:
    """One training run: task, model, optimizer and length.

    With the defaults, seeds 0 to 4 memorise by step 100 and grok between steps
    500 and 1,700 with weight decay 1; without it none groks.

    Raises
    ------
    ValueError
        If the numbers do not describe a run.
    """

    modulus: int = 47
    """p of (a + b) mod p."""
    width: int = 64
    """Length of the residual stream."""
    heads: int = 4
    mlp_width: int = 128
    train_fraction: float = 0.7
    """Share of the p (p + 1) / 2 unordered pairs that is trained on."""
    lr: float = 5e-3
    """Constant learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1.0
    """Decoupled, on every parameter."""
    steps: int = 2400
    """Updates, each on all training pairs; what does not fill a last ``checkpoint_every`` is left out."""
    checkpoint_every: int = 25
    seed: int = 0
    """Of the split and of the initial weights."""

    def __post_init__(self) -> None:
        if self.modulus < 2 or not 0 < self.n_train_pairs < self.n_pairs:
            raise ValueError(
                f"modulus {self.modulus} and train_fraction {self.train_fraction} leave no pairs to train on "
                "or none to test on; use a larger modulus or a fraction nearer to 0.5"
            )
        if min(self.heads, self.width, self.mlp_width) < 1 or self.width % self.heads:
            raise ValueError(
                f"width {self.width} must be a positive multiple of heads {self.heads}, mlp_width positive"
            )
        if not 1 <= self.checkpoint_every <= self.steps:
            raise ValueError(
                f"steps {self.steps} must be at least checkpoint_every {self.checkpoint_every}, that at least 1"
            )

    @property
    def last_step(self) -> int:
        """Step of the last checkpoint, where the run ends."""
        return self.steps - self.steps % self.checkpoint_every

    @property
    def checkpoint_steps(self) -> range:
        """Steps of all checkpoints."""
        return range(0, self.last_step + 1, self.checkpoint_every)

    @property
    def n_pairs(self) -> int:
        """Unordered pairs of the task."""
        return self.modulus * (self.modulus + 1) // 2

    @property
    def n_train_pairs(self) -> int:
        """Unordered pairs that are trained on."""
        return round(self.train_fraction * self.n_pairs)


def train_run(folder: Path, settings: TrainSettings, progress: Callable[[int], None] | None = None) -> None:
    """Train one transformer and write its checkpoints, metrics and config.

    Float32, full batch, one thread: equal settings give equal weights on one
    machine. Checkpoint and metrics of step n are those after n updates, so
    step 0 is the initialisation.

    Parameters
    ----------
    folder
        Created if absent. Receives ``step_NNNNNN.pt`` (a dict of ``model``,
        ``step``, ``config``), ``metrics.jsonl`` (one line a checkpoint:
        ``step, train_loss, val_loss, train_acc, val_acc, lr, weight_decay``;
        losses in nats) and ``config.json``.
    settings
        Task, model, optimizer and length.
    progress
        Called with the step of every checkpoint written.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    HistoryError
        If the folder already holds checkpoints.
    """
    require_torch()
    if any(folder.glob(CHECKPOINTS)):
        raise HistoryError(f"{folder} already holds checkpoints; choose another folder for the new run")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _train(folder, settings, progress or (lambda step: None))
    finally:
        torch.set_num_threads(threads)


def split_pairs(settings: TrainSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ordered pairs to train on and to test on.

    Addition commutes, so (a, b) in training would give away (b, a) in the test:
    the split is of unordered pairs, and both orders go to the same side.

    Returns
    -------
    Two int64 arrays of shape (n, 2), together all p² ordered pairs once.
    """
    unordered = np.column_stack(np.triu_indices(settings.modulus)).astype(np.int64)
    shuffled = np.random.default_rng(settings.seed).permutation(unordered)
    train, test = shuffled[: settings.n_train_pairs], shuffled[settings.n_train_pairs :]
    return _both_orders(train), _both_orders(test)


def _both_orders(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    unequal = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.concatenate([pairs, unequal[:, ::-1]])


def require_torch() -> None:
    """Refuse to begin without torch.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("the demo trains with torch, which is not installed: pip install 'sedarchive[demo]'")


def _train(folder: Path, settings: TrainSettings, progress: Callable[[int], None]) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config_of(settings), indent=2) + "\n", encoding="utf-8")
    train, test = (_with_sums(pairs, settings) for pairs in split_pairs(settings))
    weights = _initial_weights(settings)
    optimizer = torch.optim.AdamW(
        weights.values(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    with (folder / LOG).open("w", encoding="utf-8") as log:
        for step in range(settings.last_step + 1):
            if step:
                _update(optimizer, weights, train, settings)
            if step in settings.checkpoint_steps:
                _save(folder, step, weights, settings)
                log.write(json.dumps({"step": step, **_measure(weights, train, test, settings)}) + "\n")
                log.flush()
                progress(step)


def config_of(settings: TrainSettings) -> dict[str, Any]:
    """Describe the run in the keys that configs of transformers and trainers use."""
    return {
        "task": f"addition modulo {settings.modulus}",
        "modulus": settings.modulus,
        "train_fraction": settings.train_fraction,
        "num_hidden_layers": 1,
        "hidden_size": settings.width,
        "num_attention_heads": settings.heads,
        "intermediate_size": settings.mlp_width,
        "vocab_size": settings.modulus + 1,
        "torch_dtype": "float32",
        "optimizer": "AdamW",
        "lr": settings.lr,
        "beta1": settings.betas[0],
        "beta2": settings.betas[1],
        "weight_decay": settings.weight_decay,
        "batch_size": "full",
        "steps": settings.last_step,
        "checkpoint_every": settings.checkpoint_every,
        "seed": settings.seed,
    }


def _with_sums(pairs: NDArray[np.int64], settings: TrainSettings) -> tuple[Tensor, Tensor]:
    """Return inputs of shape (n, 2) and their answers of shape (n,)."""
    import torch

    return torch.from_numpy(pairs), torch.from_numpy(pairs.sum(axis=1) % settings.modulus)


def _initial_weights(settings: TrainSettings) -> Weights:
    """Draw normal numbers with variance 1 / columns, in the layout (output, input)."""
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    width, mlp_width = settings.width, settings.mlp_width
    shapes = {
        "embedding.weight": (settings.modulus + 1, width),  # the numbers, then the sign "="
        "position_embedding.weight": (3, width),
        "blocks.0.attn.q_proj.weight": (width, width),
        "blocks.0.attn.k_proj.weight": (width, width),
        "blocks.0.attn.v_proj.weight": (width, width),
        "blocks.0.attn.o_proj.weight": (width, width),
        "blocks.0.mlp.up_proj.weight": (mlp_width, width),
        "blocks.0.mlp.down_proj.weight": (width, mlp_width),
        "unembedding.weight": (settings.modulus, width),
    }
    return {
        name: (torch.randn(shape, generator=generator) / math.sqrt(shape[1])).requires_grad_()
        for name, shape in shapes.items()
    }


def _logits(weights: Mapping[str, Tensor], pairs: Tensor, settings: TrainSettings) -> Tensor:
    """Answer of the transformer at the "=" of ``a b =``.

    One block of attention and a ReLU MLP on a residual stream, without norms
    and biases. With one block, query, keys and values depend on token and
    position alone, and only "=" is read out: each is computed once for every
    token at every position and looked up, a third of the time of the batch.

    Returns
    -------
    Float32, shape (n, modulus).
    """
    import torch

    tokens, heads, width = settings.modulus + 1, settings.heads, settings.width
    stream = weights["position_embedding.weight"][:, None] + weights["embedding.weight"]
    equals = stream[2, -1]
    query = (weights["blocks.0.attn.q_proj.weight"] @ equals).view(heads, -1)
    keys = (stream @ weights["blocks.0.attn.k_proj.weight"].T).view(3 * tokens, heads, -1)
    values = (stream @ weights["blocks.0.attn.v_proj.weight"].T).view(3 * tokens, width)
    scores = (keys * query).sum(-1) / math.sqrt(width // heads)

    sign = torch.full((len(pairs), 1), settings.modulus)
    places = torch.cat([pairs, sign], dim=1) + tokens * torch.arange(3)
    attention = torch.nn.functional.embedding(places, scores).softmax(dim=1)
    looked_up = torch.nn.functional.embedding(places, values).view(len(pairs), 3, heads, -1)
    mixed = (attention[..., None] * looked_up).sum(dim=1).reshape(len(pairs), width)

    residual = equals + mixed @ weights["blocks.0.attn.o_proj.weight"].T
    hidden = torch.relu(residual @ weights["blocks.0.mlp.up_proj.weight"].T)
    residual = residual + hidden @ weights["blocks.0.mlp.down_proj.weight"].T
    return residual @ weights["unembedding.weight"].T


def _update(optimizer: Any, weights: Weights, train: tuple[Tensor, Tensor], settings: TrainSettings) -> None:
    import torch

    pairs, sums = train
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(_logits(weights, pairs, settings), sums).backward()
    optimizer.step()


def _measure(
    weights: Weights, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], settings: TrainSettings
) -> dict[str, float]:
    import torch

    row = {}
    with torch.no_grad():
        for part, (pairs, sums) in (("train", train), ("val", test)):
            logits = _logits(weights, pairs, settings)
            row[f"{part}_loss"] = float(torch.nn.functional.cross_entropy(logits, sums))
            row[f"{part}_acc"] = float((logits.argmax(dim=1) == sums).double().mean())
    return {**row, "lr": settings.lr, "weight_decay": settings.weight_decay}


def file_name(step: int) -> str:
    """File of a checkpoint."""
    return f"step_{step:06d}.pt"


def _save(folder: Path, step: int, weights: Weights, settings: TrainSettings) -> None:
    import torch

    state_dict = {name: weight.detach() for name, weight in weights.items()}
    checkpoint = {"model": state_dict, "step": step, "config": config_of(settings)}
    torch.save(checkpoint, folder / file_name(step))
