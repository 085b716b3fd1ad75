"""Which files of a folder are its weights: one file, or shards with an index."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sedarchive.readers.faults import reading, unreadable
from sedarchive.readers.layouts import find_layout
from sedarchive.readers.steps import is_last_copy, is_weights_name
from sedarchive.sizes import MIB
from sedarchive.untrusted import load_json

_INDEX_LIMIT = 64 * MIB
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold the weights of a checkpoint, and the index over them if they are shards."""

    files: tuple[Path, ...]
    index: Path | None = None
    names: Mapping[str, str] | None = None
    """Tensor to file name, as the index says; None for a single file."""
    layout: Literal["plain", "dcp", "zero3", "universal"] = "plain"
    """How the files make up the checkpoint; plain: each is read on its own."""
    folder: Path | None = None
    """Folder that directly holds the files of a layout that is not plain."""


def has_standard_weights(names: frozenset[str]) -> bool:
    """Whether a folder with files of these names holds weights under a name that says so."""
    return any(name in names for name in _WHOLE) or any(name.endswith(_INDEX_SUFFIXES) for name in names)


def weight_files(path: Path) -> WeightFiles:
    """Files of the checkpoint at `path`, a file or a folder.

    Raises
    ------
    UnreadableCheckpointError
        If a folder holds no weights, several candidates, or an index that does not fit its shards.
    """
    if not path.exists():
        raise unreadable(path, "there is no such file or folder", "check the path")
    if path.is_file():
        return WeightFiles((path,))
    with reading(path):
        names = frozenset(entry.name for entry in path.iterdir() if entry.is_file())
        for whole, suffix in zip(_WHOLE, _INDEX_SUFFIXES, strict=True):
            if whole in names:
                return WeightFiles((path / whole,))
            indices = sorted(name for name in names if name.endswith(suffix))
            if indices:
                return _sharded(path / _only(path, indices), names)
        found = find_layout(path)
        if found is not None and found.problem is not None:
            raise unreadable(path, *found.problem)
        if found is not None:
            return WeightFiles(found.files, layout=found.kind, folder=found.folder)
        return WeightFiles((path / _only(path, _candidates(path, names)),))


def _candidates(path: Path, names: frozenset[str]) -> list[str]:
    """Weight files of any name; adapters and copies of the latest only where there is nothing else."""
    found = sorted(name for name in names if is_weights_name(name))
    proper = [name for name in found if not name.startswith("adapter") and not is_last_copy(name)]
    if not found:
        if "zero_to_fp32.py" in names:
            raise unreadable(path, "it is a DeepSpeed checkpoint without its files", "run its zero_to_fp32.py")
        shards = sorted(name for name in names if "-of-" in name)
        if shards:
            raise unreadable(path, f"it holds the shard {shards[0]} but no index (*.index.json)", "copy the index too")
        raise unreadable(path, "the folder holds no weights", "point to one with model.safetensors or a .pt file")
    return proper or found


def _only(path: Path, names: list[str]) -> str:
    if len(names) > 1:
        raise unreadable(path, f"the folder holds several candidates ({', '.join(names[:5])})", "point to one of them")
    return names[0]


def _sharded(index: Path, names: frozenset[str]) -> WeightFiles:
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if shard != os.path.basename(shard) or shard in ("", ".", "..") or "\\" in shard:  # noqa: PTH119 - a name
            raise unreadable(index, f"it names the shard {shard[:80]!r}, which is not a file of its folder")
        if shard not in names:
            raise unreadable(index, f"the shard {shard[:80]} that it names is missing", "copy the shard too")
    return WeightFiles(tuple(index.parent / shard for shard in shards), index, weight_map)


def _weight_map(index: Path) -> dict[str, str]:
    with reading(index):
        if index.stat().st_size > _INDEX_LIMIT:
            raise ValueError("the index is larger than 64 MiB")
        content: Any = load_json(index.read_bytes(), unique=True)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
            raise ValueError("it has no weight_map from tensors to shards")
        if not weight_map:
            raise ValueError("its weight_map is empty")
        return weight_map
