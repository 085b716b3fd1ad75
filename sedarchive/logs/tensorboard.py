"""Scalars of TensorBoard's event files, without TensorBoard.

Of the protocol buffers only the fields that a number needs are read:
``Event`` {2: step, 5: summary}, ``Summary`` {1: value}, ``Value`` {1: tag, 2: simple_value, 8: tensor},
``TensorProto`` {1: dtype, 2: shape, 4: content, 5: float, 6: double, 7: int, 10: int64, 13: half},
``TensorShapeProto`` {2: dim {1: size}, 3: unknown rank}. Everything else is passed over by its length.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from sedarchive.logs.rows import Row
from sedarchive.logs.tfrecords import records

_Field = tuple[int, int | bytes]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TAG_LIMIT, _FIELD_LIMIT = 1024, 100_000
_LAYOUTS = {1: "<f", 2: "<d", 3: "<i", 9: "<q", 19: "<e"}
"""Layout of a number by the tensor's dtype: float, double, int32, int64, half."""
_NUMBERS = {1: 5, 2: 6, 3: 7, 9: 10, 19: 13}
"""Field that holds the numbers of a tensor, by its dtype, where they are not in its content."""
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "eval", "test"})


def event_rows(path: Path) -> Iterator[Row | None]:
    """Rows {tag: value, "step": step} of an event file, in file order; None for each record that is malformed.

    A folder that names a split comes before the tag (Keras writes ``loss`` in ``train`` and ``validation``), and what
    ``add_scalars`` writes into one folder a series gets the name of the series behind it.

    Raises
    ------
    OSError, ValueError
        Where the file breaks off or is none; the rows before have been given.
    """
    for record in records(path):
        if record is None:
            continue
        try:
            row = _event(record)
        except (ValueError, struct.error):
            yield None
            continue
        if len(row) > 1:
            yield {tag if tag == "step" else _full_name(tag, path.parent.name): value for tag, value in row.items()}


def _full_name(tag: str, folder: str) -> str:
    if folder.lower() in _SPLITS:
        return f"{folder.lower()}/{tag}"
    start = tag.replace("/", "_").replace(" ", "_") + "_"
    return f"{tag}/{folder[len(start) :]}" if folder.startswith(start) and len(folder) > len(start) else tag


def _event(data: bytes) -> Row:
    """Scalars of one event and its step; only the step if it has none."""
    step, row = 0, Row()
    for number, value in _fields(data):
        if number == 2 and isinstance(value, int):
            step = value
        elif number == 5 and isinstance(value, bytes):
            row.update(_summary(value))
    row["step"] = step
    return row


def _summary(data: bytes) -> Row:
    row = Row()
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            tag, scalar = _tagged(value)
            if tag and scalar is not None:
                row[tag] = scalar
    return row


def _tagged(data: bytes) -> tuple[str, float | int | None]:
    """Tag and number of one value; None for a histogram, an image, a text."""
    tag, scalar = "", None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            tag = value[:_TAG_LIMIT].decode("utf-8", "replace")
        elif number == 2 and isinstance(value, bytes):
            scalar = struct.unpack("<f", value)[0]
        elif number == 8 and isinstance(value, bytes):
            scalar = _tensor(value)
    return tag, scalar


def _tensor(data: bytes) -> float | int | None:
    """Number of a tensor of one element; None for any other."""
    found = dict(_fields(data))  # of a field that repeats, the last: a tensor of one element has it once
    dtype, shape = found.get(1), found.get(2, b"")
    layout = _LAYOUTS.get(dtype) if isinstance(dtype, int) else None
    if layout is None or not isinstance(dtype, int) or not isinstance(shape, bytes) or not _is_scalar(shape):
        return None
    content = found.get(4)
    if isinstance(content, bytes) and content:
        return _unpacked(layout, content)
    return _listed_number(layout, dtype, found.get(_NUMBERS[dtype]))


def _listed_number(layout: str, dtype: int, value: int | bytes | None) -> float | int | None:
    """Number of a repeated field: packed, as newer writers do, or alone."""
    if dtype in (1, 2):
        return _unpacked(layout, value) if isinstance(value, bytes) else None
    if isinstance(value, bytes):
        value = _varint(value, 0)[0] if value else 0
    if value is None:
        return 0  # proto3 leaves a single zero out
    if dtype == 19:
        return _unpacked("<e", (value & 0xFFFF).to_bytes(2, "little"))
    return value - 2**64 if value >= 2**63 else value


def _unpacked(layout: str, data: bytes) -> float | int | None:
    """Decode one number; None where there are several."""
    if len(data) != struct.calcsize(layout):
        return None
    number: float | int = struct.unpack(layout, data)[0]
    return number


def _is_scalar(shape: bytes) -> bool:
    """Whether every axis of a shape has the length 1."""
    for number, value in _fields(shape):
        if number == 3 and value:
            return False
        if number == 2 and isinstance(value, bytes) and dict(_fields(value)).get(1, 0) != 1:
            return False
    return True


def _fields(data: bytes) -> Iterator[_Field]:
    """Field numbers and values of a message: integers of varints, raw bytes of all else.

    Raises
    ------
    ValueError
        If the message is malformed, or has more fields than one with numbers has.
    """
    at = 0
    for _ in range(_FIELD_LIMIT):
        if at >= len(data):
            return
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} is not used in events")
        if length > len(data) - at:
            raise ValueError("a field reaches beyond its message")
        yield key >> 3, data[at : at + length]
        at += length
    if at < len(data):
        raise ValueError(f"a message has more than {_FIELD_LIMIT} fields")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Integer at a place of `data`, and the place behind it."""
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise ValueError("an integer is cut off")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + index + 1
    raise ValueError("an integer is longer than ten bytes")
