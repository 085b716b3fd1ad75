"""Vocabulary of a training history: dtypes, tensors, checkpoints, runs, findings.

Stdlib only. A *history* is the ordered checkpoints of one *run*; a *tensor* is
one named array in them. Every tensor is looked at as ``rows x columns``: rows
are its first axis, columns all the others, so that a range of rows is one byte
range of a file in C order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class DType:
    """An element type as files name it and as the archive stores it."""

    name: str
    """Canonical name, that of torch and ml_dtypes (``float32``, ``bfloat16``)."""
    storage: str
    """Little-endian numpy type that holds the same bits (``<f4``, ``<u2``)."""
    itemsize: int
    """Bytes an element."""
    kind: Literal["float", "integer", "bool", "complex"]
    fraction_bits: int = 0
    """Explicit bits of the significand (floats only)."""
    min_exponent: int = 0
    """Exponent of the smallest normal number (floats only)."""
    fill: int | float = 0
    """Value of elements never written: NaN, or the NaN bit pattern."""

    @property
    def is_bits(self) -> bool:
        """Whether the archive holds raw bits that must be decoded before use."""
        return self.kind == "float" and not self.storage.startswith("<f")


MOST_ELEMENTS = 2**47
"""Of a tensor, along the axes that are not empty: what claims as many holds no bytes, or lies."""
_NAN = float("nan")
DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        dtype.name: dtype
        for dtype in (
            DType("float64", "<f8", 8, "float", 52, -1022, _NAN),
            DType("float32", "<f4", 4, "float", 23, -126, _NAN),
            DType("float16", "<f2", 2, "float", 10, -14, _NAN),
            DType("bfloat16", "<u2", 2, "float", 7, -126, 0xFFFF),
            DType("float8_e4m3fn", "|u1", 1, "float", 3, -6, 0xFF),
            DType("float8_e5m2", "|u1", 1, "float", 2, -14, 0xFF),
            DType("float8_e4m3fnuz", "|u1", 1, "float", 3, -7, 0x80),
            DType("float8_e5m2fnuz", "|u1", 1, "float", 2, -15, 0x80),
            DType("float8_e8m0fnu", "|u1", 1, "float", 0, -127, 0xFF),
            DType("int64", "<i8", 8, "integer"),
            DType("int32", "<i4", 4, "integer"),
            DType("int16", "<i2", 2, "integer"),
            DType("int8", "|i1", 1, "integer"),
            DType("uint64", "<u8", 8, "integer"),
            DType("uint32", "<u4", 4, "integer"),
            DType("uint16", "<u2", 2, "integer"),
            DType("uint8", "|u1", 1, "integer"),
            DType("bool", "|b1", 1, "bool"),
            DType("complex64", "<c8", 8, "complex"),
            DType("complex128", "<c16", 16, "complex"),
        )
    }
)


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of one tensor of one checkpoint."""

    name: str
    dtype: str
    """A key of :data:`DTYPES`."""
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Length of the first axis (1 for a scalar)."""
        return self.shape[0] if self.shape else 1

    @property
    def columns(self) -> int:
        """Elements of one row."""
        return prod(self.shape[1:])

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def row_bytes(self) -> int:
        return self.columns * DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes

    @property
    def is_float(self) -> bool:
        return DTYPES[self.dtype].kind == "float"


@dataclass(frozen=True)
class Finding:
    """Something noticed in a history: one row of the table ``audit``."""

    check_name: str
    severity: Severity
    detail: str
    """What, where, consequence and way out, in plain words."""
    step: int | None = None
    tensor: str | None = None


@dataclass(frozen=True)
class Metric:
    """One logged number of a run."""

    name: str
    """Canonical: train_loss, val_loss, train_acc, val_acc, lr, grad_norm, weight_decay, tokens; else the log's name."""
    step: int
    value: float
    source: str
    """File it was read from, relative to the run's folder."""


@dataclass(frozen=True)
class CheckpointSource:
    """One checkpoint found on disk, not opened yet."""

    step: int
    label: str
    """File or folder name that gave the step."""
    path: Path
    """The file, or the folder of a sharded checkpoint."""
    tokens: int | None = None
    """Training tokens seen, where the name or a map of the user tells; rounded as it tells them."""
    key: str | None = None
    """Nested key of the file that holds the weights, where the user names one."""
    home: Path | None = None
    """Folder that links among its files must not leave; None: the user pointed to it, and its links are followed."""


@dataclass(frozen=True)
class RunSource:
    """One run found on disk: its checkpoints in step order, its logs, its config."""

    name: str
    """Path relative to the PATH given, or its last part if PATH is itself a run; ``/`` between parts."""
    folder: Path
    checkpoints: tuple[CheckpointSource, ...]
    logs: tuple[Path, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    """Model and training config found beside the checkpoints (config.json and the like), {} if none."""
    findings: tuple[Finding, ...] = ()
    """Doubled step labels (the first is kept), files passed over, and so on."""
    whole: bool = True
    """Whether its folder was searched; no, where one checkpoint of it was pointed to."""
    told: tuple[Path, ...] = ()
    """Files and folders that are not taken and that a finding tells of."""
