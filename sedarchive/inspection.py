"""Inspection: what a checkpoint holds and how each tensor is understood, from its headers alone."""

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from sedarchive.errors import HistoryError
from sedarchive.families import Family
from sedarchive.history import CheckpointSource, Finding, RunSource, TensorSpec
from sedarchive.lowrank.products import Products, find_products, product_roles
from sedarchive.lowrank.settings import adapter_of
from sedarchive.modelconfig import with_checkpoint
from sedarchive.parts import Part
from sedarchive.readers import CheckpointReader, find_runs, open_checkpoint
from sedarchive.readers.folder import weight_files
from sedarchive.result import Result
from sedarchive.roles import Architecture, TensorRole, assign_roles, check_heads
from sedarchive.sizes import format_size
from sedarchive.words import counted

_SHOWN_PARTS = 4
_SHOWN_STEPS = 3
_TIES = {"storage": "shares the storage of {}", "config": "by the config the same as {}: counted once if it is"}


@dataclass(frozen=True)
class Hints:
    """What the user tells of a history."""

    heads: int | None = None
    kv_heads: int | None = None
    families: tuple[Family, ...] = ()
    """Families of the user's own, tried before the shipped ones."""
    step_pattern: str | None = None


@dataclass(frozen=True)
class InspectedPart:
    """One logical matrix of a fused or stacked tensor."""

    name: str
    role: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class InspectedTensor:
    """One tensor, as its header and the families tell it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    kind: str
    """``matrix``, ``vector``, ``array``, ``buffer`` or ``integer``."""
    role: str
    layer: int | None
    expert: int | None
    matrix: tuple[int, int] | None
    """Rows and columns of the one matrix that it is looked at as, None if it is none or several."""
    parts: tuple[InspectedPart, ...]
    tied_to: str | None
    tied_by: str | None
    """``storage`` or ``config``."""
    layout: str | None
    """How its parts lie, such as ``thirds of the rows``; None if it has none."""
    reason: str | None
    """Why it is kept whole or no parameter, and what else there is to say."""
    family: str | None
    """Family whose entry knows the name: the run's, ``plain`` or ``buffers``; None if none does."""
    pattern: str | None
    """Regular expression of that entry."""

    @property
    def n_parameters(self) -> int:
        """Parameters of its own: none if it is tied, a buffer, or of integers."""
        return 0 if self.tied_to or self.kind in ("buffer", "integer") else prod(self.shape)


@dataclass(frozen=True)
class Inspection:
    """One run, or one checkpoint, and the tensors of its newest checkpoint."""

    run: str
    checkpoint: str
    """Path of the checkpoint that was opened."""
    format: str
    """What it is, from the outside in, such as ``Trainer, sharded safetensors``; ``unknown`` if it cannot be read."""
    n_files: int
    """Files that hold its weights."""
    step: int
    steps: tuple[int, ...]
    architecture: str
    model_type: str | None
    """What the config beside it says."""
    heads: int | None
    """Attention heads, as given or as the config has them."""
    kv_heads: int | None
    n_layers: int
    n_parameters: int
    """Tied ones once; buffers and integers are none."""
    n_bytes: int
    """Bytes of all tensors, those that share storage once."""
    tensors: tuple[InspectedTensor, ...]
    findings: tuple[Finding, ...]
    products: tuple[InspectedTensor, ...] = ()
    """Products of the factors of adapters, which are logical matrices, and in no file."""
    error: str | None = None
    """Why the checkpoint cannot be read; no tensors then."""

    def describe(self) -> str:
        """Lines for people, the tensors apart."""
        if self.error:
            return f"{self.run}: {self.error}"
        model_type = f", model_type {self.model_type}" if self.model_type else ", no config"
        kinds = Counter(one.kind for one in self.tensors)
        others = [f"{kinds[kind]} {words}" for kind, words in _KINDS.items() if kinds[kind]]
        parameters = f"{self.n_parameters:,} parameters in {counted(self.n_layers, 'layer')}"
        lines = [
            f"{self.run}: step {self.step}, {self.checkpoint}",
            f"  format: {self.format}, {counted(self.n_files, 'file')}",
            f"  steps: {_listed(self.steps)}",
            f"  architecture: {self.architecture}{model_type}, {self._heads()}",
            f"  {parameters}, {format_size(self.n_bytes)}; {counted(len(self.tensors), 'tensor')}: {', '.join(others)}",
        ]
        if self.products:
            lines.append(f"  {counted(len(self.products), 'product')} of two factors, in their place")
        ties = [f"  tied: {one.name}, {_note(one)}" for one in self.tensors if one.tied_to]
        return "\n".join(lines + ties)

    def _heads(self) -> str:
        if self.heads is None:
            return "heads unknown"
        return counted(self.heads, "head") + (f", {self.kv_heads} of keys and values" if self.kv_heads else "")


_KINDS = {
    "matrix": "of two axes", "vector": "of one axis", "array": "of more axes",
    "buffer": "no parameters", "integer": "of integers",
}  # fmt: skip


def inspect(path: Path, hints: Hints = Hints()) -> list[Inspection]:
    """What a checkpoint, or the newest checkpoint of each run of a folder, holds; no weight is read.

    Raises
    ------
    NoCheckpointsError
        If there is none.
    HistoryError
        If a number of heads is not positive.
    """
    empty = assign_roles({}, None, hints.heads, hints.kv_heads)  # refuses such a number once, before any file
    return [_inspect_run(source, hints, empty) for source in find_runs(path, step_pattern=hints.step_pattern)]


def _inspect_run(source: RunSource, hints: Hints, empty: Architecture) -> Inspection:
    last = source.checkpoints[-1]
    try:
        with tempfile.TemporaryDirectory(prefix="sedarchive-") as spool, open_checkpoint(last, Path(spool)) as reader:
            return inspect_reader(source, last, reader, hints)
    except HistoryError as error:
        return _inspection(source, last, empty, None, hints, str(error))


def inspect_reader(
    source: RunSource, checkpoint: CheckpointSource, reader: CheckpointReader, hints: Hints
) -> Inspection:
    """What one open checkpoint of a run holds; no weight is read.

    Raises
    ------
    HistoryError
        If a number of heads is not positive, or cannot be that of the model.
    """
    config = with_checkpoint(source.config, reader.meta)
    found = assign_roles(reader.specs, config, hints.heads, hints.kv_heads, hints.families)
    check_heads(found, hints.heads, hints.kv_heads)
    return _inspection(source, checkpoint, found, reader, hints)


def _inspection(
    source: RunSource,
    checkpoint: CheckpointSource,
    found: Architecture,
    reader: CheckpointReader | None,
    hints: Hints,
    error: str | None = None,
) -> Inspection:
    products = find_products(reader.specs.values(), adapter_of(source.config)) if reader else Products()
    tensors = _tensors(reader, found, products) if reader else ()
    model_type = source.config.get("model_type")
    return Inspection(
        run=source.name,
        checkpoint=str(checkpoint.path),
        format=reader.format if reader else "unknown",
        n_files=_n_files(checkpoint),
        step=checkpoint.step,
        steps=tuple(checkpoint.step for checkpoint in source.checkpoints),
        architecture=found.family,
        model_type=model_type if isinstance(model_type, str) else None,
        heads=found.heads.query,
        kv_heads=found.heads.key_value,
        n_layers=found.n_layers,
        n_parameters=sum(one.n_parameters for one in tensors),
        n_bytes=sum(one.n_bytes for one in tensors if one.tied_by != "storage"),
        tensors=tensors,
        findings=(*source.findings, *(reader.findings if reader else ())),
        products=_products(
            products, product_roles(products, source.config, hints.heads, hints.kv_heads, hints.families)
        ),
        error=error,
    )


def _n_files(source: CheckpointSource) -> int:
    try:
        return len(weight_files(source.path).files)
    except HistoryError:
        return 0


def _tensors(reader: CheckpointReader, found: Architecture, products: Products) -> tuple[InspectedTensor, ...]:
    by_config = {head: (embedding, "config") for head, embedding in found.tie_candidates if found.tied_by_config}
    ties = by_config | {name: (owner, "storage") for name, owner in reader.ties.items()}
    tensors = [
        _tensor(spec, found.roles[spec.name], ties.get(spec.name, (None, None))) for spec in reader.specs.values()
    ]
    said = products.reasons(lambda name: "its module's .lora")  # one text for all layers
    return tuple(replace(one, reason=said.get(one.name, one.reason)) for one in tensors)


def _products(products: Products, roles: Mapping[str, TensorRole]) -> tuple[InspectedTensor, ...]:
    """Products as the logical matrices that they are: no bytes of their own."""
    found = []
    for product in products.formed:
        one = _tensor(TensorSpec(product.name, "float32", product.shape), roles[product.name], (None, None))
        reason = "; ".join(filter(None, (product.describe(), one.reason)))
        found.append(replace(one, dtype="", n_bytes=0, reason=reason))
    return tuple(found)


def _tensor(spec: TensorSpec, role: TensorRole, tie: tuple[str | None, str | None]) -> InspectedTensor:
    tied_to, tied_by = tie
    return InspectedTensor(
        name=spec.name,
        dtype=spec.dtype,
        shape=spec.shape,
        n_bytes=spec.nbytes,
        kind=role.kind,
        role=role.role,
        layer=role.layer,
        expert=role.expert,
        matrix=role.matrix.shape if role.matrix and not role.parts and role.kind in ("matrix", "array") else None,
        parts=tuple(InspectedPart(part.name, part.role, _part_shape(part, spec.shape)) for part in role.parts),
        tied_to=tied_to,
        tied_by=tied_by,
        layout=role.layout,
        reason=role.reason,
        family=role.family,
        pattern=role.pattern,
    )


def _part_shape(part: Part, shape: tuple[int, ...]) -> tuple[int, ...]:
    if part.shape is not None:
        return part.shape
    return tuple(part.length(length) if axis == part.axis else length for axis, length in enumerate(shape))


def starred(name: str) -> str:
    """Name of a tensor with a star for each number, so that those of all layers and experts are one."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def tensor_table(inspection: Inspection, every: bool = False) -> Result:
    """Return the tensors as rows for people, those that differ in numbers of layers and experts alone in one row.

    Parameters
    ----------
    every
        A row for each tensor instead.
    """
    columns = ["tensor", "count", "shape", "dtype", "role", "matrices", "size", "note"]
    groups: dict[tuple[str, ...], list[InspectedTensor]] = {}
    for one in (*inspection.tensors, *inspection.products):
        name = one.name if every else starred(one.name)
        groups.setdefault((name, _by(one.shape), one.dtype, one.role, _matrices(one), _note(one)), []).append(one)
    rows = [
        (name, len(some), shape, dtype, role, matrices, format_size(sum(one.n_bytes for one in some)), note)
        for (name, shape, dtype, role, matrices, note), some in groups.items()
    ]
    return Result(columns, ["VARCHAR", "BIGINT", *["VARCHAR"] * 6], rows)


def match_table(inspection: Inspection) -> Result:
    """Return how each tensor was matched as rows for people: the entry that knows it, its role and its split."""
    rows = [
        (one.name, _by(one.shape), one.family, one.role, _matrices(one), _note(one), one.pattern)
        for one in inspection.tensors
    ]
    columns = ["tensor", "shape", "family", "role", "matrices", "note", "pattern"]
    return Result(columns, ["VARCHAR"] * len(columns), rows)


def _matrices(tensor: InspectedTensor) -> str:
    """Logical matrices of a tensor in a few words."""
    if not tensor.parts:
        return _by(tensor.matrix) if tensor.matrix else ""
    shown = [f"{part.name} {_by(part.shape)}" for part in tensor.parts[:_SHOWN_PARTS]]
    more = len(tensor.parts) - len(shown)
    return ", ".join(shown + ([f"and {more} more"] if more else []))


def _note(tensor: InspectedTensor) -> str:
    tie = _TIES[tensor.tied_by].format(tensor.tied_to) if tensor.tied_by else None
    return tie or "; ".join(filter(None, (tensor.layout, tensor.reason)))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listed(steps: tuple[int, ...]) -> str:
    """Steps in a line: all of a few, else the first ones and the last."""
    few = len(steps) <= 2 * _SHOWN_STEPS
    shown = list(map(str, steps if few else steps[:_SHOWN_STEPS]))
    return ", ".join(shown + ([] if few else ["...", str(steps[-1])])) + (f" ({len(steps)})" if len(steps) > 1 else "")
