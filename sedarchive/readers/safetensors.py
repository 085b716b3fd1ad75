"""The safetensors format: a JSON header, then the bytes of all tensors without a hole.

Every check of the reference implementation is repeated, in Python integers, which do not overflow.
Source: https://github.com/huggingface/safetensors, section "Format".
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from sedarchive.history import DTYPES, Finding
from sedarchive.readers.byteranges import ByteView, RandomAccessFile
from sedarchive.readers.contents import Contents
from sedarchive.readers.faults import reading, unreadable
from sedarchive.untrusted import load_json

HEADER_LIMIT = 100_000_000
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
_PACKED_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Types narrower than a byte, which are left out: bits an element."""


def parse_safetensors(file: RandomAccessFile) -> Contents:
    """Tensors of a safetensors file, from its header alone.

    Raises
    ------
    UnreadableCheckpointError
        If any rule of the format is broken.
    """
    with reading(file.path):
        n_header = header_length(file)
        header = _parse_header(file.read_at(8, n_header))
        notes = _metadata(header.pop("__metadata__", {}))
        tensors = {name: _view(file, 8 + n_header, name, entry) for name, entry in header.items()}
        _check_coverage(tensors, 8 + n_header, file.size)
    packed = tuple(name for name, entry in header.items() if entry["dtype"] in _PACKED_BITS)
    for name in packed:
        del tensors[name]
    if not tensors:
        raise unreadable(file.path, "it holds no tensor", "leave this checkpoint out")
    ties = {name: kept for name, kept in notes.items() if _is_tie(name, kept, tensors)}
    tied = {name: tensors[kept] for name, kept in ties.items()}
    return Contents(tensors | tied, ties, _packed_findings(packed), unread=packed)


def _packed_findings(names: Sequence[str]) -> tuple[Finding, ...]:
    if not names:
        return ()
    listed = ", ".join(ascii(name[:80]) for name in names[:16])
    more = f" and {len(names) - 16} more" if len(names) > 16 else ""
    detail = (
        f"of a type of 4 or 6 bits, and missing from the history: {listed}{more}; "
        "save the weights that they were made from where these are wanted"
    )
    return (Finding("dropped_entry", "warning", detail),)


def header_length(file: RandomAccessFile) -> int:
    """Bytes of the JSON header, checked against the file."""
    n_header = int.from_bytes(file.read_at(0, 8), "little")
    if not 2 <= n_header <= min(HEADER_LIMIT, file.size - 8):
        raise unreadable(file.path, f"its header claims {n_header} bytes, the file has {file.size}")
    return n_header


def _parse_header(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise ValueError("the header does not start with '{'")
    return dict(load_json(text, unique=True))


def _metadata(notes: Any) -> Mapping[str, str]:
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise ValueError("__metadata__ is not a map of strings")
    return notes


def _view(file: RandomAccessFile, data: int, name: str, entry: Any) -> ByteView:
    """Where a tensor stands; one of a packed type as its bytes, so that those of the others can be checked."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of tensor {name!r} is not dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], _naturals(entry["shape"]), _naturals(entry["data_offsets"])
    if not isinstance(code, str) or code not in _DTYPES.keys() | _PACKED_BITS.keys():
        raise ValueError(f"tensor {name!r} has the unknown dtype {str(code)[:40]!r}")
    dtype = _DTYPES.get(code, "uint8")
    n_bits = prod(shape) * _PACKED_BITS.get(code, 8 * DTYPES[dtype].itemsize)
    if len(offsets) != 2 or n_bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"the bytes of tensor {name!r} are not as many as its shape needs")
    return ByteView(file, data + offsets[0], dtype, (n_bits // 8,) if code in _PACKED_BITS else shape)


def _naturals(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("a shape or offset is not a list of whole numbers")
    return tuple(values)


def _check_coverage(tensors: Mapping[str, ByteView], data: int, size: int) -> None:
    """Tensors follow each other from the first byte to the last, without hole or overlap."""
    sizes = sorted((view.offset, prod(view.shape) * DTYPES[view.dtype].itemsize) for view in tensors.values())
    end = data
    for offset, n_bytes in sizes:
        if offset != end:
            raise ValueError(f"a hole or an overlap of tensors at byte {min(offset, end)}")
        end += n_bytes
    if end != size:
        raise ValueError(f"the tensors end at byte {end}, the file at byte {size}")


def _is_tie(name: str, kept: str, tensors: Mapping[str, ByteView]) -> bool:
    """Whether a note of the header is that of ``save_model``: a dropped name and the name kept for it."""
    return name != "format" and name not in tensors and kept in tensors
