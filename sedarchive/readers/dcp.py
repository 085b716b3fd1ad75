"""Folders of ``torch.distributed.checkpoint``: a pickled index ``.metadata`` over tensors cut into chunks.

The index says for each tensor its type, shape and chunks, and for each chunk the file and the bytes of
what ``torch.save`` wrote of it. It is read as data, like every pickle here; neither torch nor a process
group is needed. Source: ``torch/distributed/checkpoint/metadata.py`` and ``filesystem.py`` of torch 2.13.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from sedarchive.errors import SedarchiveError
from sedarchive.history import DTYPES, Finding
from sedarchive.readers.byteranges import ByteView, RandomAccessFile, contiguous_strides
from sedarchive.readers.contents import Contents, View
from sedarchive.readers.faults import reading, unreadable
from sedarchive.readers.links import leads_outside
from sedarchive.readers.pieces import BlockView, Piece, check_blocks
from sedarchive.readers.sections import FileSection, ReopenedFile
from sedarchive.readers.torchfile import TorchObject, opaque_finding
from sedarchive.readers.torchobjects import Storage, StoredTensor, TorchPickle, dtype_of, natural
from sedarchive.readers.torchzip import Known, parse_stored
from sedarchive.readers.unpickle import PICKLE_LIMIT, Opaque, interpret_bytes
from sedarchive.readers.weights import as_mapping, find_weights
from sedarchive.words import counted

METADATA = ".metadata"
CHUNK_SUFFIX = ".distcp"
_MODULE = "torch.distributed.checkpoint."
_OPTIMIZER = re.compile(r"optim(izer)?s?(_\d+)?", re.IGNORECASE)
_FLAT = re.compile(r"(^|\.)_?flat_param(_\d+)?$")
_WRAPPED = frozenset({"model", "state_dict", "optim", "optimizer"})


@dataclass(frozen=True)
class _Tensor:
    """What the index says of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Offsets and sizes of each."""


@dataclass(frozen=True)
class _Place:
    """Where the bytes of one chunk stand."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class _Index:
    """The index, checked."""

    tensors: Mapping[str, _Tensor]
    unread: tuple[str, ...]
    """Tensors of an element type that is not known."""
    paths: Mapping[str, tuple[str, ...]]
    """Keys that lead to an entry in the nested state that was saved."""
    places: Mapping[tuple[str, tuple[int, ...]], _Place]
    opaque: frozenset[str]


def dcp_contents(folder: Path, key: str | None = None) -> Contents:
    """Tensors of the weights in a folder of ``torch.distributed.checkpoint``.

    Parameters
    ----------
    folder
        The folder with ``.metadata``.
    key
        Nested key that holds the weights; None: where they usually stand.

    Raises
    ------
    UnreadableCheckpointError
        If the index is malformed, a file of chunks is missing or cut, or chunks do not tile their tensor.
    UnsafeCheckpointError
        If the index names something that runs code.
    """
    index = _read_index(folder / METADATA)
    try:
        weights = find_weights(_tree(index), key)
    except ValueError as error:
        raise unreadable(folder, str(error), "save the state of the model, or leave this checkpoint out") from None
    reader = _ChunkReader(folder, index)
    tensors = {name: reader.view(index.tensors[stored.storage.key]) for name, stored in weights.tensors.items()}
    own = {name for name in index.opaque if not name.startswith((_MODULE, "pathlib."))}  # it notes its own path
    findings = (*opaque_finding(own), *weights.findings, *_flat_findings(tensors), *_unread_findings(index))
    return Contents(tensors, {}, findings)


def _read_index(path: Path) -> _Index:
    with reading(path):
        file = RandomAccessFile(path)
        try:
            if file.size > PICKLE_LIMIT:
                raise ValueError("the index is larger than 512 MiB")
            data = file.read_at(0, file.size)
        finally:
            file.close()
        pickled = TorchPickle(path)
        state = _state(interpret_bytes(data, pickled.rules()), "Metadata")
        tensors, unread = _tensors(as_mapping(state.get("state_dict_metadata")))
        paths = _paths(as_mapping(state.get("planner_data")))
        return _Index(tensors, unread, paths, _places(as_mapping(state.get("storage_data"))), frozenset(pickled.opaque))


def _state(value: Any, kind: str) -> dict[str, Any]:
    """Attributes of an object that must be of the class `kind` of torch's."""
    if not _is_a(value, kind) or not isinstance(value.state, dict):
        raise ValueError(f"it holds something else where an object {kind} of torch stands")
    return value.state


def _is_a(value: Any, kind: str) -> bool:
    return isinstance(value, Opaque) and value.kind.startswith(_MODULE) and value.kind.endswith(f".{kind}")


def _tensors(entries: Mapping[Any, Any]) -> tuple[dict[str, _Tensor], tuple[str, ...]]:
    """Tensors by name; and the names of those whose element type is not known."""
    found: dict[str, _Tensor] = {}
    unread = []
    for name, entry in entries.items():
        if not isinstance(name, str) or not _is_a(entry, "TensorStorageMetadata"):
            continue
        state = _state(entry, "TensorStorageMetadata")
        properties = state.get("properties")
        values = properties.state if isinstance(properties, Opaque) else None
        dtype = dtype_of(values[0]) if isinstance(values, tuple | list) and values else None
        if dtype is None:
            unread.append(name)
        else:
            found[name] = _Tensor(name, dtype, _naturals(state.get("size")), _chunks(state.get("chunks")))
    return found, tuple(unread)


def _chunks(values: Any) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    if not isinstance(values, list):
        raise ValueError("a tensor of the index has no list of chunks")
    states = [_state(value, "ChunkStorageMetadata") for value in values]
    return tuple((_naturals(state.get("offsets")), _naturals(state.get("sizes"))) for state in states)


def _naturals(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > 64:
        raise ValueError("the index has something else where a shape stands")
    return tuple(map(natural, values))


def _paths(entries: Mapping[Any, Any]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(map(str, path))
        for name, path in entries.items()
        if isinstance(name, str) and isinstance(path, tuple | list) and 0 < len(path) <= 64
        if all(isinstance(part, str | int) for part in path)
    }


def _places(entries: Mapping[Any, Any]) -> dict[tuple[str, tuple[int, ...]], _Place]:
    """Place of each chunk by tensor and offsets; entries that are no chunks of tensors are left out."""
    found = {}
    for key, value in entries.items():
        index = _state(key.args if isinstance(key, Opaque) else key, "MetadataIndex")
        name, offsets = index.get("fqn"), index.get("offset")
        if isinstance(name, str) and offsets is not None:
            found[name, _naturals(offsets)] = _place(_state(value, "_StorageInfo"))
    return found


def _place(state: Mapping[str, Any]) -> _Place:
    file = state.get("relative_path")
    if not isinstance(file, str) or file != os.path.basename(file) or file in ("", ".", "..") or "\\" in file:  # noqa: PTH119 - a name
        raise ValueError(f"it names the file {str(file)[:80]!r}, which is not one of its folder")
    if state.get("transform_descriptors"):
        raise ValueError("its chunks went through an extension (compression, say); save them without one")
    return _Place(file, natural(state.get("offset")), natural(state.get("length")))


def _tree(index: _Index) -> dict[str, Any]:
    """Nest the tensors as they were when they were saved, each as an inert stand-in whose storage is its name."""
    root: dict[str, Any] = {}
    for name, tensor in index.tensors.items():
        *folders, last = index.paths.get(name) or _path(name)
        place = root
        for part in folders:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name[:80]!r} stands inside a tensor")
        if last in place:
            raise ValueError(f"{name[:80]!r} stands where another entry is")
        place[last] = _stand_in(tensor)
    return _unwrapped(root)


def _stand_in(tensor: _Tensor) -> StoredTensor:
    storage = Storage(tensor.name, tensor.dtype, DTYPES[tensor.dtype].itemsize, prod(tensor.shape))
    return StoredTensor(storage, tensor.dtype, 0, tensor.shape, contiguous_strides(tensor.shape))


def _path(name: str) -> tuple[str, ...]:
    """Keys of an entry that was saved flat (Megatron does so): only optimizers are set apart."""
    first, dot, rest = name.partition(".")
    return (first, rest) if dot and rest and _OPTIMIZER.fullmatch(first) else (name,)


def _unwrapped(root: dict[str, Any]) -> dict[str, Any]:
    """Take the state out of the one key that may hold it all, such as ``app`` in the tutorial of torch."""
    parts = list(root.values())
    if len(parts) == 1 and isinstance(parts[0], dict) and any(isinstance(parts[0].get(key), dict) for key in _WRAPPED):
        return parts[0]
    return root


def _flat_findings(tensors: Mapping[str, View]) -> list[Finding]:
    flat = [name for name in tensors if _FLAT.search(name)]
    if not flat:
        return []
    detail = (
        f"{counted(len(flat), 'tensor')} such as {flat[0][:80]}: flattened parameters of FSDP, without the names and "
        "the shapes of the model; save with StateDictType.SHARDED_STATE_DICT or FULL_STATE_DICT"
    )
    return [Finding("flat_parameters", "warning", detail)]


def _unread_findings(index: _Index) -> list[Finding]:
    if not index.unread:
        return []
    some = f"{counted(len(index.unread), 'tensor')} such as {index.unread[0][:80]}"
    detail = f"{some}: of an element type that is not known, and missing from the history"
    return [Finding("dropped_entry", "warning", detail)]


class _ChunkReader:
    """The files of chunks of one folder, and views of tensors over them."""

    def __init__(self, folder: Path, index: _Index) -> None:
        self._folder, self._index = folder, index
        self._files: dict[str, ReopenedFile] = {}
        self._pickles: Known = {}

    def view(self, tensor: _Tensor) -> View:
        """View of a tensor over its chunks.

        Raises
        ------
        UnreadableCheckpointError
            Naming the tensor, if its chunks are not what the index says.
        """
        try:
            check_blocks(tensor.shape, tensor.chunks)
            return BlockView(tensor.dtype, tensor.shape, tuple(self._pieces(tensor)))
        except SedarchiveError:
            raise
        except ValueError as error:
            raise unreadable(self._folder / METADATA, f"tensor {tensor.name[:80]}: {error}") from None

    def _pieces(self, tensor: _Tensor) -> list[Piece]:
        return [
            Piece(offsets, self._chunk(tensor, offsets, sizes)) for offsets, sizes in tensor.chunks if 0 not in sizes
        ]

    def _chunk(self, tensor: _Tensor, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> ByteView:
        place = self._index.places.get((tensor.name, offsets))
        if place is None:
            raise ValueError(f"the chunk at {offsets} is said to be stored nowhere")
        view = parse_stored(
            FileSection(self._file(place.file), place.offset, place.length), _bare_tensor, self._pickles
        )
        if (view.dtype, view.shape) != (tensor.dtype, sizes):
            raise ValueError(f"the chunk at {offsets} is {view.dtype} {view.shape}, not {tensor.dtype} {sizes}")
        return view

    def _file(self, name: str) -> ReopenedFile:
        if name not in self._files:
            path = self._folder / name
            if not path.is_file():
                raise unreadable(path, "this file of chunks, which .metadata names, is missing", "copy it too")
            if path.suffix != CHUNK_SUFFIX and leads_outside(path, self._folder):  # links of chunks are checked before
                raise unreadable(path, "this file, which .metadata names, is a link that leaves its folder")
            self._files[name] = ReopenedFile(path)
        return self._files[name]


def _bare_tensor(found: TorchObject) -> ByteView:
    if not isinstance(found.root, StoredTensor):
        raise unreadable(found.path, "a chunk of it is not a tensor")
    return found.view(found.root)
