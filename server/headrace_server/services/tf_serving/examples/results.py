"""The results of Examples as messages. This module writes a message's bytes and parses them.

Creating the message from a Python object for each class and each value would take eight times as long.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import ClassificationResult, RegressionResult
from headrace_protos.wire import varint
from headrace_server.errors import invalid

T = TypeVar("T")

AT_ONCE = 4096
"""The maximum number of elements whose results are made in the event loop, in a few milliseconds."""

_FIRST = b"\x0a"  # the tag of field 1 with a length, with which each of these messages begins
_VALUE = b"\x0d"  # the tag of Regression.value
_SCORE = b"\x15"  # the tag of Class.score
_FLOAT_BYTES = 4


async def made(outputs: Arrays, make: Callable[[], T]) -> T:
    """Calls a function that converts a model's outputs; for large ones, on another thread, to keep the event loop free.

    Raises:
        ServingError: The function raised it.
    """
    if sum(array.size for array in outputs.values()) <= AT_ONCE:
        return make()
    return await asyncio.to_thread(make)


def regressions(values: Array) -> RegressionResult:
    """A result with these values, float32 [n]."""
    head = bytearray((*_FIRST, len(_VALUE) + _FLOAT_BYTES, *_VALUE))
    records = np.empty((len(values), len(head) + _FLOAT_BYTES), np.uint8)
    records[:, : len(head)] = head
    records[:, len(head) :] = _bytes_of(values).reshape(-1, _FLOAT_BYTES)
    return RegressionResult.FromString(records.tobytes())


def classifications(labels: Iterable[Sequence[str | bytes]], scores: Array) -> ClassificationResult:
    """A result with these classes.

    Args:
        labels: The labels of each row of scores.
        scores: The scores, float32 [n, classes].

    Raises:
        ServingError: INVALID_ARGUMENT if a label is not UTF-8.
    """
    data, at = _bytes_of(scores).tobytes(), 0
    heads: dict[str | bytes, bytes] = {}
    rows = []
    for names, _ in zip(labels, range(len(scores)), strict=False):
        classes: list[bytes] = []
        for name in names:
            head = heads.get(name) or heads.setdefault(name, _class_head(name))
            classes += (head, data[at : at + _FLOAT_BYTES])
            at += _FLOAT_BYTES
        rows.append((_FIRST, varint(sum(map(len, classes))), *classes))
    return ClassificationResult.FromString(b"".join(chain.from_iterable(rows)))


def _bytes_of(values: Array) -> Array:
    return np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)


def _class_head(name: str | bytes) -> bytes:
    """The bytes of a class up to its score."""
    label = _utf8(name)
    content = _FIRST + varint(len(label)) + label + _SCORE
    return _FIRST + varint(len(content) + _FLOAT_BYTES) + content


def _utf8(label: str | bytes) -> bytes:
    if isinstance(label, str):
        return label.encode()
    try:
        label.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"A class is not UTF-8: {error}") from error
    return label
