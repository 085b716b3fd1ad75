"""What a warm-up is shaped like: the archived checkpoint itself, also at another width, or another one on disk."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.derived.model import Stored
from sedarchive.derived.width import resized
from sedarchive.errors import HistoryError
from sedarchive.floats import decode
from sedarchive.history import TensorSpec
from sedarchive.modelconfig import with_checkpoint
from sedarchive.readers.contents import CheckpointReader
from sedarchive.readers.discover import find_runs
from sedarchive.readers.opening import open_checkpoint
from sedarchive.restore import tensor_data
from sedarchive.roles import TensorRole, assign_roles


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
def shape_of(stored: Stored, like: Path | None, width: Fraction | None) -> Iterator[Shape]:
    """Open what a warm-up is shaped like.

    Parameters
    ----------
    stored
        The archived checkpoint.
    like
        Another checkpoint; None: the archived one.
    width
        What the widths of the archived one are multiplied by; None where they stay, or ``like`` is given.

    Raises
    ------
    HistoryError
        If ``like`` cannot be read, or holds more than one run; if the model has no such width.
    """
    if like is None:
        yield _own_shape(stored) if width is None else _shape_at(stored, width)
        return
    runs = find_runs(like)
    if len(runs) != 1:
        raise HistoryError(f"{like}: it holds {len(runs)} runs; point --like to one checkpoint")
    with open_checkpoint(runs[0].checkpoints[-1]) as reader:
        config, layout = with_checkpoint(runs[0].config, reader.meta), stored.layout
        roles = assign_roles(reader.specs, config, layout.heads, layout.kv_heads, layout.families).roles
        yield Shape(reader.specs, roles, config, stored, reader)


def _own_shape(stored: Stored) -> Shape:
    return Shape(stored.specs, stored.architecture.roles, stored.run.config, stored, None)


def _shape_at(stored: Stored, width: Fraction) -> Shape:
    """The archived model with other widths; fused tensors are cut by the new numbers of heads."""
    found = resized(stored.specs, stored.run.config, stored.architecture, width)
    heads = found.heads
    roles = assign_roles(found.specs, found.config, heads.query, heads.key_value, stored.layout.families).roles
    return Shape(found.specs, roles, found.config, stored, None)
