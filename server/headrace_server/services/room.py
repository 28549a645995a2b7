"""Checks that the system has the memory that protobuf needs for a message.

protobuf's package for Python does not check its allocations: where one fails while a message is parsed or serialized,
the process ends with a segmentation fault (protobuf 6.33). The checks here are made just before, so only memory that
another thread allocates in between can still be missing.
"""

from typing import Any

import numpy as np
from google.protobuf.message import Message

LARGE_BYTES = 256 << 10
"""The size up to which a message is not checked: its memory is usually part of what the process already has."""

PARSED_TIMES = 48
"""How many bytes parsing allocates for a byte of a message at most, for integers of one byte in lists of 64 bits: the
lists double their size when they grow, and so do the blocks of memory from which they are taken."""

PARSED_BYTES = 256 << 20
"""The size above which `PARSED_TIMES` is not assumed: a message of that size consists of arrays, of which parsing makes
copies only."""

COPIES = 4
"""How many copies of a message, or of the arrays in it, are in memory while it is parsed or serialized."""


def parse(kind: type[Message], data: bytes) -> Any:
    """Parses a message.

    Raises:
        DecodeError: The bytes are not a message of this type.
        MemoryError: The system has too little memory for it.
    """
    size = len(data)
    if size > LARGE_BYTES:
        _check(max(COPIES * size, min(PARSED_TIMES * size, PARSED_BYTES)))
    return kind.FromString(data)


def check_answer(size: int) -> None:
    """Checks that there is memory for a message with arrays of this many bytes, and for its serialized form.

    Raises:
        MemoryError: The system has too little memory.
    """
    if size > LARGE_BYTES:
        _check(COPIES * size)


def _check(size: int) -> None:
    np.empty(size, np.uint8)  # the memory is not written, so that no pages are taken
