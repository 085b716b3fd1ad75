"""The model in a checkpoint as a plan shows it: its architecture, its tensors by role, and those left out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from sedarchive.families import Family, load_families
from sedarchive.inspection import InspectedTensor, Inspection, starred
from sedarchive.roles import ROLES


@dataclass(frozen=True)
class RoleCount:
    """The tensors of one role: logical matrices and vectors, ties once."""

    tensors: int
    parameters: int


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that one thing is said of."""

    reason: str
    names: tuple[str, ...]
    """With a star for each number, each once."""
    tensors: int


@dataclass(frozen=True)
class ModelPlan:
    """What the newest checkpoint of a run holds."""

    architecture: str
    told_by: str
    """What told the architecture."""
    heads: int | None
    kv_heads: int | None
    n_layers: int
    n_tensors: int
    n_parameters: int
    """Ties once; buffers and integers are none."""
    dtypes: Mapping[str, int]
    """Element type to the number of tensors."""
    n_bytes: int
    """Of all tensors, those that share storage once."""
    roles: Mapping[str, RoleCount]
    not_analysed: tuple[TensorGroup, ...]
    """Archived, and no part of the analysis: buffers, ties, integers."""
    kept_whole: tuple[TensorGroup, ...]
    """Analysed as they stand: fused tensors whose parts are not known, and names that no family knows."""
    products: tuple[TensorGroup, ...] = ()
    """Products of the factors of adapters: analysed in their place, and in no file."""


def plan_model(newest: Inspection, families: Sequence[Family]) -> ModelPlan:
    """What a checkpoint holds; ``families`` are those of the user's own that it was inspected with."""
    return ModelPlan(
        architecture=newest.architecture,
        told_by=_told_by(newest, families),
        heads=newest.heads,
        kv_heads=newest.kv_heads,
        n_layers=newest.n_layers,
        n_tensors=len(newest.tensors),
        n_parameters=newest.n_parameters,
        dtypes=dict(Counter(one.dtype for one in newest.tensors)),
        n_bytes=newest.n_bytes,
        roles=_roles((*newest.tensors, *newest.products)),
        not_analysed=_grouped((one, _why_not_analysed(one)) for one in newest.tensors),
        kept_whole=_grouped((one, _why_whole(one)) for one in newest.tensors),
        products=_grouped((one, one.reason) for one in newest.products),
    )


def _told_by(inspection: Inspection, own: Sequence[Family]) -> str:
    """What told the architecture."""
    if inspection.architecture in ("plain", "unknown"):
        return "no family has these names"
    if inspection.architecture in {family.name for family in own}:
        return "by --arch"
    known = load_families()[inspection.architecture].model_types
    if inspection.model_type in known:
        return "by model_type in config.json"
    also = f"; model_type {inspection.model_type} in config.json is not of it" if inspection.model_type else ""
    return f"by the names of its tensors{also}"


def _roles(tensors: Iterable[InspectedTensor]) -> dict[str, RoleCount]:
    """Logical matrices and vectors by role, in the order of the roles."""
    counts: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    for one in tensors:
        if _why_not_analysed(one):
            continue
        for role, shape in [(part.role, part.shape) for part in one.parts] or [(one.role, one.shape)]:
            counts[role] += 1
            parameters[role] += prod(shape)
    return {role: RoleCount(counts[role], parameters[role]) for role in ROLES if counts[role]}


def _why_not_analysed(tensor: InspectedTensor) -> str | None:
    if tensor.tied_to:
        by = "stored in the same place" if tensor.tied_by == "storage" else "tied to it by the config"
        return f"counted as {starred(tensor.tied_to)}, {by}"
    if tensor.kind in ("buffer", "integer"):
        return tensor.reason or "a buffer, no parameter"
    return None


def _why_whole(tensor: InspectedTensor) -> str | None:
    is_whole = tensor.kind in ("matrix", "array") and not tensor.parts and not tensor.tied_to
    return tensor.reason if is_whole else None


def _grouped(tensors: Iterable[tuple[InspectedTensor, str | None]]) -> tuple[TensorGroup, ...]:
    """Tensors by what is said of them; those of which nothing is said are left out."""
    groups: dict[str, list[str]] = {}
    for one, reason in tensors:
        if reason:
            groups.setdefault(reason, []).append(starred(one.name))
    return tuple(TensorGroup(reason, tuple(dict.fromkeys(names)), len(names)) for reason, names in groups.items())
