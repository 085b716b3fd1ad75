"""Names and shapes against the families: which family, which entry, which layer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sedarchive.families import Family, Rule, load_families

Shapes = Mapping[str, tuple[int, ...]]

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|base_layer)\."
)
_INTEGER_COMPONENT = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")
_MAX_DIGITS = 6  # names come from files that nobody vouches for
_LONGEST_NAME = 512  # no model has longer ones, and the time for a pattern may grow with their square
_MANY = re.compile(r"(\A|\.)\d{2,}(?=\.|\Z)|\d{3,}")
"""Numbers that make no difference to the shipped families: layers and experts from 10 on."""


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
    bare = {name: bare_name(name) for name in shapes if len(name) <= _LONGEST_NAME}
    # an entry of one's own may mean a certain layer; the shipped ones never do
    first_alike: dict[tuple[str, tuple[int, ...]], str] = {}
    stands_for = {
        name: first_alike.setdefault((told if own else _MANY.sub(r"\g<1>100", told), shapes[name]), told)
        for name, told in bare.items()
    }
    distinct = {told: shape for (_, shape), told in first_alike.items()}
    families = load_families()
    family = _choose_own(own, distinct, model_type) or _choose(families, distinct, model_type)
    lookup = _Lookup(family, families, distinct)
    layers = {name: lookup.block_layer(told) for name, told in bare.items()}
    if all(layer is None for layer in layers.values()):
        layers = {name: _integer_component(told) for name, told in bare.items()}
    found = {told: lookup.find(told, shape) for told, shape in distinct.items()}
    nothing = Match(None, False, None)
    return family, {
        name: replace(found[stands_for[name]], layer=layers[name]) if name in bare else nothing for name in shapes
    }


def bare_name(name: str) -> str:
    """Name without the components that torch.compile, FSDP and adapters put into it."""
    return _WRAPPERS.sub("", name)


def layer_span(name: str, family: Family | None) -> tuple[int, int] | None:
    """Where the index of its layer stands in a bare name, as :func:`match_names` finds it; None if it has none."""
    known = [*([family.block] if family else []), load_families()["plain"].block]
    matches = (pattern.match(name) for pattern in known if len(name) <= _LONGEST_NAME)
    found = next(filter(None, matches), None)
    return found.span("layer") if found else None


class _Lookup:
    """The entries that a set of tensors is looked up in: those of buffers, of its family, and the plain ones."""

    def __init__(self, family: Family | None, families: Mapping[str, Family], shapes: Shapes) -> None:
        self._family, self._plain = family, families["plain"]
        asked = [one for one in (families["buffers"], family, families["plain"]) if one]
        self._entries = [(one.name, rule) for one in asked for rule in _active(one, shapes)]

    def find(self, name: str, shape: tuple[int, ...]) -> Match:
        owner, rule = next((entry for entry in self._entries if entry[1].matches(name, shape)), (None, None))
        return Match(rule, owner == "buffers", None, owner)

    def block_layer(self, name: str) -> int | None:
        """Index of the layer, as the family or else the plain names have it."""
        match = (self._family.block.match(name) if self._family else None) or self._plain.block.match(name)
        return read_index(match["layer"]) if match else None


def _choose_own(families: Sequence[Family], shapes: Shapes, model_type: str | None) -> Family | None:
    """First family of the user's own that knows a name and whose required entries, if any, are all there."""
    return next((one for one in families if _n_known(one, shapes) and _is_met(one, shapes, model_type)), None)


def _choose(families: Mapping[str, Family], shapes: Shapes, model_type: str | None) -> Family | None:
    candidates = [family for family in families.values() if _is_confirmed(family, shapes, model_type)]
    meant = [family for family in candidates if model_type in family.model_types]
    return max(meant or candidates, key=lambda family: _n_known(family, shapes), default=None)


def _is_confirmed(family: Family, shapes: Shapes, model_type: str | None) -> bool:
    """Whether a family may be meant by its names: some are not where the config names a model type of another."""
    if model_type and family.yields_to_model_type and model_type not in family.model_types:
        return False
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


def _integer_component(name: str) -> int | None:
    match = _INTEGER_COMPONENT.search(name)
    return read_index(match[1]) if match else None


def read_index(digits: str) -> int | None:
    """Index of a layer or an expert; None if it is too long to be one."""
    return int(digits) if len(digits) <= _MAX_DIGITS else None
