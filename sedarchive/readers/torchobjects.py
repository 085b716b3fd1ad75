"""The objects of torch that a checkpoint's pickle names, as inert data of ours.

Source: the pickle written by ``torch.save``: storages are persistent ids, tensors are calls of
``torch._utils._rebuild_tensor_v2`` and its kin with storage, offset, shape and strides.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedarchive.history import DTYPES
from sedarchive.readers.byteranges import contiguous_strides
from sedarchive.readers.unpickle import Global, Opaque, Rules
from sedarchive.readers.unsafe import HARMLESS_BUILTINS, refuse_unsafe

_STORAGES: dict[str, tuple[str | None, int]] = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "UntypedStorage": ("uint8", 1),
    "_UntypedStorage": ("uint8", 1),
    "QInt8Storage": (None, 1),
    "QUInt8Storage": (None, 1),
    "QInt32Storage": (None, 4),
    "QUInt4x2Storage": (None, 1),
    "QUInt2x4Storage": (None, 1),
}
_STORAGE_MODULES = frozenset({"torch", "torch.storage", "torch.cuda"})
_DTYPE_ALIASES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32"}
_DTYPE_ALIASES |= {"short": "int16", "cfloat": "complex64", "cdouble": "complex128"}
_QUIET = frozenset({"torch.device", "torch.Size", "torch.Tensor", "_codecs.encode", "torch.serialization._get_layout"})


@dataclass(frozen=True)
class Storage:
    """A run of bytes that tensors are views of."""

    key: str
    dtype: str | None
    """Element type; None: a quantised one, which is not read."""
    itemsize: int
    n_elements: int
    start: int = 0
    """Bytes before it in the record of that key (views of storages in old files)."""

    @property
    def n_bytes(self) -> int:
        return self.n_elements * self.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a view of a storage; offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements follow each other in C order."""
        expected = contiguous_strides(self.shape)
        return all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, expected, strict=True))


@dataclass
class TorchPickle:
    """The rules of one checkpoint's pickle, and what was met on the way."""

    path: Path
    opaque: set[str] = field(default_factory=set)
    """Dotted names of globals that stayed opaque."""
    storages: dict[str, Storage] = field(default_factory=dict)
    """Whole storages by key, as the file stores them."""

    def rules(self) -> Rules:
        """Rules for :func:`sedarchive.readers.unpickle.interpret`."""
        return Rules(self._check, call_global, self._storage)

    def _check(self, found: Global) -> None:
        refuse_unsafe(found, self.path)
        if not _is_known(found):
            self.opaque.add(found.dotted[:200])

    def _storage(self, identity: Any) -> Any:
        """Storage that a persistent id names: ("storage", class, key, device, elements[, view])."""
        if not isinstance(identity, tuple) or not identity:
            raise ValueError("a persistent id of the pickle is not that of torch.save")
        if identity[0] == "module" and len(identity) > 1:
            return identity[1]
        if identity[0] != "storage" or len(identity) not in (5, 6):
            raise ValueError("a persistent id of the pickle is not a storage")
        _, kind, key, _, count, *view = identity
        if not isinstance(key, str | int):
            raise ValueError("a storage of the pickle has a key that is not text")
        if not isinstance(kind, Global) or kind.module not in _STORAGE_MODULES or kind.name not in _STORAGES:
            raise ValueError("a storage of the pickle has an unknown class")
        whole = Storage(str(key), *_STORAGES[kind.name], natural(count))
        if self.storages.setdefault(whole.key, whole).n_bytes != whole.n_bytes:
            raise ValueError(f"the storage {whole.key[:40]!r} has two sizes")
        return whole if not view or view[0] is None else _viewed(whole, view[0])


def _viewed(whole: Storage, view: Any) -> Storage:
    if not isinstance(view, tuple) or len(view) != 3:
        raise ValueError("a view of a storage is malformed")
    start, count = natural(view[1]), natural(view[2])
    if start + count > whole.n_elements:
        raise ValueError("a view of a storage is longer than the storage")
    return Storage(whole.key, whole.dtype, whole.itemsize, count, start * whole.itemsize)


def _is_known(found: Global) -> bool:
    if found.module in ("builtins", "__builtin__"):
        return found.name in HARMLESS_BUILTINS
    return (
        found.dotted in _CALLS
        or found.dotted in _QUIET
        or (found.module == "torch" and dtype_of(found) is not None)
        or (found.module in _STORAGE_MODULES and found.name in _STORAGES)
        or found.dotted.startswith("torch.nn.parameter.")
    )


def dtype_of(value: Any) -> str | None:
    """Canonical name of the element type that a global such as ``torch.bfloat16`` means; None if it is none."""
    if not isinstance(value, Global) or value.module != "torch":
        return None
    name = _DTYPE_ALIASES.get(value.name, value.name)
    return name if name in DTYPES else None


def natural(value: Any) -> int:
    """`value` if it is a whole number that a file could mean.

    Raises
    ------
    ValueError
        If not.
    """
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError("the pickle has something else where an offset, size or stride stands")
    return value


def call_global(function: Global, args: tuple[Any, ...]) -> Any:
    """Inert stand-in for the result of calling `function` with `args`."""
    known = _CALLS.get(function.dotted)
    return Opaque(function.dotted, args) if known is None else known(*args)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor of the pickle has no storage")
    return _stored(storage, storage.dtype, offset, shape, strides)


def _typed_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Any:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor of the pickle has no storage")
    return _stored(storage, dtype_of(dtype), offset, shape, strides)


def _stored(storage: Storage, dtype: str | None, offset: Any, shape: Any, strides: Any) -> Any:
    if dtype is None:
        return Opaque("torch.Tensor of a quantised or unknown element type")
    if not isinstance(shape, tuple | list) or not isinstance(strides, tuple | list) or len(shape) != len(strides):
        raise ValueError("a tensor of the pickle has no proper shape and strides")
    if len(shape) > 64:
        raise ValueError("a tensor of the pickle has more than 64 axes")
    tensor = StoredTensor(storage, dtype, natural(offset), tuple(map(natural, shape)), tuple(map(natural, strides)))
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if 0 not in tensor.shape and (last + 1) * DTYPES[dtype].itemsize > storage.n_bytes:
        raise ValueError("a tensor of the pickle reaches beyond its storage")
    return tensor


def _first(value: Any, *rest: Any) -> Any:
    return value


def _retyped(function: Any, kind: Any, args: Any, state: Any = None) -> Any:
    """Take the plain tensor from one of a subclass, or with attributes."""
    if not isinstance(function, Global) or not isinstance(args, tuple):
        raise ValueError("a tensor subclass of the pickle is malformed")
    return call_global(function, args)


def _mapping(*args: Any) -> dict[Any, Any]:
    """Make a dict from the arguments of its class, without copies that a hostile pickle could ask for."""
    last = args[-1] if args else None
    if isinstance(last, dict):
        return last
    if not isinstance(last, list):
        return {}
    pairs = {pair[0]: pair[1] for pair in last if _is_pair(pair)}
    last.clear()
    return pairs


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str | int)


def _sequence(values: Any = (), *rest: Any) -> Any:
    return values if isinstance(values, list | tuple) else ()


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type": _retyped,
    "torch._tensor._rebuild_from_type_v2": _retyped,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
    "builtins.dict": _mapping,
    "torch.Size": _sequence,
}
