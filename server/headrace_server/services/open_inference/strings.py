"""BYTES tensors as bytes: each element follows its length, in four bytes, little-endian. Source: Triton's core."""

import struct
from collections.abc import Iterable

import numpy as np

from headrace_batching.task import Array
from headrace_server.errors import invalid

_LENGTH = struct.Struct("<I")


def pack(elements: Iterable[str | bytes]) -> bytes:
    """The bytes of a tensor's elements; strings are encoded as UTF-8."""
    parts = []
    for element in elements:
        data = element.encode(errors="surrogateescape") if isinstance(element, str) else bytes(element)
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join(parts)


def unpack(raw: bytes | bytearray | memoryview, count: int, name: str, ends: tuple[str, str]) -> Array:
    """The elements of a tensor, as an array of one dimension.

    Args:
        raw: The bytes of the tensor.
        count: The expected number of elements.
        name: The name of the input.
        ends: The prefix of error messages (the request's ID) and their suffix (the model's name).

    Raises:
        ServingError: INVALID_ARGUMENT if the bytes do not contain this many elements.
    """
    begin, model = ends
    where = f"inference input '{name}' for model '{model}'"
    view, at = memoryview(raw), 0
    found: list[bytes] = []  # no more strings than there are bytes for: a shape may claim any number
    while at < len(view):
        left = len(view) - at
        if left < _LENGTH.size:
            raise invalid(
                f"{begin}incomplete string length indicator for {where}, expecting 4 bytes but only {left} bytes "
                "available. Please make sure the string length indicator is in one buffer."
            )
        if len(found) == count:
            raise invalid(f"{begin}unexpected number of string elements {count + 1} for {where}, expecting {count}")
        (size,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if size > len(view) - at:
            raise invalid(
                f"incomplete string data for inference input '{name}', expecting string of length {size} "
                f"but only {len(view) - at} bytes available"
            )
        found.append(bytes(view[at : at + size]))
        at += size
    if len(found) < count:
        raise invalid(f"{begin}expected {count} string elements for {where}, got {len(found)}")
    elements = np.empty(count, np.object_)
    elements[:] = found
    return elements
