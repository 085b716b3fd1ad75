"""Which tensors weight decay acts on: by the optimizer's own parameter groups, where a checkpoint holds them.

Optimizers keep their groups as counts of parameters, and their names only if they were given any. Counts are told by
the rules that trainers use: everything decays; all but vectors (nanoGPT, and transformers' Trainer); all but vectors
and embeddings. A rule stands where it splits the run's tensors into as many as the groups hold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sedarchive.sweeps.anatomy import Anatomy

_PREFIXES = ("module.", "_orig_mod.", "model.")
_EMBEDDINGS = ("embedding", "position")


@dataclass(frozen=True)
class Decayed:
    """Tensors that decay, and how that is known."""

    rule: str
    """names or counts (of the parameter groups), or assumed."""
    tensors: frozenset[str]


def decayed_tensors(anatomy: Anatomy) -> Decayed:
    """Tensors of a run that weight decay acts on; matrices where nothing says it, as the papers' trainers do."""
    trained = [name for name in anatomy.tensors if anatomy.leaves_of(name)]
    groups = _groups(anatomy.run.config)
    named = _by_names(groups, trained)
    if named is not None:
        return Decayed("names", named)
    counted = _by_counts(groups, anatomy, trained)
    if counted is not None:
        return Decayed("counts", counted)
    matrices = (name for name in trained if any(leaf.shape for leaf in anatomy.leaves_of(name)))
    return Decayed("assumed", frozenset(matrices))


def _groups(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Parameter groups as ingest kept them; none where some decay is neither 0 nor the largest."""
    training = config.get("training")
    groups = training.get("parameter_groups") if isinstance(training, Mapping) else None
    if not isinstance(groups, list) or not all(map(_is_group, groups)):
        return []
    decays = {float(group["weight_decay"]) for group in groups}
    return groups if len(decays - {0.0}) == 1 else []


def _is_group(group: Any) -> bool:
    if not isinstance(group, Mapping) or not isinstance(group.get("weight_decay"), int | float):
        return False
    names = group.get("names", [])
    return isinstance(group.get("count"), int) and isinstance(names, list) and all(isinstance(n, str) for n in names)


def _by_names(groups: Sequence[Mapping[str, Any]], trained: Sequence[str]) -> frozenset[str] | None:
    """Tensors whose names stand in a group that decays; None unless every trained tensor is named."""
    if not groups or not all("names" in group for group in groups):
        return None
    decay = {_bare(name): group["weight_decay"] > 0 for group in groups for name in group["names"]}
    known = {name: decay.get(_bare(name)) for name in trained}
    return frozenset(name for name, decays in known.items() if decays) if None not in known.values() else None


def _by_counts(groups: Sequence[Mapping[str, Any]], anatomy: Anatomy, trained: Sequence[str]) -> frozenset[str] | None:
    """Tensors by the first rule that splits them as the groups are split; None if none does."""
    held = {True: 0, False: 0}
    for group in groups:
        held[group["weight_decay"] > 0] += group["count"]
    for rule in _RULES:
        decayed = frozenset(name for name in trained if rule(anatomy, name))
        if groups and (len(decayed), len(trained) - len(decayed)) == (held[True], held[False]):
            return decayed
    return None


_RULES: tuple[Callable[[Anatomy, str], bool], ...] = (
    lambda anatomy, name: True,
    lambda anatomy, name: len(anatomy.tensors[name].spec.shape) >= 2,
    lambda anatomy, name: len(anatomy.tensors[name].spec.shape) >= 2 and anatomy.roles[name].role not in _EMBEDDINGS,
)


def _bare(name: str) -> str:
    """Name of a tensor without what wrappers put before it."""
    shorter = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
    return name if shorter == name else _bare(shorter)
