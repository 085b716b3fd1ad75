"""What each tensor of a model is: its layer, its role, and where a fused tensor is cut.

Names and fused layouts are declared by family in ``sedarchive/families``; this
module looks names up, ``modelconfig.py`` reads the number of heads, and
``parts.py`` turns the declarations into index arithmetic. Nothing is guessed: a fused tensor whose layout is not
certain is kept whole, with the reason. It sees names and shapes, never a
weight.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sedarchive.errors import HistoryError
from sedarchive.families import ROLES, Family, Rule, load_families
from sedarchive.families.match import Match, match_names, read_index
from sedarchive.history import TensorSpec
from sedarchive.modelconfig import first_value, model_type, read_heads
from sedarchive.parts import MOST_EXPERTS, Heads, Matrix, Part, as_matrix, contradicts, cut, experts
from sedarchive.parts import obstacle as find_obstacle

__all__ = ["ATTENTION", "MLP", "ROLES", "Architecture", "Part", "TensorRole", "assign_roles", "check_heads"]

ATTENTION = ("query", "key", "value", "output")
MLP = ("gate", "up", "down")

_EXPERT = re.compile(r"(?:^|\.)experts?[._](\d+)(?=\.|$)")


@dataclass(frozen=True)
class TensorRole:
    """What one tensor is."""

    tensor: str
    """Its name in the checkpoint."""
    layer: int | None
    """Index of the block it belongs to, as the name says it; None outside the blocks."""
    role: str
    """One of :data:`ROLES`; ``other`` for a fused weight, whose parts have roles of their own."""
    kind: str
    """``matrix`` (2-D parameter), ``vector`` (0-D, 1-D), ``array`` (3-D and more),
    ``buffer`` (no parameter), ``integer`` (integer, bool or complex elements)."""
    parts: tuple[Part, ...]
    """Logical matrices of a fused tensor, () if it is not split."""
    reason: str | None
    """Why a fused tensor is kept whole, or why it is no parameter; None if there is nothing to say."""
    expert: int | None = None
    """Index of the expert in a mixture of experts."""
    contains: tuple[str, ...] = ()
    """Roles fused in this weight, also where it is kept whole; () for every other tensor."""
    matrix: Matrix | None = None
    """Matrix that it is as a whole; None if it is none, or a stack of experts."""
    family: str | None = None
    """Family whose entry knows the name: the run's, ``plain`` or ``buffers``; None if none does."""
    pattern: str | None = None
    """Regular expression of that entry."""
    layout: str | None = None
    """How its parts lie, such as ``thirds of the rows``; None if it has none."""
    contradicts_heads: bool = False
    """Whether it is kept whole since the numbers of heads do not fit its shape."""


@dataclass(frozen=True)
class Architecture:
    """What the tensors of a model are, and which family told it."""

    family: str
    """Name of the family; ``plain`` if only single names are known, ``unknown`` if none is."""
    n_layers: int
    """Number of different layer indices, 0 if no name holds one."""
    roles: Mapping[str, TensorRole]
    """Every tensor given, by name."""
    tied_by_config: bool | None
    """Whether the config ties the unembedding to the embedding; None if it does not say."""
    heads: Heads
    """Numbers of heads, as given or as the config has them."""
    tie_candidates: tuple[tuple[str, str], ...]
    """Pairs (unembedding, embedding) of equal shape and dtype, both present: (tied name, canonical name)."""


UNKNOWN_NAME = "no known family has this name: kept whole, as role other"


def assign_roles(
    specs: Mapping[str, TensorSpec],
    config: Mapping[str, Any] | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    families: Sequence[Family] = (),
) -> Architecture:
    """Find the layer, the role and the parts of every tensor of a model.

    Parameters
    ----------
    specs
        Name to dtype and shape, of one checkpoint.
    config
        Model config found beside the checkpoint (nested sections are searched too); None or {} if there is none.
    heads, kv_heads
        Numbers of query heads and of key-value heads; they win over the config's.
    families
        Families of the user's own, tried before the shipped ones.

    Returns
    -------
    Architecture
        ``roles`` has one entry a tensor, in the order given.

    Raises
    ------
    HistoryError
        If ``heads`` or ``kv_heads`` is not positive.
    """
    config = config or {}
    geometry = read_heads(config, heads, kv_heads)
    shapes = {name: spec.shape for name, spec in specs.items()}
    family, matches = match_names(shapes, model_type(config), families)
    roles = {name: _tensor_role(spec, matches[name], geometry) for name, spec in specs.items()}
    return Architecture(
        family=family.name if family else _family_of_names(roles),
        n_layers=len({role.layer for role in roles.values()} - {None}),
        roles=roles,
        tied_by_config=_read_tie(config, families),
        heads=geometry,
        tie_candidates=_tie_candidates(specs, roles),
    )


def check_heads(found: Architecture, heads: int | None, kv_heads: int | None) -> None:
    """Refuse numbers of heads that are not those of a model.

    Parameters
    ----------
    found
        The model's tensors, assigned with these numbers.
    heads, kv_heads
        As the user gives them; None where they are not given.

    Raises
    ------
    HistoryError
        If a fused tensor does not divide into them, or no query (key) matrix has a multiple of them as a side.
    """
    given = [f"{option} {n}" for option, n in (("--heads", heads), ("--kv-heads", kv_heads)) if n is not None]
    misfit = next((role for role in found.roles.values() if given and role.contradicts_heads), None)
    if misfit is not None:
        raise HistoryError(f"{' '.join(given)} cannot be right: tensor {misfit.tensor} is {misfit.reason}")
    for option, count, role in (("--heads", heads, "query"), ("--kv-heads", kv_heads, "key")):
        matrices = list(_matrices_of(found, role))
        if count is not None and matrices and all(m % count and n % count for _, m, n in matrices):
            name, m, n = matrices[0]
            raise HistoryError(
                f"{option} {count} cannot be right: the {role} matrix {name} is {m} x {n}, and no such matrix of the "
                f"model has a side that divides into {count} heads; pass the number that the model has, or none"
            )


def _matrices_of(found: Architecture, role: str) -> Iterator[tuple[str, int, int]]:
    """Name, rows and columns of every matrix of a role; those in stacks of experts apart."""
    for one in found.roles.values():
        if one.matrix is None:
            continue
        m, n = one.matrix.shape
        if one.role == role and one.kind == "matrix":
            yield one.tensor, m, n
        for part in one.parts:
            if part.role == role:
                yield f"{one.tensor}:{part.name}", *((part.length(m), n) if part.axis == 0 else (m, part.length(n)))


def _tensor_role(spec: TensorSpec, match: Match, heads: Heads) -> TensorRole:
    rule, kind = match.rule, _kind(spec, match)
    split = rule.split if rule else None
    reason = rule.reason if rule else UNKNOWN_NAME if kind in ("matrix", "array") else None
    parts: tuple[Part, ...] = ()
    if kind == "integer":
        reason = f"{spec.dtype} elements: stored and restored, never differenced"
    elif rule and kind != "buffer":
        parts, obstacle = _divide(rule, spec.shape, heads)
        if not split or split.rule != "unknown" or reason is None:  # else the family says itself why it does not tell
            reason = obstacle if split else obstacle or reason
    return TensorRole(
        tensor=spec.name,
        layer=match.layer,
        role=rule.role if rule else "other",
        kind=kind,
        parts=parts,
        reason=reason,
        expert=_expert(spec.name),
        contains=split.parts if split and rule and rule.role != "bias" else (),
        matrix=as_matrix(spec.shape, rule.view if rule else ""),
        family=match.family,
        pattern=rule.pattern.pattern if rule else None,
        layout=_layout(rule, spec.shape) if rule and parts else None,
        contradicts_heads=bool(split and not parts and contradicts(split, spec.shape, heads)),
    )


def _layout(rule: Rule, shape: tuple[int, ...]) -> str:
    """Say how the parts of a divided tensor lie."""
    split = rule.split
    along = f"{split.rule} of the {'columns' if split.axis else 'rows'}" if split else ""
    if len(shape) == 1:
        return f"{split.rule}" if split else ""
    return f"stack of experts, {along}".removesuffix(", ") if rule.view == "experts" else along


def _divide(rule: Rule, shape: tuple[int, ...], heads: Heads) -> tuple[tuple[Part, ...], str | None]:
    """Parts of a tensor, and why it, or each expert of a stack, is kept whole."""
    stack = rule.view == "experts" and len(shape) == 3
    obstacle = find_obstacle(rule.split, shape[1:] if stack else shape, heads) if rule.split else None
    split = None if obstacle else rule.split
    if not stack:
        return (cut(split, shape, heads) if split else ()), obstacle
    parts = experts(rule.role, split, shape, heads)
    if not parts:
        obstacle = f"a stack of {shape[0]} experts, which is empty or more than {MOST_EXPERTS}; kept whole"
    return parts, obstacle


def _kind(spec: TensorSpec, match: Match) -> str:
    if match.is_buffer:
        return "buffer"
    if not spec.is_float:
        return "integer"
    return {0: "vector", 1: "vector", 2: "matrix"}.get(len(spec.shape), "array")


def _expert(name: str) -> int | None:
    match = _EXPERT.search(name)
    return read_index(match[1]) if match else None


def _family_of_names(roles: Mapping[str, TensorRole]) -> str:
    telling = {*ATTENTION, *MLP, "embedding", "unembedding"}
    is_telling = any(role.role in telling or role.contains for role in roles.values())
    return "plain" if is_telling else "unknown"


def _tie_candidates(specs: Mapping[str, TensorSpec], roles: Mapping[str, TensorRole]) -> tuple[tuple[str, str], ...]:
    def matrices(wanted: str) -> list[str]:
        return [name for name, role in roles.items() if role.role == wanted and role.kind == "matrix"]

    return tuple(
        (head, embedding)
        for head in matrices("unembedding")
        for embedding in matrices("embedding")
        if (specs[head].shape, specs[head].dtype) == (specs[embedding].shape, specs[embedding].dtype)
    )


def _read_tie(config: Mapping[str, Any], own: Sequence[Family]) -> bool | None:
    tied = first_value(config, "tie_word_embeddings", bool)
    if tied is not None:
        return bool(tied)
    told = model_type(config)
    family = next((one for one in (*own, *load_families().values()) if told in one.model_types), None)
    return family.tied_by_default if family else None
