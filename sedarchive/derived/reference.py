"""What a warm-up is shaped like: the archived checkpoint itself, or another one on disk."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.derived.model import Stored
from sedarchive.errors import HistoryError
from sedarchive.families.match import bare_name
from sedarchive.floats import decode
from sedarchive.gram import select_part
from sedarchive.history import TensorSpec
from sedarchive.modelconfig import with_checkpoint
from sedarchive.parts import Part
from sedarchive.readers.contents import CheckpointReader
from sedarchive.readers.discover import find_runs
from sedarchive.readers.opening import open_checkpoint
from sedarchive.restore import tensor_data
from sedarchive.roles import TensorRole, assign_roles

Bits = NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """A model to fill: its tensors, what they are, and where the values of those that stay are."""

    specs: Mapping[str, TensorSpec]
    roles: Mapping[str, TensorRole]
    config: Mapping[str, Any]
    stored: Stored
    reader: CheckpointReader | None
    """Of the checkpoint that it is like; None if that is the archived one."""

    def copied(self, name: str) -> Iterator[memoryview]:
        """Elements of a tensor as they are stored."""
        if self.reader is None:
            yield from tensor_data(self.stored.run, self.stored.commit, name)
        else:
            spec = self.specs[name]
            yield np.ascontiguousarray(self.reader.read_rows(name, 0, spec.rows)).data

    def values(self, name: str) -> NDArray[np.floating[Any]] | None:
        """Values (rows, columns) of a tensor of the other checkpoint; None where there is none."""
        if self.reader is None:
            return None
        spec = self.specs[name]
        return decode(self.reader.read_rows(name, 0, spec.rows), spec.dtype)


@contextmanager
def shape_of(stored: Stored, like: Path | None) -> Iterator[Shape]:
    """Open what a warm-up is shaped like.

    Raises
    ------
    HistoryError
        If ``like`` cannot be read, or holds more than one run.
    """
    if like is None:
        yield Shape(stored.specs, stored.architecture.roles, stored.run.config, stored, None)
        return
    runs = find_runs(like)
    if len(runs) != 1:
        raise HistoryError(f"{like}: it holds {len(runs)} runs; point --like to one checkpoint")
    with open_checkpoint(runs[0].checkpoints[-1]) as reader:
        config, layout = with_checkpoint(runs[0].config, reader.meta), stored.layout
        roles = assign_roles(reader.specs, config, layout.heads, layout.kv_heads, layout.families).roles
        yield Shape(reader.specs, roles, config, stored, reader)


@dataclass(frozen=True)
class Matrix:
    """One logical matrix in a tensor."""

    name: str
    """``tensor`` or ``tensor:part``, with the bare name of the tensor."""
    shape: tuple[int, int]
    part: Part | None
    blocks: int

    def indices(self, spec: TensorSpec) -> NDArray[np.int64] | None:
        """Where its elements stand in the flat tensor (m n,), row by row; None if they are all, in order."""
        if self.part is None and self.blocks == 1:
            return None
        elements = np.arange(spec.n_elements).reshape(1, spec.rows, spec.columns)
        chosen = np.asarray(select_part(elements, 0, self.part))
        m, n = self.shape
        return chosen.reshape(self.blocks, m, n // self.blocks).swapaxes(0, 1).reshape(-1)


def matrices_of(spec: TensorSpec, role: TensorRole) -> list[Matrix]:
    """Logical matrices of a tensor that have elements; [] of a vector."""
    bare = bare_name(spec.name)
    if not role.parts:
        whole = role.matrix
        found = [Matrix(bare, whole.shape, None, whole.blocks)] if whole else []
    elif role.matrix is None and not role.parts[0].shape:
        found = []  # a fused bias
    else:
        found = [Matrix(f"{bare}:{part.name}", _part_shape(part, spec.shape), part, 1) for part in role.parts]
    return [one for one in found if prod(one.shape)]


def _part_shape(part: Part, shape: tuple[int, ...]) -> tuple[int, int]:
    if part.shape:
        return part.shape
    rows, columns = shape
    return (part.length(rows), columns) if part.axis == 0 else (rows, part.length(columns))
