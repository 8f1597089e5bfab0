"""Reading TFRecord files and the ``tf.train.Example`` messages in them, without TensorFlow.

A record is its length (8 bytes, little-endian), a checksum of the length, the content, a checksum of the content. The
first checksum is checked, because all that follows is found by the lengths; the second is not, because Python alone is
slow at that, and pictures that are damaged cannot be decoded anyway.

An Example maps names to lists of bytes, floats or whole numbers. Of Protocol Buffers, only what it needs is read here.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.errors import DataError

HEADER = struct.Struct("<QI")  # length and its checksum
FOOTER_SIZE = 4
POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed
MASK_DELTA = 0xA282EAD8
VARINT, EIGHT_BYTES, SIZED, FOUR_BYTES = 0, 1, 2, 5  # wire types
BYTES, FLOATS, INTEGERS = 1, 2, 3  # fields of a Feature


def list_records(path: Path) -> list[int]:
    """Offsets of all records of a file. Where it is damaged, the last offset is that of the damage.

    Raises:
        OSError: if the file cannot be read.
    """
    size, offset, found = path.stat().st_size, 0, []
    with path.open("rb") as file:
        while offset < size:
            found.append(offset)
            file.seek(offset)
            length = _length(file.read(HEADER.size))
            if length is None:
                break
            offset += HEADER.size + length + FOOTER_SIZE
    return found


def read_record(path: Path, offset: int) -> bytes:
    """The content of a record.

    Raises:
        DataError: if it is damaged.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(offset)
        length = _length(file.read(HEADER.size))
        content = b"" if length is None else file.read(length + FOOTER_SIZE)
    if length is None or len(content) < length + FOOTER_SIZE:
        raise DataError(f"{path}: the record at byte {offset} is damaged or cut; download the file again")
    return content[:length]


def parse_example(record: bytes) -> dict[str, memoryview]:
    """The features of an Example by name, to be read by :func:`to_bytes` and :func:`to_numbers`.

    Raises:
        DataError: if it is no Example.
    """
    found = {}
    for features in _messages(memoryview(record), 1):
        for entry in _messages(features, 1):
            parts = {number: value for number, _, value in _fields(entry)}
            found[bytes(parts.get(1, b"")).decode()] = parts.get(2, memoryview(b""))
    return found


def to_bytes(feature: memoryview) -> list[bytes]:
    """The values of a feature of bytes.

    Raises:
        DataError: if it holds something else.
    """
    kind, values = _values(feature)
    if values and kind != BYTES:
        raise DataError("expected a feature of bytes, got one of numbers")
    return [bytes(value) for _, _, value in values]


def to_numbers(feature: memoryview) -> NDArray[Any]:
    """The values of a feature of numbers: float32 or int64 ``[N]``.

    Raises:
        DataError: if it holds something else.
    """
    kind, values = _values(feature)
    if values and kind == BYTES:
        raise DataError("expected a feature of numbers, got one of bytes")
    parts: list[NDArray[Any]] = [np.zeros(0, np.float32 if kind == FLOATS else np.int64)]
    for _, wire, value in values:
        if wire == VARINT:  # one number by itself; as a rule they are packed
            parts.append(np.array([value], np.uint64).view(np.int64))
        elif kind == FLOATS:
            parts.append(np.frombuffer(value, "<f4"))
        else:
            parts.append(_varints(value))
    return np.concatenate(parts)


def _values(feature: memoryview) -> tuple[int | None, list[tuple[int, int, Any]]]:
    """Which kind of list a feature has, None for an empty one, and the fields of the list."""
    for number, wire, value in _fields(feature):
        if wire == SIZED and number in (BYTES, FLOATS, INTEGERS):
            return number, [field for field in _fields(value) if field[0] == 1]
    return None, []


def _messages(message: memoryview, field: int) -> Iterator[memoryview]:
    return (value for number, wire, value in _fields(message) if number == field and wire == SIZED)


def _fields(message: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and value of each field: a whole number for VARINT, else a part of the message."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        wire = tag & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield tag >> 3, wire, value
            continue
        if wire == SIZED:
            size, place = _varint(message, place)
        elif wire in (FOUR_BYTES, EIGHT_BYTES):
            size = 4 if wire == FOUR_BYTES else 8
        else:
            raise DataError(f"expected an Example, got a message with wire type {wire}")
        if place + size > len(message):
            raise DataError("expected an Example, got a part of one")
        yield tag >> 3, wire, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte, place = message[place], place + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), place
    raise DataError("expected an Example, got a number without an end")


def _varints(packed: memoryview) -> NDArray[np.int64]:
    """All numbers of a packed list, as :func:`_varint` reads one."""
    data = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(data < 128)
    if len(data) and (not len(ends) or ends[-1] != len(data) - 1):
        raise DataError("expected an Example, got a number without an end")
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    values = np.zeros(len(ends), np.uint64)
    for group in range(int((ends - starts).max(initial=-1)) + 1):
        longer = starts + group <= ends
        bits = (data[starts[longer] + group] & 127).astype(np.uint64)
        values[longer] |= bits << np.uint64(7 * group)
    return values.view(np.int64)


def _length(header: bytes) -> int | None:
    """The length in a record's header; None if the header is cut or its checksum differs."""
    if len(header) < HEADER.size:
        return None
    length, checksum = HEADER.unpack(header)
    return int(length) if checksum == _masked_crc(header[:8]) else None


def _masked_crc(data: bytes) -> int:
    """CRC-32C of a few bytes, rotated and shifted by a constant, as TFRecord stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF
