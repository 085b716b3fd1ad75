"""Names and shapes against the families: which family, which entry, which layer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sedarchive.families import Family, Rule, load_families

Shapes = Mapping[str, tuple[int, ...]]

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|base_layer)\."
)
_INTEGER_COMPONENT = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")
_MAX_DIGITS = 6  # names come from files that nobody vouches for


@dataclass(frozen=True)
class Match:
    """What the families say of one tensor's name."""

    rule: Rule | None
    """Entry that stands for the tensor; None if no family knows the name."""
    is_buffer: bool
    layer: int | None
    family: str | None = None
    """Name of the family in which the entry stands."""


def match_names(
    shapes: Shapes, model_type: str | None, own: Sequence[Family] = ()
) -> tuple[Family | None, dict[str, Match]]:
    """Choose a family for a set of tensors and look each of them up.

    The family that the config's ``model_type`` means is taken if the names
    confirm it, that is, if each of its required entries stands for some tensor;
    otherwise the confirmed family that knows most of the names. A family of the
    user's own goes before all others, and needs no required entry.

    Parameters
    ----------
    shapes
        Name to shape.
    model_type
        From the config, None if there is none.
    own
        Families of the user's own.

    Returns
    -------
    tuple
        The family, None if none is confirmed, and what was found for each name.
    """
    bare = {name: _WRAPPERS.sub("", name) for name in shapes}
    bare_shapes = {bare[name]: shape for name, shape in shapes.items()}
    families = load_families()
    family = _choose_own(own, bare_shapes, model_type) or _choose(families, bare_shapes, model_type)
    plain = families["plain"]
    buffers = _active(families["buffers"], bare_shapes)
    rules = (_active(family, bare_shapes) if family else ()) + _active(plain, bare_shapes)
    layers = {name: _block_layer(name, family, plain) for name in bare_shapes}
    if all(layer is None for layer in layers.values()):
        layers = {name: _integer_component(name) for name in bare_shapes}

    owners = {id(rule): one.name for one in (families["buffers"], plain, family) if one for rule in one.rules}

    def match(name: str, shape: tuple[int, ...]) -> Match:
        buffer = _first(buffers, name, shape)
        rule = buffer or _first(rules, name, shape)
        return Match(rule, buffer is not None, layers[name], owners.get(id(rule)))

    return family, {name: match(bare[name], shape) for name, shape in shapes.items()}


def _choose_own(families: Sequence[Family], shapes: Shapes, model_type: str | None) -> Family | None:
    """First family of the user's own that knows a name and whose required entries, if any, are all there."""
    return next((one for one in families if _n_known(one, shapes) and _is_met(one, shapes, model_type)), None)


def _choose(families: Mapping[str, Family], shapes: Shapes, model_type: str | None) -> Family | None:
    candidates = [family for family in families.values() if _is_confirmed(family, shapes, model_type)]
    meant = [family for family in candidates if model_type in family.model_types]
    return max(meant or candidates, key=lambda family: _n_known(family, shapes), default=None)


def _is_confirmed(family: Family, shapes: Shapes, model_type: str | None) -> bool:
    return any(rule.required for rule in family.rules) and _is_met(family, shapes, model_type)


def _is_met(family: Family, shapes: Shapes, model_type: str | None) -> bool:
    """Whether nothing that the family requires is missing."""
    if family.needs_model_type and model_type not in family.model_types:
        return False
    required = [rule for rule in family.rules if rule.required]
    return all(any(rule.matches(name, shape) for name, shape in shapes.items()) for rule in required)


def _n_known(family: Family, shapes: Shapes) -> int:
    rules = _active(family, shapes)
    return sum(_first(rules, name, shape) is not None for name, shape in shapes.items())


def _active(family: Family, shapes: Shapes) -> tuple[Rule, ...]:
    return tuple(rule for rule in family.rules if rule.if_present is None or any(map(rule.if_present.search, shapes)))


def _first(rules: tuple[Rule, ...], name: str, shape: tuple[int, ...]) -> Rule | None:
    return next((rule for rule in rules if rule.matches(name, shape)), None)


def _block_layer(name: str, family: Family | None, plain: Family) -> int | None:
    match = (family.block.match(name) if family else None) or plain.block.match(name)
    return read_index(match["layer"]) if match else None


def _integer_component(name: str) -> int | None:
    match = _INTEGER_COMPONENT.search(name)
    return read_index(match[1]) if match else None


def read_index(digits: str) -> int | None:
    """Index of a layer or an expert; None if it is too long to be one."""
    return int(digits) if len(digits) <= _MAX_DIGITS else None
