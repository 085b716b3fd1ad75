"""From the object of a torch file and the places of its storages to views of its tensors."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedarchive.history import DTYPES, Finding
from sedarchive.readers.byteranges import ByteView, RandomAccessFile
from sedarchive.readers.contents import Contents
from sedarchive.readers.faults import unreadable
from sedarchive.readers.formats import saved_by
from sedarchive.readers.torchobjects import Storage, StoredTensor
from sedarchive.readers.weights import find_weights

Place = tuple[RandomAccessFile, int]
"""File and byte at which a storage's record begins."""


@dataclass(frozen=True)
class TorchObject:
    """The object of a torch file, and the way from its tensors to their bytes."""

    path: Path
    """File that errors and findings name."""
    root: Any
    """Object of the pickle, as :mod:`sedarchive.readers.unpickle` leaves it."""
    opaque: frozenset[str]
    """Dotted names of globals that were not rebuilt."""
    locate: Callable[[Storage], Place]
    """Place of a storage; raises where its record is missing or of another size."""
    big_endian: bool = False
    """Whether the bytes are those of a big-endian machine."""

    def view(self, tensor: StoredTensor) -> ByteView:
        """Return where the elements of `tensor` stand."""
        file, record = self.locate(tensor.storage)
        start = record + tensor.storage.start + tensor.offset * DTYPES[tensor.dtype].itemsize
        strides = None if tensor.is_contiguous else tensor.strides
        return ByteView(file, start, tensor.dtype, tensor.shape, strides, self.big_endian)


def torch_contents(found: TorchObject, key: str | None = None) -> Contents:
    """Make views of the weights in the object of a torch file.

    Parameters
    ----------
    found
        The object.
    key
        Nested key that holds the weights; None: where they usually stand.

    Raises
    ------
    UnreadableCheckpointError
        If there are no weights, or bytes of them are missing.
    """
    try:
        weights = find_weights(found.root, key)
    except ValueError as error:
        raise unreadable(found.path, str(error), "save the state dict of the model, or leave this file out") from None
    views = {name: found.view(tensor) for name, tensor in weights.tensors.items()}
    meta = {name: _scalar(value, found) for name, value in weights.meta.items()}
    meta = {name: value for name, value in meta.items() if value is not None}
    findings = (*opaque_finding(found.opaque), *weights.findings)
    return Contents(views, find_ties(weights.tensors), findings, meta, format=saved_by(found.root))


def find_ties(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Names of tensors that are the same view of the same storage as an earlier one, to that one's name."""
    first: dict[StoredTensor, str] = {}
    return {
        name: kept
        for name, tensor in tensors.items()
        if 0 not in tensor.shape and (kept := first.setdefault(tensor, name)) != name
    }


def _scalar(value: Any, found: TorchObject) -> Any:
    """Read the number in a tensor of one element (nanoGPT's ``best_val_loss``); leave anything else as it is."""
    if not isinstance(value, StoredTensor):
        return value
    if DTYPES[value.dtype].is_bits or DTYPES[value.dtype].kind == "complex":
        return None
    number = found.view(value).read_rows(0, 1)[0, 0]
    return number.item() if np.isfinite(number) else None


def opaque_finding(opaque: Iterable[str]) -> tuple[Finding, ...]:
    """Tell which globals of a pickle stayed opaque; nothing if none did."""
    names = sorted(opaque)
    if not names:
        return ()
    more = f" and {len(names) - 16} more" if len(names) > 16 else ""
    detail = f"objects in the pickle that are not weights were neither imported nor rebuilt: {', '.join(names[:16])}"
    return (Finding("opaque_global", "info", detail + more),)
