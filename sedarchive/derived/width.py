"""The same architecture at another width: shapes and config times a factor, the length of a head kept."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from sedarchive.derived.matrices import matrices_of
from sedarchive.errors import HistoryError
from sedarchive.families import LENGTHS
from sedarchive.history import TensorSpec
from sedarchive.modelconfig import CONFIG_SECTIONS, HEAD_KEYS, KV_HEAD_KEYS, first_count, first_value
from sedarchive.parts import Heads
from sedarchive.roles import Architecture, TensorRole
from sedarchive.words import few_of

_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_INNER = (
    *("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "hidden_dim", "moe_intermediate_size"),
    *("shared_expert_intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim"),
)
_HEADS = (*HEAD_KEYS, *KV_HEAD_KEYS, "encoder_attention_heads", "decoder_attention_heads")
_SCALED = (*_HIDDEN, *_INNER, *_HEADS)
"""Keys of a config that grow with the width."""
_SECTIONS = (*CONFIG_SECTIONS, "ffn_config")
_USUAL_INNER = 4
"""Widths of the hidden layer of an MLP where the config does not say it."""
_BY_FIRST_AXIS = ("embedding", "position", "unembedding", "router")
"""Roles whose first axis counts tokens, places or experts."""
_WAY_OUT = "give a checkpoint of the width that you want by --like"
_HEAD_NORM = re.compile(r"(?:^|[._])(?:q|k|query|key)_?(?:norm|ln|layernorm|layer_norm)(?:[._]|$)")


@dataclass(frozen=True)
class Resized:
    """A model of another width."""

    specs: dict[str, TensorSpec]
    config: dict[str, Any]
    heads: Heads


def resized(
    specs: Mapping[str, TensorSpec], config: Mapping[str, Any], found: Architecture, factor: Fraction
) -> Resized:
    """Multiply every width of a model, and its numbers of heads.

    Parameters
    ----------
    specs, config, found
        The model.
    factor
        Above 0.

    Raises
    ------
    HistoryError
        If a number would not be whole, or a length of a tensor is none of the widths that the config tells.
    """
    _check_kind(config)
    _check_factor([*_counts(config), *_known(found.heads)], factor)
    geometry = _Widths(_lengths(config, found.heads), found.heads.d_head, _vocabularies(specs, found.roles))
    shapes = {name: _shape(spec, found.roles, geometry, factor) for name, spec in specs.items()}
    return Resized(
        {name: replace(spec, shape=shapes[name]) for name, spec in specs.items()},
        _times(config, factor),
        replace(found.heads, query=_maybe(found.heads.query, factor), key_value=_maybe(found.heads.key_value, factor)),
    )


@dataclass(frozen=True)
class _Widths:
    """Lengths of axes that grow, and those that may be taken for them."""

    lengths: frozenset[int]
    d_head: int | None
    vocabularies: frozenset[int]


def _check_kind(config: Mapping[str, Any]) -> None:
    """Refuse models whose widths follow other rules."""
    if first_count(config, _HIDDEN) is None:
        raise HistoryError(f"--width: the run has no config that tells the width of the model; {_WAY_OUT}")
    if first_value(config, "multi_query", bool) and not first_value(config, "new_decoder_architecture", bool):
        raise HistoryError(f"--width: the config says multi_query, one key and value head at any width; {_WAY_OUT}")
    latent = next((key for key in LENGTHS if first_count(config, (key,)) is not None), None)
    if latent:
        raise HistoryError(f"--width: the config has {latent}: attention through latent vectors; {_WAY_OUT}")


def _counts(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every number of a config that grows, with its key."""
    for key, value in config.items():
        if isinstance(value, Mapping) and key in _SECTIONS:
            yield from _counts(value)
        elif isinstance(value, Mapping) and any(inner in value for inner in _SCALED):
            raise HistoryError(f"--width: the config's section {key} has widths of its own; {_WAY_OUT}")
        elif key in _SCALED and _is_count(value):
            yield key, value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _known(heads: Heads) -> list[tuple[str, int]]:
    """Numbers of heads, which the user may have given in place of the config."""
    counts = (("heads", heads.query), ("key-value heads", heads.key_value))
    return [(name, count) for name, count in counts if count]


def _check_factor(counts: Sequence[tuple[str, int]], factor: Fraction) -> None:
    unit = Fraction(1, math.gcd(*(value for _, value in counts)))
    if (factor / unit).denominator == 1:
        return
    key, value = next((key, value) for key, value in counts if (value * factor).denominator != 1)
    below = math.floor(factor / unit) * unit
    nearest = " and ".join(str(one) for one in (below, below + unit) if one)
    raise HistoryError(
        f"--width {float(factor):g}: {key} = {value} would become {float(value * factor):g}; "
        f"the factors of this model are multiples of {unit}, the nearest {nearest}"
    )


def _times(config: Mapping[str, Any], factor: Fraction) -> dict[str, Any]:
    """Config with every number that grows times the factor."""
    found = dict(config)
    for key, value in config.items():
        if isinstance(value, Mapping) and key in _SECTIONS:
            found[key] = _times(value, factor)
        elif key in _SCALED and _is_count(value):
            found[key] = int(value * factor)
    return found


def _maybe(count: int | None, factor: Fraction) -> int | None:
    return None if count is None else int(count * factor)


def _lengths(config: Mapping[str, Any], heads: Heads) -> frozenset[int]:
    """Lengths of axes that grow."""
    counts = list(_counts(config))
    hidden = {value for key, value in counts if key in _HIDDEN}
    inner = {value for key, value in counts if key in _INNER} or {_USUAL_INNER * one for one in hidden}
    together = {count * heads.d_head for count in (heads.query, heads.key_value) if count and heads.d_head}
    return frozenset(hidden | inner | together)


def _vocabularies(specs: Mapping[str, TensorSpec], roles: Mapping[str, TensorRole]) -> frozenset[int]:
    return frozenset(spec.rows for name, spec in specs.items() if roles[name].role in ("embedding", "unembedding"))


def _shape(spec: TensorSpec, roles: Mapping[str, TensorRole], widths: _Widths, factor: Fraction) -> tuple[int, ...]:
    role = roles[spec.name]
    if role.kind in ("buffer", "integer") or _stays(spec, roles, widths):
        return spec.shape
    first = spec.shape[:1] if role.role in _BY_FIRST_AXIS or _is_stack(role) else ()
    _check_lengths(spec, role, widths)
    return *first, *(int(length * factor) for length in spec.shape[len(first) :])


def _is_stack(role: TensorRole) -> bool:
    return any(part.row is not None for part in role.parts)


def _stays(spec: TensorSpec, roles: Mapping[str, TensorRole], widths: _Widths) -> bool:
    """Whether a vector has one element a token, one an expert, or one an element of a head."""
    if len(spec.shape) != 1:
        return not spec.shape
    [length] = spec.shape
    role, weight = roles[spec.name], roles.get(spec.name.removesuffix("bias") + "weight")
    if role.role in _BY_FIRST_AXIS or (weight and weight.role in _BY_FIRST_AXIS):
        return True
    is_of_head = role.role == "norm" and length == widths.d_head
    is_of_token = role.role == "bias" and role.layer is None and weight is None and length in widths.vocabularies
    is_told = is_of_token or _HEAD_NORM.search(spec.name)
    if length in widths.lengths and (is_of_head or is_of_token) and is_told:
        raise HistoryError(f"--width: tensor {spec.name} of {length} elements may be a width or not; {_WAY_OUT}")
    return length not in widths.lengths and (is_of_head or is_of_token)


def _check_lengths(spec: TensorSpec, role: TensorRole, widths: _Widths) -> None:
    """Refuse a tensor with an axis that the config's widths do not explain."""
    odd = [length for length in _axes(spec, role) if length not in widths.lengths]
    if odd or (len(spec.shape) > 2 and not _is_stack(role)):
        sides = " x ".join(map(str, spec.shape))
        known = few_of([str(length) for length in sorted(widths.lengths)])
        raise HistoryError(
            f"--width: tensor {spec.name} ({sides}) has an axis that is none of the widths that the config tells "
            f"({known}); {_WAY_OUT}"
        )


def _axes(spec: TensorSpec, role: TensorRole) -> list[int]:
    """Lengths that should be widths: of each logical matrix, of each part of a vector."""
    if len(spec.shape) == 1:
        return [part.length(spec.rows) for part in role.parts] or [spec.rows]
    axes = [length for one in matrices_of(spec, role) for length in one.shape] or list(spec.shape)
    return axes[1:] if role.role in _BY_FIRST_AXIS else axes
