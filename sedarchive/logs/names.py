"""Canonical names of logged metrics."""

import re
from collections.abc import Iterable, Mapping

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "train_loss": (
        "train_loss", "train/loss", "training_loss", "loss/train", "train_loss_step", "train/loss_step", "loss",
    ),
    "val_loss": (
        "val_loss", "val/loss", "validation_loss", "validation/loss", "valid_loss", "valid/loss", "eval_loss",
        "eval/loss", "loss/val", "loss/validation", "val_loss_epoch", "test_loss", "test/loss",
    ),
    "train_acc": (
        "train_acc", "train_accuracy", "train/acc", "train/accuracy", "training_accuracy", "accuracy", "acc",
    ),
    "val_acc": (
        "val_acc", "val_accuracy", "val/acc", "val/accuracy", "validation_accuracy", "valid_acc", "valid_accuracy",
        "eval_acc", "eval_accuracy", "eval/accuracy", "test_acc", "test_accuracy", "test/acc", "test/accuracy",
    ),
    "lr": ("lr", "learning_rate", "train/learning_rate", "train/lr", "train_lr", "lr_0"),
    "grad_norm": (
        "grad_norm", "gradient_norm", "train/grad_norm", "train_grad_norm", "grad/norm", "global_grad_norm",
    ),
    "weight_decay": ("weight_decay", "wd", "train/weight_decay", "train/wd"),
    "tokens": (
        "tokens", "num_tokens", "n_tokens", "total_tokens", "tokens_seen", "train/tokens", "consumed_tokens",
        "num_input_tokens_seen", "train/num_input_tokens_seen",
    ),
}  # fmt: skip
_BY_ALIAS = {alias: (name, rank) for name, aliases in _ALIASES.items() for rank, alias in enumerate(aliases)}
_MONITORED = re.compile(r"(lr|weight_decay)-\w+(/pg1)?(-weight_decay)?", re.IGNORECASE)  # Lightning's monitor
_NAMED_SET = re.compile(r"(?:eval|val|validation)[_/](?P<set>.+)[_/]loss", re.IGNORECASE)
_LAST_RANK = 99


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Name in a log to canonical name, for the names that one log holds.

    Of several names with one meaning (``val_loss`` and ``test_loss``) the plainest gets the canonical
    name and the others keep their own; unknown names stay as they are.
    """
    ranked = {name: _ranked(name) for name in dict.fromkeys(names)}
    best: dict[str, str] = {}
    for name, (canonical, rank) in ranked.items():
        if canonical not in best or rank < ranked[best[canonical]][1]:
            best[canonical] = name
    return {name: canonical if best[canonical] == name else name for name, (canonical, _) in ranked.items()}


def _ranked(name: str) -> tuple[str, int]:
    """Canonical name and how plain an alias of it `name` is (0 the plainest)."""
    lowered = name.strip().lower()
    for spelling in (lowered, lowered.replace("-", "_").replace(" ", "_").replace(".", "/")):
        if spelling in _BY_ALIAS:
            canonical, rank = _BY_ALIAS[spelling]
            return canonical, -1 if name == canonical else rank
    if match := _MONITORED.fullmatch(name):
        return ("weight_decay" if match[3] or match[1].lower() == "weight_decay" else "lr"), _LAST_RANK
    if match := _NAMED_SET.fullmatch(name):
        return f"val_loss/{match['set']}", _LAST_RANK
    return name, -1
