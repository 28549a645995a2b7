"""Careless and hostile callers, on bare sockets. Only the server's health is checked, not their answers."""

import asyncio
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from . import frames
from .frames import DATA, END_STREAM, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, call, frame, headers, opened, prefixed
from .route import LIMIT as HEARD
from .route import Route
from .tally import Tally

PATIENCE = 2.0
TOLD_WITHIN = 60.0
"""Seconds within which a deadline ends a call, even if a busy machine delays either side."""

STREAMS = range(1, 4_000, 2)
OVER = END_STREAM


@dataclass(frozen=True)
class Target:
    """The address, a small request, and a request with a large answer."""

    route: Route
    small: bytes
    large: bytes


Caller = Callable[[Target, Tally], Awaitable[None]]


class Line:
    """A connection that is closed at the end, every second time abruptly, by a reset."""

    def __init__(self, route: Route) -> None:
        self._route = route

    async def __aenter__(self) -> "Line":
        self.reader, self._writer = await self._route.to_grpc()
        return self

    async def __aexit__(self, *_: object) -> None:
        if random.random() < 0.5:
            with suppress(OSError):  # the server has already closed it
                if (endpoint := self._writer.get_extra_info("socket")) is not None:  # TLS reports that it has ended
                    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def say(self, data: bytes) -> None:
        """Sends bytes, unless the server has closed the connection."""
        with suppress(OSError, TimeoutError):
            self._writer.write(data)
            await asyncio.wait_for(self._writer.drain(), PATIENCE)

    async def hear(self, seconds: float) -> int:
        """Reads for this long, or until the server closes the connection; returns the number of bytes."""
        heard = 0
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                while part := await self.reader.read(HEARD):
                    heard += len(part)
        return heard


async def leaves_within_a_message(target: Target, tally: Tally) -> None:
    """Begins some calls and disconnects, each cut at another byte."""
    whole = prefixed(target.small)
    async with Line(target.route) as line:
        begun = b"".join(
            headers(stream) + frame(DATA, 0, stream, whole[: random.randrange(len(whole))]) for stream in (1, 3, 5)
        )
        await line.say(opened() + begun)
        await line.hear(random.uniform(0, 0.05))
    tally.ended("leaves within a message", "gone")


async def leaves_without_waiting(target: Target, tally: Tally) -> None:
    """Makes whole calls and disconnects before they are answered."""
    async with Line(target.route) as line:
        await line.say(opened() + b"".join(call(stream, target.small) for stream in range(1, 40, 2)))
    tally.ended("leaves without waiting", "gone")


async def stalls(target: Target, tally: Tally) -> None:
    """Never sends the end of a message, so that the deadline ends the call."""
    began = time.monotonic()
    async with Line(target.route) as line:
        await line.say(opened() + headers(1, grpc_timeout="200m") + frame(DATA, 0, 1, prefixed(target.small)[:-1]))
        try:
            async with asyncio.timeout(TOLD_WITHIN):
                await end_of(line, 1)
        except (OSError, EOFError, TimeoutError) as error:
            seconds = time.monotonic() - began
            tally.wrong("stalls until its deadline", f"the call has not ended after {seconds:.1f} s: {error!r}")
        else:
            tally.ended("stalls until its deadline", "ended by the server", time.monotonic() - began)


async def end_of(line: Line, stream: int) -> None:
    """Reads frames until one ends the stream.

    Raises:
        OSError: The connection is broken.
        EOFError: The server has closed it.
    """
    while True:
        begun = await line.reader.readexactly(9)
        length, kind, flags = int.from_bytes(begun[:3]), begun[3], begun[4]
        await line.reader.readexactly(length)
        over = kind == RST_STREAM or (kind in (DATA, frames.HEADERS) and flags & END_STREAM)
        if over and int.from_bytes(begun[5:]) == stream:
            return


async def reads_slowly(target: Target, tally: Tally) -> None:
    """Requests large answers, and accepts a kilobyte of each from time to time."""
    async with Line(target.route) as line:
        await line.say(opened(window=0) + b"".join(call(stream, target.large) for stream in range(1, 40, 2)))
        for _ in range(20):
            await line.hear(0.1)
            more = struct.pack(">I", 1024)
            await line.say(b"".join(frame(WINDOW_UPDATE, 0, stream, more) for stream in (0, *range(1, 40, 2))))
    tally.ended("reads slowly", "gone")


async def reads_nothing(target: Target, tally: Tally) -> None:
    """Requests more and more large answers, and never reads any."""
    async with Line(target.route) as line:
        await line.say(opened(window=0))
        for start in range(1, 2_000, 200):
            await line.say(b"".join(call(stream, target.large) for stream in range(start, start + 200, 2)))
            await line.hear(0.1)
    tally.ended("reads nothing", "gone")


async def babbles(target: Target, tally: Tally) -> None:
    """Sends malformed bytes of a random kind."""
    name, data = random.choice(_nonsense(target))
    async with Line(target.route) as line:
        await line.say(data)
        await line.hear(0.1)
    tally.ended("malformed bytes", name)


def _nonsense(target: Target) -> Sequence[tuple[str, bytes]]:
    begun, odd = opened(), random.choice(STREAMS)
    return [
        ("no preface", random.randbytes(200)),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("random bytes", begun + random.randbytes(2_000)),
        ("a frame of 16 MB", begun + b"\xff\xff\xff\0\0" + struct.pack(">I", 1) + bytes(1_000)),
        ("a random frame", begun + frame(random.randrange(12), random.randrange(256), odd, random.randbytes(50))),
        ("a length of 4 GB", begun + headers(1) + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff")),
        ("a wrong flag", begun + headers(1) + frame(DATA, OVER, 1, b"\7" + prefixed(target.small)[1:])),
        ("no gzip", begun + headers(1, grpc_encoding="gzip") + frame(DATA, OVER, 1, b"\1" + prefixed(b"x" * 50)[1:])),
        ("a cut message", begun + call(1, random.randbytes(3) + target.small[:-7])),
        ("a mutated message", begun + call(1, _mutated(target.small))),
        ("HPACK bomb", begun + frames.hpack_bomb(1, 10_000)),
        ("CONTINUATION flood", begun + frame(1, 0, 1, frames.head()) + frame(9, 0, 1, bytes(16_000)) * 100),
        ("rapid reset", begun + b"".join(headers(s) + frame(RST_STREAM, 0, s, struct.pack(">I", 8)) for s in STREAMS)),
        ("PING flood", begun + frame(PING, 0, 0, bytes(8)) * 10_000),
        ("SETTINGS flood", begun + frame(SETTINGS, 0, 0) * 10_000),
        ("empty DATA", begun + headers(1) + frame(DATA, 0, 1) * 10_000),
        ("window overflow", begun + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2),
        ("a byte a frame", begun + headers(1) + b"".join(frame(DATA, 0, 1, b"\0") for _ in range(2_000))),
        ("half headers", begun + frame(1, 0, 1, frames.head()[:30])),
    ]


def _mutated(message: bytes) -> bytes:
    changed = bytearray(message)
    for _ in range(random.randrange(1, 5)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


CALLERS: Sequence[Caller] = (
    leaves_within_a_message,
    leaves_without_waiting,
    stalls,
    reads_slowly,
    reads_nothing,
    babbles,
    babbles,
)
