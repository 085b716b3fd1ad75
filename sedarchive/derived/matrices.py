"""The logical matrices in a tensor, and where their elements stand."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from sedarchive.families.match import bare_name
from sedarchive.gram import select_part
from sedarchive.history import TensorSpec
from sedarchive.parts import Part
from sedarchive.roles import TensorRole


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
