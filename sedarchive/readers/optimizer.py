"""What the optimizer's part of a checkpoint says of the training: learning rate, weight decay, betas."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_KEYS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim", "optimizers")
_GROUP_LIMIT = 10_000
_PARAMETER_LIMIT, _NAME_LIMIT = 100_000, 512


def optimizer_settings(items: Mapping[Any, Any], as_mapping: Callable[[Any], dict[Any, Any]]) -> dict[str, Any]:
    """Settings of a checkpoint's optimizer: of its parameter groups, the largest of each.

    Weights decay and biases often do not, so the largest weight decay is that of the weights.

    Parameters
    ----------
    items
        Top level of the checkpoint.
    as_mapping
        Items of what may be a mapping; {} of anything else.

    Returns
    -------
    dict
        Of lr, initial_lr, weight_decay, beta1, beta2 and optimizer what is known; {} where there is no optimizer.
    """
    groups = list(_groups(items, as_mapping))
    found: dict[str, Any] = {}
    for name in ("lr", "initial_lr", "weight_decay"):
        values = [group[name] for group in groups if _is_number(group.get(name))]
        if values:
            found[name] = max(values)
    for group in groups[:1]:
        betas = group.get("betas")
        if isinstance(betas, list | tuple) and len(betas) == 2 and all(map(_is_number, betas)):
            found["beta1"], found["beta2"] = betas
            if "amsgrad" in group and isinstance(group.get("decoupled_weight_decay"), bool):  # as torch 2.7 tells them
                found["optimizer"] = "AdamW" if group["decoupled_weight_decay"] else "Adam"
    return found


def parameter_groups(items: Mapping[Any, Any], as_mapping: Callable[[Any], dict[Any, Any]]) -> list[dict[str, Any]]:
    """Weight decay and number of parameters of each group of a checkpoint's optimizer, with names where it has them.

    Parameters
    ----------
    items, as_mapping
        As for :func:`optimizer_settings`.

    Returns
    -------
    list of dict
        ``weight_decay``, ``count`` and, as torch keeps them since 2.6 if it was given them, ``names``. Empty where a
        group says less than that, or there is no optimizer.
    """
    found: list[dict[str, Any]] = []
    for group in _groups(items, as_mapping):
        parameters, names = group.get("params"), group.get("param_names") or ()
        if not _is_number(group.get("weight_decay")) or not isinstance(parameters, list | tuple):
            return []
        named = isinstance(names, list | tuple) and len(names) == len(parameters) and all(map(_is_name, names))
        found.append({"weight_decay": float(group["weight_decay"]), "count": len(parameters)})
        found[-1] |= {"names": list(names)} if named else {}
        if sum(one["count"] for one in found) > _PARAMETER_LIMIT:
            return []
    return found


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _NAME_LIMIT


def _groups(items: Mapping[Any, Any], as_mapping: Callable[[Any], dict[Any, Any]]) -> Iterator[dict[Any, Any]]:
    for key in _KEYS:
        states = items.get(key)
        for state in states[:1] if isinstance(states, list | tuple) else [states]:
            groups = as_mapping(state).get("param_groups")
            if isinstance(groups, list | tuple):
                yield from (as_mapping(group) for group in groups[:_GROUP_LIMIT])
                return


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e300
