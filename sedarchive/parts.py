"""Where the parts of a fused or stacked tensor lie, as index arithmetic.

A layout that a family declares, the shape of the tensor and the numbers of
heads give :class:`Part` objects; what does not fit gives a reason instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

from sedarchive.families import Split

Shape = tuple[int, ...]

MOST_EXPERTS = 4096
"""Experts of a stack that are told apart; each is a matrix with a spectrum and a Gram matrix of its own."""


@dataclass(frozen=True)
class Part:
    """One logical matrix inside a fused tensor.

    It holds the elements whose index along ``axis``, modulo ``period``, lies in
    ``[start, stop)``, in their order. The parts of a tensor do not overlap and
    together hold every element. Every tensor is looked at as its first axis
    times all the others.
    """

    name: str
    """``query``, ``key``, ..., ``expert3.gate``; unique in its tensor."""
    role: str
    """One of :data:`sedarchive.families.ROLES`: the name, or ``bias`` for a part of a fused bias."""
    axis: int
    """0 rows, 1 columns."""
    period: int
    start: int
    stop: int
    row: int | None = None
    """Only index of the first axis that it holds, the expert of a stack; None for all."""
    shape: tuple[int, int] | None = None
    """Shape of an expert's matrix; None where it is what is left of the tensor's own axes."""

    def length(self, axis_length: int) -> int:
        """Count the indices kept of an axis of this length."""
        periods, rest = divmod(axis_length, self.period)
        width = self.stop - self.start
        return periods * width + min(max(rest - self.start, 0), width)


@dataclass(frozen=True)
class Heads:
    """Numbers of heads and the length of one, as far as they are known."""

    query: int | None
    key_value: int | None
    d_head: int | None
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Of :data:`sedarchive.families.LENGTHS` those that the config tells."""


@dataclass(frozen=True)
class Matrix:
    """A tensor, or each expert of it, as one matrix."""

    rows: int
    columns: int
    blocks: int = 1
    """Matrices (rows, columns / blocks) that lie one after the other and stand side by side; 1 if it is a plain one."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns


def as_matrix(shape: Shape, view: str) -> Matrix | None:
    """One matrix that a tensor is looked at as; None if it is none, or several (``experts``).

    Parameters
    ----------
    shape
        Shape of the tensor.
    view
        One of :data:`sedarchive.families.VIEWS`, or ``""``. Two axes are a matrix under every view but ``vector``.
    """
    match view, len(shape):
        case "vector", _:
            return None
        case _, 2:
            return Matrix(*shape)
        case "beside", 3:
            return Matrix(shape[1], shape[0] * shape[2], max(shape[0], 1))
        case "below", 3:
            return Matrix(shape[0] * shape[1], shape[2])
        case "flat", axes if axes > 2:
            return Matrix(shape[0], prod(shape[1:]))
    return None


def cut(split: Split, shape: Shape, heads: Heads) -> tuple[Part, ...]:
    """Parts of a fused vector or matrix that :func:`obstacle` finds nothing against."""
    axis = _axis(split, shape)
    repeats, units = _layout(split, shape, heads)
    period = shape[axis] // repeats
    unit = period // sum(units)
    parts, start = [], 0
    for name, width in zip(split.parts, units, strict=True):
        parts.append(Part(name, "bias" if len(shape) == 1 else name, axis, period, start, start + width * unit))
        start += width * unit
    return tuple(parts)


def experts(role: str, split: Split | None, shape: Shape, heads: Heads) -> tuple[Part, ...]:
    """Matrices of a stack (experts, rows, columns), each cut by ``split`` unless it is None; () if it is no such stack.

    Parameters
    ----------
    role
        Role of an expert's matrix that is not cut.
    """
    if len(shape) != 3 or not 0 < shape[0] <= MOST_EXPERTS or not prod(shape):
        return ()
    _, rows, columns = shape
    within = cut(split, shape[1:], heads) if split else (Part("", role, 0, rows, 0, rows),)
    return tuple(_of_expert(part, expert, rows, columns) for expert in range(shape[0]) for part in within)


def _of_expert(part: Part, expert: int, rows: int, columns: int) -> Part:
    """Part of one expert's matrix as a part of the stack, whose row it is."""
    left = (part.length(rows), columns) if part.axis == 0 else (rows, part.length(columns))
    scale = columns if part.axis == 0 else 1
    return replace(
        part,
        name=f"expert{expert}.{part.name}" if part.name else f"expert{expert}",
        axis=1,
        period=part.period * scale,
        start=part.start * scale,
        stop=part.stop * scale,
        row=expert,
        shape=left,
    )


def _layout(split: Split, shape: Shape, heads: Heads) -> tuple[int, tuple[int, ...]]:
    """How often the pattern of parts repeats, and the units (heads, or equal blocks) of each part in one repeat."""
    h, k = heads.query or 1, heads.key_value or 1
    equal = (1,) * len(split.parts)
    match split.rule:
        case "per_head":
            return h, equal
        case "alternate":
            return shape[_axis(split, shape)] // len(split.parts), equal
        case "quarters":
            return 4, equal
        case "lengths":
            units = tuple(heads.lengths[name] for name in split.lengths)
            return shape[_axis(split, shape)] // sum(units), units
        case "sizes":
            return 1, tuple({"query": h}.get(part, k) for part in split.parts)
        case "grouped":
            return k, tuple({"query": h // k}.get(part, 1) for part in split.parts)
    return 1, equal


def obstacle(split: Split, shape: Shape, heads: Heads) -> str | None:
    """Why a fused tensor cannot be split with what is known; None if it can."""
    fused = f"fused {', '.join(split.parts)}"
    if len(shape) not in (1, 2):
        return f"{fused}, stacked in {len(shape)} dimensions; kept whole"
    if split.rule == "unknown":
        return f"{fused} of a layout that names and shape do not tell; kept whole: --arch FILE, a family file, tells"
    if split.rule == "shared":
        return f"what {' and '.join(split.parts)} are made from, kept whole: no part of it is of one alone"
    if split.rule in ("thirds", "halves", "quarters", "alternate"):
        return _misfit_of_blocks(split, shape)
    if split.rule == "lengths":
        return _misfit_of_lengths(split, shape, heads)
    if heads.query is None:
        return f"{fused}, laid out by heads; kept whole, heads unknown: pass --heads N"
    if heads.key_value is None and split.rule != "per_head":
        return f"{fused}, laid out by heads; kept whole, key-value heads unknown: pass --kv-heads N"
    return _misfit_of_heads(split, shape, heads)


def contradicts(split: Split, shape: Shape, heads: Heads) -> bool:
    """Whether numbers of heads that are known cannot be those of a fused tensor laid out by heads."""
    if len(shape) not in (1, 2) or heads.query is None:
        return False
    if split.rule == "lengths":
        return heads.lengths.keys() >= {*split.lengths} and _misfit_of_lengths(split, shape, heads) is not None
    is_told = split.rule == "per_head" or (split.rule in ("sizes", "grouped") and heads.key_value is not None)
    return is_told and _misfit_of_heads(split, shape, heads) is not None


def _misfit_of_blocks(split: Split, shape: Shape) -> str | None:
    """Why the shape is not one of equal blocks; None if it is."""
    length = shape[_axis(split, shape)]
    blocks = len(split.parts) * (4 if split.rule == "quarters" else 1)
    if length and length % blocks == 0:
        return None
    return f"{_whole(split, shape)}, which is no multiple of {blocks}"


def _misfit_of_lengths(split: Split, shape: Shape, heads: Heads) -> str | None:
    """Why parts of unequal lengths cannot be told; None if they can."""
    missing = [name for name in split.lengths if name not in heads.lengths]
    if missing:
        named = f"of lengths that only a config tells ({', '.join(missing)})"
        return (
            f"fused {', '.join(split.parts)}, {named}; kept whole: put the model's config.json beside the checkpoints"
        )
    length, period = shape[_axis(split, shape)], sum(heads.lengths[name] for name in split.lengths)
    repeats, rest = divmod(length, period)
    if rest or not repeats or heads.query not in (None, repeats):
        assumed = "heads" if heads.query is None else f"{heads.query} heads"
        return f"{_whole(split, shape)}, which does not divide into {assumed} of {period}; check the config and --heads"
    return None


def _misfit_of_heads(split: Split, shape: Shape, heads: Heads) -> str | None:
    """Why the shape contradicts the numbers of heads; None if it does not."""
    assumed = f"{heads.query} heads" + ("" if split.rule == "per_head" else f", {heads.key_value} of keys and values")
    advice = "check --heads and --kv-heads"
    if split.rule == "grouped" and (heads.query or 1) % (heads.key_value or 1):
        return f"{_whole(split, shape)}, and {assumed} make no equal groups; {advice}"
    repeats, units = _layout(split, shape, heads)
    d_head, rest = divmod(shape[_axis(split, shape)], repeats * sum(units))
    if rest or d_head == 0:
        return f"{_whole(split, shape)}, which does not divide into {assumed}; {advice}"
    if heads.d_head not in (None, d_head):
        return f"{_whole(split, shape)}: with {assumed}, one is {d_head} long, by the config {heads.d_head}; {advice}"
    return None


def _whole(split: Split, shape: Shape) -> str:
    axis = _axis(split, shape)
    return f"fused {', '.join(split.parts)}, kept whole: axis {axis} is {shape[axis]} long"


def _axis(split: Split, shape: Shape) -> int:
    return split.axis if len(shape) == 2 else 0
