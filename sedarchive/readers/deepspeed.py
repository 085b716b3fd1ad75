"""DeepSpeed's partitioned checkpoints: ZeRO-3, and the universal format of one folder a parameter.

ZeRO-3 cuts each parameter, flattened, into as many equal stretches as there are ranks (the last one padded),
and concatenates each rank's stretches, in the order of ``param_shapes``, into flat float32 groups in
``*_optim_states.pt``. Layouts checked against ``deepspeed/utils/zero_to_fp32.py`` (ZeRO-3) and
``deepspeed/checkpoint/ds_to_universal.py`` (universal), as read in the project's repository.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from sedarchive.history import Finding
from sedarchive.readers.byteranges import ByteView
from sedarchive.readers.contents import Contents, View
from sedarchive.readers.faults import reading, unreadable
from sedarchive.readers.pieces import FlatView, stretch
from sedarchive.readers.sections import ReopenedFile
from sedarchive.readers.torchfile import TorchObject
from sedarchive.readers.torchobjects import StoredTensor, natural
from sedarchive.readers.torchzip import parse_stored
from sedarchive.readers.unpickle import Opaque
from sedarchive.readers.weights import as_mapping

_Built = TypeVar("_Built")
_MASTERS = Finding(
    "float32_masters",
    "info",
    "ZeRO partitions: the weights are the optimizer's float32 masters, joined; the 16-bit copies are not kept in it",
)


@dataclass(frozen=True)
class _ModelState:
    """What one rank's model states say."""

    shapes: Mapping[str, tuple[int, ...]]
    """Trained parameters, in the order of the flat groups."""
    frozen: Mapping[str, tuple[int, ...]]
    fragments: Mapping[str, ByteView]
    """This rank's stretch of each frozen parameter."""
    buffers: Mapping[str, ByteView]
    shared: Mapping[str, str]
    """Name of a parameter to the one that it is tied to."""


@dataclass(frozen=True)
class _Partition:
    """One rank's float32 masters."""

    count: int
    """Number of ranks, as the file says."""
    groups: tuple[ByteView, ...]


def zero3_contents(files: Sequence[Path]) -> Contents:
    """Tensors of a ZeRO-3 checkpoint.

    Parameters
    ----------
    files
        The model states of all ranks, then their optimizer states, each in the order of ranks.

    Raises
    ------
    UnreadableCheckpointError
        If a file is malformed, or the partitions do not hold what the shapes need.
    UnsafeCheckpointError
        If a pickle names something that runs code.
    """
    half = len(files) // 2
    states = [_parsed(path, _model_state) for path in files[:half]]
    partitions = [_parsed(path, _partition) for path in files[half:]]
    with reading(files[half].parent):
        _check_partitions(states[0], partitions)
        tensors: dict[str, View] = dict(states[0].buffers)
        tensors |= {
            name: _joined(shape, [state.fragments[name] for state in states])
            for name, shape in states[0].frozen.items()
        }
        tensors |= _trained(states[0].shapes, [partition.groups for partition in partitions])
    ties = {name: kept for name, kept in states[0].shared.items() if name not in tensors and kept in tensors}
    return Contents(tensors | {name: tensors[kept] for name, kept in ties.items()}, ties, (_MASTERS,))


def universal_contents(files: Sequence[Path]) -> Contents:
    """Tensors of a universal checkpoint: one file ``<parameter>/fp32.pt`` each.

    Raises
    ------
    UnreadableCheckpointError
        If a file is malformed or holds no tensor.
    UnsafeCheckpointError
        If a pickle names something that runs code.
    """
    return Contents({path.parent.name: _parsed(path, _universal_tensor) for path in files}, {}, (_MASTERS,))


def _parsed(path: Path, build: Callable[[TorchObject], _Built]) -> _Built:
    with reading(path):
        return parse_stored(ReopenedFile(path), build)


def _universal_tensor(found: TorchObject) -> ByteView:
    value = found.root if isinstance(found.root, StoredTensor) else as_mapping(found.root).get("param")
    if not isinstance(value, StoredTensor):
        raise unreadable(found.path, "it holds no tensor under 'param'")
    return found.view(value)


def _model_state(found: TorchObject) -> _ModelState:
    root = as_mapping(found.root)
    if "param_shapes" not in root:
        raise unreadable(found.path, "it has no param_shapes: not the model states of ZeRO-3")
    names = root.get("buffer_names")
    module = as_mapping(root.get("module"))
    buffers = {name: module.get(name) for name in names} if isinstance(names, list | tuple) else {}
    return _ModelState(
        _shapes(root["param_shapes"]),
        _shapes([root.get("frozen_param_shapes")]),
        _views(found, as_mapping(root.get("frozen_param_fragments"))),
        _views(found, buffers),
        {k: v for k, v in as_mapping(root.get("shared_params")).items() if isinstance(k, str) and isinstance(v, str)},
    )


def _shapes(parts: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by name, of a mapping or of one mapping a parameter group."""
    found: dict[str, tuple[int, ...]] = {}
    for part in parts if isinstance(parts, list | tuple) else [parts]:
        for name, shape in as_mapping(part).items():
            if not isinstance(name, str) or not isinstance(shape, tuple | list) or len(shape) > 64:
                raise ValueError("param_shapes is not a map of names to shapes")
            found[name] = tuple(map(natural, shape))
    return found


def _views(found: TorchObject, values: Mapping[Any, Any]) -> dict[str, ByteView]:
    return {
        name: found.view(value)
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, StoredTensor)
    }


def _partition(found: TorchObject) -> _Partition:
    state = as_mapping(as_mapping(found.root).get("optimizer_state_dict"))
    stage = state.get("zero_stage")
    stage = stage.args[0] if isinstance(stage, Opaque) and isinstance(stage.args, tuple) and stage.args else stage
    groups = state.get("fp32_flat_groups")
    groups = [groups] if isinstance(groups, StoredTensor) else groups
    if stage != 3 or not isinstance(groups, list | tuple) or not all(isinstance(g, StoredTensor) for g in groups):
        raise unreadable(found.path, "it has no float32 groups of ZeRO-3 (fp32_flat_groups)")
    count = state.get("partition_count")
    if isinstance(count, list | tuple) and count:
        count = max(map(natural, count))
    return _Partition(natural(count), tuple(found.view(group) for group in groups))


def _check_partitions(state: _ModelState, partitions: Sequence[_Partition]) -> None:
    """All ranks are there, and hold exactly what the shapes need."""
    n_ranks = partitions[0].count
    if n_ranks != len(partitions):
        raise ValueError(f"it was saved by {n_ranks} ranks, the files of {len(partitions)} are here")
    needed = sum(_stretch_length(shape, n_ranks) for shape in state.shapes.values())
    for rank, partition in enumerate(partitions):
        held = sum(prod(group.shape) for group in partition.groups)
        if held != needed:
            raise ValueError(f"rank {rank} holds {held} elements, the shapes of the parameters need {needed}")


def _stretch_length(shape: tuple[int, ...], n_ranks: int) -> int:
    return -(-prod(shape) // n_ranks)


def _trained(shapes: Mapping[str, tuple[int, ...]], ranks: Sequence[Sequence[ByteView]]) -> dict[str, View]:
    """Views of the trained parameters over the flat groups of all ranks."""
    cursors = [_Cursor(groups) for groups in ranks]
    found: dict[str, View] = {}
    for name, shape in shapes.items():
        length = _stretch_length(shape, len(ranks))
        found[name] = _joined(shape, [part for cursor in cursors for part in cursor.take(length)])
    return found


def _joined(shape: tuple[int, ...], parts: Sequence[ByteView]) -> FlatView:
    """One tensor from the stretches of all ranks, less the padding behind its last element."""
    left, kept = prod(shape), []
    for part in parts:
        count = min(left, prod(part.shape))
        if count:
            kept.append(stretch(part, 0, count))
        left -= count
    dtypes = {part.dtype for part in parts} or {"float32"}
    if len(dtypes) > 1:
        raise ValueError("the ranks' partitions have different element types")
    return FlatView(dtypes.pop(), shape, tuple(kept))


class _Cursor:
    """A place in the groups of one rank, one behind the other."""

    def __init__(self, groups: Sequence[ByteView]) -> None:
        self._groups = list(groups)
        self._group, self._at = 0, 0

    def take(self, count: int) -> list[ByteView]:
        """Return the next `count` elements, in as many stretches as groups they lie in."""
        parts = []
        while count:
            if self._group == len(self._groups):
                raise ValueError("the partitions end before the last parameter")
            group = self._groups[self._group]
            part = stretch(group, self._at, min(count, group.shape[0] - self._at))
            parts.append(part)
            count -= part.shape[0]
            self._at += part.shape[0]
            if self._at == group.shape[0]:
                self._group, self._at = self._group + 1, 0
        return parts
