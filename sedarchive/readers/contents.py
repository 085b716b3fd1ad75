"""What a parsed checkpoint file holds, and the one reader over it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from sedarchive.history import MOST_ELEMENTS, CheckpointSource, Finding, TensorSpec
from sedarchive.readers.byteranges import RandomAccessFile
from sedarchive.readers.faults import unreadable
from sedarchive.readers.names import clean_names


class View(Protocol):
    """Where the elements of one tensor stand, in one piece or in several."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

    def spec(self, name: str) -> TensorSpec: ...

    def read_rows(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]: ...


class CheckpointReader(Protocol):
    """One open checkpoint: the specs of its tensors, and their rows on request.

    Attributes
    ----------
    specs
        Every tensor by its cleaned name, in file order.
    ties
        Name of a tensor to the first other one, in file order, that is the same view of the same bytes.
    findings
        What was noticed: opaque globals in a pickle, optimizer state passed over, dropped entries.
    meta
        Plain values beside the weights (``iter_num``, ``config``, settings of the ``optimizer``); {} without any.
    format
        What it is, from the outside in: ``safetensors``, ``Trainer, sharded safetensors``, ``Lightning, PyTorch zip``.
    """

    @property
    def specs(self) -> Mapping[str, TensorSpec]: ...
    @property
    def ties(self) -> Mapping[str, str]: ...
    @property
    def findings(self) -> tuple[Finding, ...]: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...
    @property
    def format(self) -> str: ...

    def read_rows(self, tensor: str, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows as an array (stop - start, columns) of the storage type, C-contiguous; safe from several threads.

        They are read into ``out``, an array of that kind, if it is given.
        """

    def close(self) -> None:
        """Close the files and delete what was spooled."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Contents:
    """A parsed checkpoint file: names as written, views of its bytes."""

    tensors: Mapping[str, View]
    ties: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    """Tensors that the file holds and that are left out; a finding names them."""
    format: str = ""
    """What the file, or the whole checkpoint, is."""


class ByteRangeReader:
    """A :class:`CheckpointReader` over views of open files, which it owns."""

    def __init__(self, source: CheckpointSource, contents: Contents, files: Iterable[RandomAccessFile]) -> None:
        self.source = source
        self._files = tuple(files)
        names = clean_names(contents.tensors)
        for name in contents.tensors:
            check_name(name, source)
        self._views = {names[raw]: view for raw, view in contents.tensors.items()}
        self.specs: Mapping[str, TensorSpec] = MappingProxyType({n: v.spec(n) for n, v in self._views.items()})
        for spec in self.specs.values():
            _check_extent(spec, source)
        self.ties: Mapping[str, str] = MappingProxyType({names[a]: names[b] for a, b in contents.ties.items()})
        self.findings = tuple(replace(finding, step=source.step) for finding in contents.findings)
        self.meta = MappingProxyType(dict(contents.meta))
        self.format = contents.format

    def read_rows(self, tensor: str, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows ``start`` to ``stop`` of `tensor`; see :meth:`CheckpointReader.read_rows`.

        Raises
        ------
        KeyError, IndexError
            If the checkpoint has no such tensor or rows.
        UnreadableCheckpointError
            If the file has changed since it was opened, or the reader is closed.
        """
        return self._views[tensor].read_rows(start, stop, out)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_extent(spec: TensorSpec, source: CheckpointSource) -> None:
    """Refuse an axis that no memory holds: a tensor that is empty along another has no bytes to tell of it."""
    if prod(length for length in spec.shape if length) >= MOST_ELEMENTS:
        raise unreadable(source.path, f"tensor {spec.name[:80]} has the absurd shape {str(spec.shape)[:80]}")


def check_name(name: str, source: CheckpointSource) -> None:
    """Refuse a tensor name that no text file or database could hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise unreadable(source.path, f"the tensor name {name!r} is not valid Unicode") from None
    if not name or "\0" in name:
        raise unreadable(source.path, f"it holds a tensor with the name {name!r}")
