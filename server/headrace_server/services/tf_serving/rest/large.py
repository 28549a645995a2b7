"""Parses the JSON bodies of TF Serving's REST API: in the event loop if that is fast, otherwise in another process.

Answers are written as in every REST API (`services/json/writing.py`).
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message

from headrace_batching.task import Arrays
from headrace_server.processes.pool import JsonProcesses
from headrace_server.services.http import SMALL_BYTES, Body, gzip_size
from headrace_server.services.json.reader import CAREFUL_BYTES, parse, parse_quickly
from headrace_server.services.json.writing import written, written_from
from headrace_server.services.tf_serving.rest.outputs import write_predict

T = TypeVar("T")

MAX_INFLATED_BYTES = 100 << 20
"""TF Serving's gzip_zlib.h has this limit for a compressed body."""

_GZIP = 16 + zlib.MAX_WBITS


class JsonWork:
    """Converts JSON bodies to values and back without blocking the event loop.

    Args:
        processes: The processes for long conversions.
    """

    def __init__(self, processes: JsonProcesses) -> None:
        self._processes = processes

    async def read(self, body: Body, convert: Callable[..., T], *arguments: Any) -> T:
        """Applies a function to the object in a body, and returns the result.

        Args:
            body: The body. If it is in a file, the file is passed to the process that parses it.
            convert: A function at the top level of a module, called with the object and the arguments.
            arguments: Further arguments, which can be pickled.

        Raises:
            ServingError: As for `parse`, and as raised by the function.
        """
        if body.data is not None:
            data = inflate(body.data, SMALL_BYTES) if body.is_gzip else body.data
            document = None if data is None else parse_quickly(data)
            if data is not None and (document is not None or len(data) <= CAREFUL_BYTES):
                return convert(parse(data) if document is None else document, *arguments)
        size = body.expanded_size
        return await self._processes.run(_read, body.is_gzip, convert, *arguments, size=size, body=body.detach())

    async def write_predict(self, outputs: Arrays, *, by_row: bool) -> bytes | memoryview:
        """The body that answers a :predict; see the function of that name."""
        return await written(self._processes, outputs, partial(write_predict, by_row=by_row))

    async def write_result(self, write: Callable[[bytes], bytes], result: Message) -> bytes | memoryview:
        """The body that a module's function writes for a message, which it gets serialized.

        Raises:
            ServingError: As for `JsonProcesses.run`.
        """
        return await written_from(self._processes, write, result.SerializeToString())


def inflate(data: bytes, most: int = MAX_INFLATED_BYTES) -> bytes | None:
    """Expands gzip data: empty if they are incomplete, as in TF Serving; None if they claim to be too large.

    The data are expanded no further than to the size that they claim.
    """
    size = gzip_size(data)
    if size > most:
        return None
    inflater = zlib.decompressobj(_GZIP)
    try:
        held = inflater.decompress(data, size + 1)
    except zlib.error:
        return b""
    return held if inflater.eof and len(held) <= size else b""


def _read(data: bytes, is_gzip: bool, convert: Callable[..., T], *arguments: Any) -> T:
    return convert(parse(inflate(data) or b"" if is_gzip else data), *arguments)
