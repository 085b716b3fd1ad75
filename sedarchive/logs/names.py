"""Canonical names of logged metrics."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedarchive.errors import HistoryError

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
CANONICAL = frozenset(_ALIASES)
"""Names of the metrics that the analyses know."""
_BY_ALIAS = {alias: (name, rank) for name, aliases in _ALIASES.items() for rank, alias in enumerate(aliases)}
_MONITORED = re.compile(r"(lr|weight_decay)-\w+(/pg1)?(-weight_decay)?", re.IGNORECASE)  # Lightning's monitor
_NAMED_SET = re.compile(r"(?:eval|val|validation)[_/](?P<set>.+)[_/]loss", re.IGNORECASE)
_LAST_RANK, _USER_RANK = 99, -1000
_OWN_RANK = -1_000_000  # a name that is canonical already is never taken by another
_FILE_LIMIT = 2**20


@dataclass(frozen=True)
class Aliases:
    """Names of the user's own: name in a log to the name in the tables, and how plain it is (lowest first)."""

    names: Mapping[str, tuple[str, int]] = field(default_factory=dict)


NO_ALIASES = Aliases()


def read_aliases(path: Path) -> Aliases:
    """Aliases from a TOML file: ``[aliases]``, then a line ``val_loss = ["dev/nll", "nll"]`` a metric.

    They go before the built-in ones, and the first of a list before the others; a name in the log that is the metric's
    own goes before all of them.

    Raises
    ------
    HistoryError
        If the file cannot be read or says anything else.
    """
    try:
        if path.stat().st_size > _FILE_LIMIT:
            raise ValueError("larger than 1 MiB")
        return _aliases(tomllib.loads(path.read_text("utf-8")).get("aliases"))
    except (OSError, ValueError, RecursionError) as error:
        raise HistoryError(
            f'{path}: it is no table of aliases ({error}); write [aliases], then lines like val_loss = ["dev/nll"]'
        ) from error


def _aliases(table: Any) -> Aliases:
    if not isinstance(table, dict) or not table:
        raise ValueError("it has no table [aliases]")
    names: dict[str, tuple[str, int]] = {}
    for name, aliases in table.items():
        if not name or not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
            raise ValueError(f"{name!r} needs a list of names")
        for rank, alias in enumerate(aliases):
            if names.setdefault(alias, (name, _USER_RANK + rank))[0] != name:
                raise ValueError(f"{alias!r} stands for both {names[alias][0]!r} and {name!r}")
    return Aliases(names)


def canonical_names(names: Iterable[str], aliases: Aliases = NO_ALIASES) -> dict[str, str]:
    """Name in a log to canonical name, for the names that one log holds.

    Of several names with one meaning (``val_loss`` and ``test_loss``) the plainest gets the canonical
    name and the others keep their own; unknown names stay as they are.
    """
    ranked = {name: _ranked(name, aliases) for name in dict.fromkeys(names)}
    best: dict[str, str] = {}
    for name, (canonical, rank) in ranked.items():
        if canonical not in best or rank < ranked[best[canonical]][1]:
            best[canonical] = name
    return {name: canonical if best[canonical] == name else name for name, (canonical, _) in ranked.items()}


def _ranked(name: str, aliases: Aliases) -> tuple[str, int]:
    """Canonical name and how plain an alias of it `name` is (lowest the plainest)."""
    if name in aliases.names:
        return aliases.names[name]
    lowered = name.strip().lower()
    for spelling in (lowered, lowered.replace("-", "_").replace(" ", "_").replace(".", "/")):
        if spelling in _BY_ALIAS:
            canonical, rank = _BY_ALIAS[spelling]
            return canonical, _OWN_RANK if name == canonical else rank
    if match := _MONITORED.fullmatch(name):
        return ("weight_decay" if match[3] or match[1].lower() == "weight_decay" else "lr"), _LAST_RANK
    if match := _NAMED_SET.fullmatch(name):
        return f"val_loss/{match['set']}", _LAST_RANK
    return name, _OWN_RANK
