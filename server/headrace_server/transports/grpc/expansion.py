"""Compressed messages on grpcio, decompressed step by step within the budget; gRPC itself would do it all at once."""

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.transports.budget import COPIES, Held
from headrace_server.transports.grpc.handlers import Handler

LEAVE_COMPRESSED = "grpc.per_message_decompression"
"""The channel argument that, if it is 0, makes gRPC pass compressed messages on unchanged."""

STARTS = (b"\x1f\x8b\x08", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""How gzip data, and zlib data with gRPC's window size, begin.

gRPC does not say which messages are compressed. No request of a service begins like this: 0x1f is not a valid tag in
protobuf, and 0x78 is the tag of field 15.
"""

FIRST_STEP = 64 << 10
"""The size in bytes of the step in the event loop, which takes a tenth of a millisecond or so.

Each further step is twice as large, up to `STEP`.
"""

STEP = 1 << 20
"""The size of the longest step in bytes. It takes a thread a millisecond or two; then other messages are processed."""

SLICE = 64 << 10
"""The number of compressed bytes that zlib gets at a time: at each step it copies those that it has not used."""

SERVICER_BYTES = 1 << 20
"""The size that requests to grpcio's own services, such as health, may expand to."""

_ANY_FORMAT = zlib.MAX_WBITS | 32


class Expander:
    """Decompresses messages. Used in one event loop.

    Args:
        limit: The size that a message may expand to, in bytes.
        threads: The number of messages that are decompressed at the same time.
    """

    def __init__(self, limit: int, threads: int) -> None:
        self._limit = limit
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="expansion")

    async def expanded(self, data: bytes, held: Held) -> bytes:
        """The message, decompressed if it is compressed; the call's memory then grows by its size.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if the message would be larger than the limit, or `held` cannot grow by its
                size; INTERNAL if the compressed data are invalid or incomplete. The texts are the native transport's.
        """
        if not data.startswith(STARTS):
            return data
        inflation, step, reserved = Inflation(data, self._limit), FIRST_STEP, COPIES * FIRST_STEP
        held.grow(reserved)
        inflation.step(step)
        while not inflation.is_whole:
            step = min(2 * step, STEP)
            held.grow(COPIES * step)
            reserved += COPIES * step
            await asyncio.get_running_loop().run_in_executor(self._threads, inflation.step, step)
        held.shrink(reserved - COPIES * inflation.size)
        return inflation.message

    def close(self) -> None:
        """Ends the expander's threads after their current steps."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Inflation:
    """A message that is being decompressed. One thread at a time.

    Args:
        data: The compressed message.
        limit: The size that the message may expand to, in bytes.

    Attributes:
        is_whole: Whether the whole message has been decompressed.
    """

    def __init__(self, data: bytes, limit: int) -> None:
        self._rest = memoryview(data)
        self._slice: bytes | memoryview = b""
        self._inflater = zlib.decompressobj(_ANY_FORMAT)
        self._parts: list[bytes] = []
        self._left = limit
        self._limit = limit
        self.is_whole = False

    @property
    def size(self) -> int:
        """The number of bytes that have been decompressed until now."""
        return self._limit - self._left

    @property
    def message(self) -> bytes:
        """The bytes that have been decompressed until now."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def step(self, most: int) -> None:
        """Decompresses up to `most` further bytes.

        Raises:
            ServingError: As for `Expander.expanded`, except for memory.
        """
        most = min(most, self._left + 1)
        while most and not self.is_whole:
            part = self._part(most)
            most -= len(part)
            self._left -= len(part)
            if self._left < 0:
                text = f"SERVER: Received message larger than max (more than {self._limit} vs. {self._limit})"
                raise ServingError(Code.RESOURCE_EXHAUSTED, text)

    def _part(self, most: int) -> bytes:
        if not self._slice:
            self._slice, self._rest = self._rest[:SLICE], self._rest[SLICE:]
        is_last = not self._slice
        try:
            part = self._inflater.decompress(self._slice, most)
        except zlib.error as error:
            raise _invalid(str(error)) from error
        self._slice = self._inflater.unconsumed_tail
        self.is_whole = self._inflater.eof
        if is_last and not part and not self.is_whole:
            raise _invalid("it is incomplete")
        self._parts.append(part)
        return part


def _invalid(why: str) -> ServingError:
    return ServingError(Code.INTERNAL, f"a compressed message cannot be expanded: {why}")


def expanding_handler(path: str, handler: Handler) -> Handler:
    """A handler of grpcio's own services that decompresses requests before it parses them. Such requests are short."""
    del path
    expanding: Handler = handler._replace(request_deserializer=_expanding(handler.request_deserializer))
    return expanding


def _expanding(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    parse = deserializer or bytes  # without a deserialiser, a handler takes the bytes unchanged

    def expanding(data: bytes) -> Any:
        if not data.startswith(STARTS):
            return parse(data)
        inflation = Inflation(data, SERVICER_BYTES)
        while not inflation.is_whole:
            inflation.step(STEP)
        return parse(inflation.message)

    return expanding
