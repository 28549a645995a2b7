"""The parts of protobuf's wire format that read and write tensors without message classes: varints and payloads."""

from typing import Protocol

_VARINT, _FIXED64, _LENGTH_DELIMITED, _START_GROUP, _FIXED32 = 0, 1, 2, 3, 5


class Sliceable(Protocol):
    """Bytes, or an object whose slices are bytes."""

    def __getitem__(self, span: slice, /) -> bytes:
        """The bytes of a span."""


def varint(value: int) -> bytes:
    """Encodes an integer of at least 0."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: Sliceable, at: int, longest: int = 10) -> tuple[int, int]:
    """Decodes the varint of at most `longest` bytes that begins at offset `at`; returns it and the offset after it.

    Raises ValueError if the data, or those bytes, come to an end first.
    """
    value = 0
    for index, byte in enumerate(data[at : at + longest]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    reason = "a varint does not end"
    raise ValueError(reason)


def opening(number: int, size: int) -> bytes:
    """Encodes the key and the length that precede the `size` bytes of a length-delimited field."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(size)


def find_payload(message: bytes, number: int, most_fields: int = 32) -> memoryview | None:
    """Finds the bytes of a length-delimited field in a serialized message, without copying them.

    Returns None if the field is not among the first `most_fields` fields, or if a group precedes it: a message may hold
    any number of fields, and looking through them all here would cost more than decoding it.
    """
    at = 0
    for _ in range(most_fields):
        if at == len(message):
            break
        key, at = read_varint(message, at)
        if key & 7 == _START_GROUP:
            break
        size, at = _size(message, key & 7, at)
        if key == number << 3 | _LENGTH_DELIMITED:
            return memoryview(message)[at : at + size]
        at += size
    return None


def has_more_fields(message: bytes, most: int) -> bool:
    """Whether a serialized message has more than `most` fields at its top level; false if it cannot be parsed that far.

    It stops after `most` fields, so that its cost does not grow with the message.
    """
    at = 0
    try:
        for _ in range(most + 1):
            if at >= len(message):
                return False
            key, at = read_varint(message, at)
            size, at = _size(message, key & 7, at)
            at += size
    except (KeyError, ValueError):  # a group, or bytes that are not a message
        return False
    return True


def _size(message: bytes, wire_type: int, at: int) -> tuple[int, int]:
    """Returns how many bytes the value at offset `at` has, and the offset where they begin."""
    if wire_type == _LENGTH_DELIMITED:
        return read_varint(message, at)
    if wire_type == _VARINT:
        return read_varint(message, at)[1] - at, at
    return {_FIXED64: 8, _FIXED32: 4}[wire_type], at
