"""Parts of a batch of checkpoints on its way into the archive: what is open, what is one task, what a commit says."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sedarchive.archive.commits import ArrayInfo, Commit, StoredTensor, checkpoint_digest
from sedarchive.errors import HistoryError, SedarchiveError
from sedarchive.history import CheckpointSource, TensorSpec
from sedarchive.readers import CheckpointReader


class Written(NamedTuple):
    """What was seen of a tensor while it was copied."""

    digest: str
    nonfinite: int
    """Values that are NaN or infinite."""


class CheckpointReadError(Exception):
    """A checkpoint of the batch failed while its weights were read."""

    def __init__(self, index: int, cause: SedarchiveError) -> None:
        super().__init__(str(cause))
        self.index, self.cause = index, cause


@dataclass(frozen=True)
class OpenedCheckpoint:
    """One checkpoint of a batch, open for reading."""

    source: CheckpointSource
    reader: CheckpointReader
    fingerprint: Mapping[str, Any]

    def stored_specs(self) -> Iterator[TensorSpec]:
        """Tensors whose bytes are stored: those that share another's storage are not."""
        return (spec for name, spec in self.reader.specs.items() if name not in self.reader.ties)

    @property
    def n_bytes(self) -> int:
        return sum(spec.nbytes for spec in self.stored_specs())


@dataclass(frozen=True)
class TensorTask:
    """One tensor, with one dtype and shape, in the checkpoints of a batch that have it."""

    info: ArrayInfo
    members: tuple[tuple[int, CheckpointReader], ...]
    """(index in the batch, reader)."""
    slot: int
    """Slot of the batch's first checkpoint."""

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Members in consecutive slots: (first member, last member + 1, slot of the first)."""
        first = 0
        for at in range(1, len(self.members) + 1):
            if at == len(self.members) or self.members[at][0] != self.members[at - 1][0] + 1:
                yield first, at, self.slot + self.members[first][0]
                first = at


def tensor_tasks(info: ArrayInfo, opened: Sequence[OpenedCheckpoint], slot: int) -> Iterator[TensorTask]:
    """Make one task of an array's tensor in the checkpoints of a batch; none if none of them stores it."""
    members = tuple(
        (index, checkpoint.reader)
        for index, checkpoint in enumerate(opened)
        if checkpoint.reader.specs.get(info.spec.name) == info.spec and info.spec.name not in checkpoint.reader.ties
    )
    if members:
        yield TensorTask(info, members, slot)


def read_rows(
    reader: CheckpointReader, tensor: str, rows: tuple[int, int], out: "np.ndarray[Any, Any]", index: int
) -> None:
    """Read rows of a tensor into ``out``.

    Raises
    ------
    CheckpointReadError
        If the checkpoint, the ``index``-th of its batch, cannot be read.
    """
    try:
        reader.read_rows(tensor, *rows, out)
    except HistoryError as error:
        raise CheckpointReadError(index, error) from error


def commit_of(
    checkpoint: OpenedCheckpoint,
    slot: int,
    index: int,
    arrays: Mapping[TensorSpec, ArrayInfo],
    digests: Mapping[tuple[int, str], Written],
    folder: Path,
) -> Commit:
    """Make the commit of a checkpoint whose tensors are written.

    Parameters
    ----------
    checkpoint
        The checkpoint.
    slot, index
        Where it is stored, and which of its batch it is.
    arrays
        Where each tensor went.
    digests
        What was seen of the tensors, by index in the batch and name.
    folder
        Folder of the run; its source is named relative to it.
    """
    specs, ties = checkpoint.reader.specs, checkpoint.reader.ties
    tensors = {}
    for name in specs:
        owner = ties.get(name)
        stored = owner or name
        tensors[name] = StoredTensor(arrays[specs[stored]].path, digests[index, stored].digest, owner)
    source = checkpoint.source
    place: dict[str, Any] = {"path": os.path.relpath(source.path, folder), "fingerprint": dict(checkpoint.fingerprint)}
    if source.tokens is not None:
        place["tokens"] = source.tokens
    bad = {name: n for name in specs if name not in ties and (n := digests[index, name].nonfinite)}
    return Commit(slot, source.step, source.label, checkpoint_digest(tensors), place, tensors, bad)
