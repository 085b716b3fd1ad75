"""The weights in the nested object of a checkpoint, and the plain values beside them."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sedarchive.history import Finding
from sedarchive.readers.optimizer import optimizer_settings, parameter_groups
from sedarchive.readers.torchobjects import StoredTensor
from sedarchive.readers.unpickle import Opaque

_WEIGHT_KEYS = ("state_dict", "model", "model_state_dict", "module", "net", "params", "weights")
_META_KEYS = ("iter_num", "iter", "iteration", "step", "global_step", "epoch", "best_val_loss", "val_loss")
_META_MAPS = ("model_args", "model_config", "config", "hyper_parameters", "hparams", "args", "cfg")
_TRAINING = re.compile(r"optim|(^|_)opt(_|$)|sched|scaler|(^|_)rng(_|$)|callbacks|loops|(^|_)amp(_|$)", re.IGNORECASE)
_RANDOM_STATE = re.compile(r"(^|_)rng(_|$)", re.IGNORECASE)
_DESCENTS, _DEPTH_LIMIT, _ENTRY_LIMIT = 3, 32, 1_000_000
_NAME_LIMIT, _CHARACTER_LIMIT = 1024, 64_000_000
_META_LIMIT = 10_000
_NAMED = 8  # names that a message lists
_PARTS = (dict, list, tuple, Opaque, StoredTensor)  # what may hold a tensor, or is one


@dataclass(frozen=True)
class Weights:
    """The chosen tensors by name, the plain values at the top level, and what was passed over."""

    tensors: Mapping[str, StoredTensor]
    meta: Mapping[str, Any]
    """Values may be :class:`StoredTensor` of one element, for the caller to read."""
    findings: tuple[Finding, ...]


def find_weights(root: Any, key: str | None = None) -> Weights:
    """Find the weights in a checkpoint's object.

    They are what stands under `key`, where one is given: the nested key ``ema`` or ``state.ema``, or the
    names that begin with ``ema.`` among the weights. Else they are the object itself where it maps names
    to tensors, or what stands under ``state_dict``, ``model``, ``model_state_dict``, ``module``, ``net``,
    ``params`` or ``weights``, in this order and up to three deep; optimizers, schedulers and random states
    are never taken.

    Raises
    ------
    ValueError
        If it holds no tensor; the message names the keys that it has.
    """
    if isinstance(root, StoredTensor):
        return Weights({"tensor": root}, {}, ())
    bearing = _bearing(root)
    chosen, findings = _choose(root, bearing) if key is None else (_under(root, key, bearing), [])
    flat = _Flat(bearing)
    flat.add(chosen, ())
    if not flat.tensors:
        raise ValueError(f"it holds no tensor of weights; {_describe(root)}")
    return Weights(flat.tensors, _meta(as_mapping(root)), (*findings, *flat.findings()))


def as_mapping(value: Any) -> dict[Any, Any]:
    """Items of a dict, or of an object that pickles as one; {} if it is neither."""
    if isinstance(value, Opaque):
        return value.items
    return value if isinstance(value, dict) else {}


def _choose(root: Any, bearing: frozenset[int]) -> tuple[Any, list[Finding]]:
    """Choose the part of `root` that holds the weights, and findings on the parts that do not."""
    chosen, findings = root, []
    for _ in range(_DESCENTS):
        items = as_mapping(chosen)
        key = next((key for key in _WEIGHT_KEYS if as_mapping(items.get(key)) and id(items[key]) in bearing), None)
        findings += _passed_over(items, key, bearing)
        if key is None:
            break
        chosen = items[key]
    return _without_training(chosen), findings


def _under(root: Any, key: str, bearing: frozenset[int]) -> Any:
    """Return what stands under the user's own `key`."""
    part = root
    for name in key.split("."):
        part = as_mapping(part).get(name)
    if id(part) in bearing:
        return part if isinstance(part, StoredTensor) else _choose(part, bearing)[0]
    chosen, _ = _choose(root, bearing)
    found = {
        name.removeprefix(f"{key}."): value
        for name, value in as_mapping(chosen).items()
        if isinstance(name, str) and name.startswith(f"{key}.")
    }
    if not found:
        raise ValueError(f"it holds no tensor under the key {key[:80]!r} of --key; {_describe(root)}")
    return found


def _without_training(chosen: Any) -> Any:
    """`chosen` less its optimizers and the like."""
    if not as_mapping(chosen):
        return chosen
    return {key: value for key, value in as_mapping(chosen).items() if not _is_training(key, value)}


def _is_training(key: Any, value: Any) -> bool:
    """Whether an entry is state of the training; a single tensor may be a parameter called ``scaler``."""
    if not isinstance(key, str) or "." in key:
        return False
    pattern = _RANDOM_STATE if isinstance(value, StoredTensor) else _TRAINING
    return pattern.search(key) is not None


def _passed_over(items: Mapping[Any, Any], key: str | None, bearing: frozenset[int]) -> list[Finding]:
    training = [name for name, part in items.items() if _is_training(name, part) and id(part) in bearing]
    findings = []
    if training:
        detail = f"{_listed(training)}: state of the training, not weights; passed over"
        findings.append(Finding("training_state", "info", detail))
    others = {name: part for name, part in items.items() if name != key and not _is_training(name, part)}
    weights = [n for n, part in others.items() if key is not None and id(part) in bearing and not _is_scalar(part)]
    if weights:
        detail = f"the weights are those under {key!r}; also with tensors, and passed over: {_listed(weights)}"
        findings.append(Finding("other_weights", "warning", detail))
    return findings


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value
    else:
        yield from as_mapping(value).values()


def _bearing(root: Any) -> frozenset[int]:
    """Identities of the parts of `root` that hold a tensor at any depth; each is looked at once, loops included.

    Raises
    ------
    ValueError
        If there are more parts than a checkpoint can have.
    """
    parents: dict[int, list[int]] = {id(root): []}
    pending, bearing = [root], list[int]()
    while pending:
        part = pending.pop()
        if isinstance(part, StoredTensor):
            bearing.append(id(part))
        for child in _children(part):
            if not isinstance(child, _PARTS):
                continue
            if id(child) not in parents:
                parents[id(child)] = []
                pending.append(child)
            if parents[id(child)][-1:] != [id(part)]:  # once, however often the part names it
                parents[id(child)].append(id(part))
            if len(parents) > _ENTRY_LIMIT:
                raise ValueError(f"it holds more than {_ENTRY_LIMIT} objects")
    return frozenset(_reached(bearing, parents))


def _reached(starts: list[int], edges: Mapping[int, list[int]]) -> set[int]:
    """Everything that `edges` lead to from `starts`, these included."""
    pending, found = list(starts), set(starts)
    while pending:
        new = set(edges.get(pending.pop(), ())) - found
        found |= new
        pending.extend(new)
    return found


class _Flat:
    """Tensors of nested mappings and lists by their joined names, and the entries that are none."""

    def __init__(self, bearing: frozenset[int]) -> None:
        self._bearing = bearing
        self.tensors: dict[str, StoredTensor] = {}
        self.plain: list[str] = []
        self.unread: list[str] = []
        self._count, self._characters = 0, 0

    def add(self, value: Any, path: tuple[str, ...]) -> None:
        """Take in `value`, which stands at `path`.

        Raises
        ------
        ValueError
            If it is deeper or larger than a model can be, as one that contains itself is.
        """
        self._count += 1
        if len(path) > _DEPTH_LIMIT or self._count > _ENTRY_LIMIT:
            raise ValueError("its weights are nested without end")
        if sum(map(len, path)) > _NAME_LIMIT:
            raise ValueError("a name of its weights is of absurd length")
        name = ".".join(path)
        self._characters += len(name)
        if self._characters > _CHARACTER_LIMIT:
            raise ValueError("the names of its weights are of absurd length together")
        if isinstance(value, StoredTensor):
            self._add_tensor(name, value)
        elif path and id(value) not in self._bearing:
            self._add_barren(name, value)
        elif as_mapping(value):
            for key, part in as_mapping(value).items():
                self._add_part(key, part, path)
        elif isinstance(value, list | tuple):
            for index, part in enumerate(value):
                self.add(part, (*path, str(index)))

    def _add_barren(self, name: str, value: Any) -> None:
        if isinstance(value, Opaque) and not value.items:
            self.unread.append(f"{name} ({value.kind[:80]})")
        else:
            self.plain.append(name)

    def _add_part(self, key: Any, part: Any, path: tuple[str, ...]) -> None:
        if isinstance(key, str | int):
            self.add(part, (*path, str(key)))
        else:
            self.unread.append(".".join((*path, "an entry whose key is not text")))

    def _add_tensor(self, name: str, tensor: StoredTensor) -> None:
        if name in self.tensors:
            self.unread.append(f"{name} (a second tensor of that name)")
        else:
            self.tensors[name] = tensor

    def findings(self) -> list[Finding]:
        """Tell what stands among the weights and is not taken."""
        found = []
        if self.plain:
            found.append(Finding("dropped_entry", "info", f"not tensors, passed over: {_listed(self.plain)}"))
        if self.unread:
            detail = f"cannot be read as plain tensors, and are missing from the history: {_listed(self.unread)}"
            found.append(Finding("dropped_entry", "warning", detail))
        return found


def _listed(names: list[Any]) -> str:
    words = [name[:80] if isinstance(name, str) else "a key that is not text" for name in names]
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


def _describe(root: Any) -> str:
    if as_mapping(root):
        return f"its keys are {_listed(list(as_mapping(root)))}"
    if isinstance(root, Opaque):
        return f"it is a pickled object of {root.kind[:80]}, not a state dict: save model.state_dict()"
    return f"it is a {type(root).__name__}"


def _meta(items: Mapping[Any, Any]) -> dict[str, Any]:
    """Plain values among the known keys of the top level, and the settings of the optimizer."""
    found = {key: items[key] for key in _META_KEYS if items.get(key) is not None}
    scalars = {key: value for key, value in found.items() if _is_plain(value) or _is_scalar(value)}
    plain = _Plain()
    settings = optimizer_settings(items, as_mapping)
    maps = {key: values for key in _META_MAPS if (values := plain.values(items.get(key), 0))}
    groups = parameter_groups(items, as_mapping)
    trained = {"optimizer": settings, "parameter_groups": groups}
    return scalars | maps | {name: value for name, value in trained.items() if value}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, StoredTensor) and math.prod(value.shape) == 1


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


class _Plain:
    """Plain values of nested mappings, up to a number of them: parts may be shared a million times."""

    def __init__(self) -> None:
        self._left = _META_LIMIT

    def values(self, value: Any, depth: int) -> dict[str, Any]:
        """Plain values of a mapping, or of an object's attributes (a Namespace is one), four levels deep."""
        state = value.state if isinstance(value, Opaque) and isinstance(value.state, dict) else {}
        found: dict[str, Any] = {}
        for key, part in (as_mapping(value) or state).items():
            self._left -= 1
            if self._left < 0:
                break
            if isinstance(key, str):
                found.update(self._entry(key, part, depth))
        return found

    def _entry(self, key: str, part: Any, depth: int) -> dict[str, Any]:
        if _is_plain(part):
            return {key: part}
        if isinstance(part, list | tuple):
            return {key: list(part)} if len(part) <= 64 and all(map(_is_plain, part)) else {}
        nested = self.values(part, depth + 1) if depth < _DESCENTS else {}
        return {key: nested} if nested else {}
