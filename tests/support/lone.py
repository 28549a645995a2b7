"""Clients that have one call at a time, by hand: such calls may bypass h2 on the native transport."""

import struct

from tests.support.calls import PREDICT
from tests.support.frames import (
    DATA,
    END_STREAM,
    HEADERS,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    Frame,
    call,
    frame,
)

INITIAL_WINDOW_SIZE = 4
WINDOW = 1 << 20
"""By how much the client enlarges its window for the connection at first."""

HEAD = b"\x88\x0f\x10\x10application/grpc"
"""The headers of an answer that has bypassed h2: those of h2 are compressed."""


def window_update(stream: int, by: int) -> bytes:
    """Enlarges the window of a stream, or with 0 that of the connection."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", by))


def initial_window(size: int) -> bytes:
    """Sets the window of each stream."""
    return frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, size))


def answer(connection: Connection, stream: int) -> tuple[bool, bytes]:
    """Whether the answer of a stream has bypassed h2, and its DATA. Frames of other streams are ignored."""
    head: Frame | None = None
    data = b""
    for heard in connection.hear():
        if heard.stream == stream and heard.kind == HEADERS:
            head = head or heard
        if heard.stream == stream and heard.kind == DATA:
            data += heard.payload
        if heard.stream == stream and heard.flags & END_STREAM:
            break
    assert head is not None, "the connection ended before the answer"
    return head.payload == HEAD, data


class LoneCaller:
    """A client with one call at a time.

    Args:
        connection: Its connection.
        message: The request of every call.
        window: By how much it enlarges the window of the connection at first.
        headers: More headers of every call.
    """

    def __init__(self, connection: Connection, message: bytes, window: int = WINDOW, **headers: str) -> None:
        self._message, self._headers = message, headers
        self.connection, self.stream = connection, -1
        if window:
            connection.say(window_update(0, window))

    def frames(self, message: bytes | None = None, path: str = PREDICT) -> bytes:
        """The frames of the next call."""
        self.stream += 2
        return call(self.stream, self._message if message is None else message, path, **self._headers)

    def begin(self) -> int:
        """Sends the next call; returns its stream."""
        self.connection.say(self.frames())
        return self.stream

    def bypasses(self) -> bool:
        """Makes a call, and says whether its answer has bypassed h2."""
        return answer(self.connection, self.begin())[0]

    def settle(self) -> None:
        """Calls until a call bypasses h2."""
        assert any(self.bypasses() for _ in range(50)), "no call has bypassed h2"
