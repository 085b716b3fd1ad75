"""TensorBoard's event files, encoded here by hand: protocol buffers and TFRecords, with a checksum of our own."""

import struct


def checksum(data):
    """CRC32C, bit by bit, as RFC 3720 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = checksum(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def record(data):
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(number):
    number %= 2**64
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number, value):
    """A field: an int as a varint, a float as a double, bytes and text by their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def single(number, value):
    """A field of type float."""
    return varint(number << 3 | 5) + struct.pack("<f", value)


def simple(tag, value):
    """A value as ``add_scalar`` of torch writes it."""
    return field(1, tag) + single(2, value)


def tensor(tag, body):
    """A value as TensorFlow 2 writes it: a tensor, with metadata that name the plugin."""
    return field(1, tag) + field(8, body) + field(9, field(1, field(1, "scalars")))


def event(step, *values):
    summary = b"".join(field(1, value) for value in values)
    return field(1, 1.7e9) + field(2, step) + field(5, summary)


def first_record():
    return record(field(1, 1.7e9) + field(3, "brain.Event:2"))


def write_events(path, *events):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(first_record() + b"".join(record(data) for data in events))
    return path
