"""HTTP/2 by hand: frames as bytes, and a connection that sends and receives them."""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Self

from tests.support.calls import ANSWER_WITHIN, PREDICT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_CONCURRENT_STREAMS = 3


class Frame(NamedTuple):
    """A frame from the server."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """An HPACK header, neither indexed nor compressed."""
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def head(path: str = PREDICT, **more: str) -> bytes:
    """The headers of a call."""
    named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers"}
    named |= {"content-type": "application/grpc"} | {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(literal(name, value) for name, value in named.items())


def call(stream: int, data: bytes, path: str = PREDICT, **more: str) -> bytes:
    """The frames of a whole unary call."""
    message = b"\0" + struct.pack(">I", len(data)) + data
    return frame(HEADERS, END_HEADERS, stream, head(path, **more)) + frame(DATA, END_STREAM, stream, message)


class Connection:
    """A client's connection, after its preface and settings.

    Args:
        port: The port of the server.
        silent: Whether pings are left unanswered.
    """

    def __init__(self, port: int, *, silent: bool = False) -> None:
        self._silent = silent
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN)
        self._file = self._socket.makefile("rb")
        self.say(PREFACE, frame(SETTINGS, 0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def say(self, *parts: bytes) -> None:
        """Sends frames; a closed connection is ignored."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(b"".join(parts))

    def hear(self) -> Iterator[Frame]:
        """The frames from the server, until it closes the connection.

        Raises:
            TimeoutError: The server neither closes the connection nor sends anything.
        """
        with suppress(ConnectionResetError):
            while whole := self._file.read(9):
                length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + whole)
                payload = self._file.read(length)
                if kind == PING and not flags & ACK and not self._silent:
                    self.say(frame(PING, ACK, 0, payload))
                yield Frame(kind, flags, stream, payload)

    def next(self, kind: int, flags: int = 0) -> Frame:
        """The next frame of a kind with these flags."""
        return next(heard for heard in self.hear() if heard.kind == kind and heard.flags & flags == flags)
