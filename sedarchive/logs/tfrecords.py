"""TFRecord files: records with their lengths, each under a checksum."""

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from sedarchive.sizes import MIB

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_RECORD_LIMIT = 64 * MIB  # images and graphs may be larger, and hold no number that is asked for
_MASK_DELTA = 0xA282EAD8


def records(path: Path) -> Iterator[bytes | None]:
    """Records of a file, in order; None for each that is too large to hold numbers and is passed over.

    Raises
    ------
    ValueError
        At the first record that is cut off or fails its checksum. What stands before it has been given.
    """
    size = path.stat().st_size
    at = 0
    with path.open("rb") as file:
        while header := file.read(_HEADER.size):
            length = _length(header, at)
            end = at + _HEADER.size + length + _FOOTER.size
            if end > size:
                raise ValueError(f"the record at byte {at} is cut off, or was still being written")
            if length > _RECORD_LIMIT:
                yield None
                file.seek(end)
            else:
                yield _checked(file.read(length), file.read(_FOOTER.size), at)
            at = end


def _length(header: bytes, at: int) -> int:
    """Length of the record at byte `at`: never believed without its checksum."""
    if len(header) < _HEADER.size:
        raise ValueError(f"the record at byte {at} is cut off, or was still being written")
    length, checksum = _HEADER.unpack(header)
    if _masked_checksum(header[:8]) != checksum:
        raise ValueError(f"the length of the record at byte {at} fails its checksum")
    return int(length)


def _checked(data: bytes, footer: bytes, at: int) -> bytes:
    if len(footer) < _FOOTER.size:
        raise ValueError(f"the record at byte {at} is cut off, or was still being written")
    if _masked_checksum(data) != _FOOTER.unpack(footer)[0]:
        raise ValueError(f"the record at byte {at} fails its checksum")
    return data


def _masked_checksum(data: bytes) -> int:
    """CRC32C as TFRecord masks it: turned by 15 bits, then shifted by a constant."""
    plain = int(google_crc32c.value(data))
    return (((plain >> 15) | (plain << 17)) + _MASK_DELTA) & 0xFFFFFFFF
