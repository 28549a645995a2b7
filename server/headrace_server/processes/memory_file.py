"""Passes large values between processes in anonymous memory files, without a copy on arrival."""

import mmap
import os
import pickle
import struct
from collections.abc import Sequence
from typing import Any

_SIZE = struct.Struct("<Q")
_ALIGNMENT = 64
_STEP = 256 << 10


def create() -> int:
    """Creates an empty file and returns its descriptor, which the caller closes."""
    return os.memfd_create("headrace")


def append(descriptor: int, data: bytes | memoryview) -> None:
    """Writes after the last write by any process: the position belongs to the file, not to a descriptor.

    Raises:
        OSError: There is not enough memory.
    """
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def take(descriptor: int) -> bytes:
    """Returns the bytes of a file and empties it.

    Reads in steps: the kernel completes each request in one go, even if others wait for the core.
    """
    steps = range(0, os.fstat(descriptor).st_size, _STEP)
    data = b"".join([os.pread(descriptor, _STEP, start) for start in steps])
    for start in reversed(steps):
        os.ftruncate(descriptor, start)
    return data


def pack(value: Any) -> int:
    """Writes a picklable value and returns its file's descriptor. The bytes of arrays are written unchanged."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    descriptor = create()
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(b"".join(_SIZE.pack(size) for size in (len(parts), *map(len, parts))))
        for part in parts:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            file.write(part)
    return descriptor


def unpack(descriptor: int) -> Any:
    """The value in a file that `pack` wrote; its arrays are views of the file, which lives as long as they do."""
    view = contents(descriptor)
    (count,) = _SIZE.unpack_from(view)
    sizes = [_SIZE.unpack_from(view, _SIZE.size * (1 + part))[0] for part in range(count)]
    pickled, *buffers = _parts(view, sizes)
    return pickle.loads(pickled, buffers=buffers)


def contents(descriptor: int) -> memoryview:
    """The bytes of a file that is not empty."""
    return memoryview(mmap.mmap(descriptor, 0))


def _parts(view: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    parts = []
    at = _SIZE.size * (1 + len(sizes))
    for size in sizes:
        at += -at % _ALIGNMENT
        parts.append(view[at : at + size])
        at += size
    return parts
