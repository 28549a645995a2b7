"""A process that takes in large bodies from their connections: their bytes never are in the server's interpreter."""

import mmap
import os
import selectors
import socket
from contextlib import suppress
from enum import IntEnum
from struct import Struct

from headrace_server.services.child_process import come_up

ASKED = Struct("<QQQ")
"""A body's number, how many of its bytes have come, and how many there are; with it, its connection and its file."""

TOLD = Struct("<QB")
"""The number, and how it ended."""

AT_ONCE = 256 << 10
"""Bytes of one body before another has its turn."""

WINDOW = 256 << 10
"""Bytes that a caller may have under way: more of them at once would keep a core in the kernel for milliseconds."""


class Ended(IntEnum):
    """How the taking in of a body ended."""

    WHOLE = 0
    LEFT = 1  # the caller did
    FAILED = 2  # there is no memory for it


class Incoming:
    """One body on its way from a connection to a file. Owns the descriptors of both.

    Args:
        number: Its own.
        at: Bytes that are in the file.
        size: Bytes that will be.
        connection: Where the others come from.
        file: Of memory.

    Raises:
        OSError: There is no memory for it.
    """

    def __init__(self, number: int, at: int, size: int, connection: socket.socket, file: int) -> None:
        self.number = number
        self._connection = connection
        self._at = at
        try:
            os.ftruncate(file, size)
            self._map = mmap.mmap(file, size)
        finally:
            os.close(file)
        self._view = memoryview(self._map)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)

    def fileno(self) -> int:
        """The connection's."""
        return self._connection.fileno()

    def take(self) -> Ended | None:
        """Takes what has come; how it ended, None where more is to come."""
        try:
            count = self._connection.recv_into(self._view[self._at : self._at + AT_ONCE])
        except BlockingIOError:
            return None
        except ConnectionError:
            return Ended.LEFT
        except OSError:
            return Ended.FAILED
        self._at += count
        if self._at == len(self._view):
            return Ended.WHOLE
        return None if count else Ended.LEFT

    def close(self) -> None:
        """Lets go of connection and file; the server has others of them."""
        self._view.release()
        self._map.close()
        self._connection.close()


def main() -> None:
    """Takes bodies in, until the other end of the socket is closed."""
    with come_up() as server, selectors.DefaultSelector() as selector, suppress(ConnectionError):
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if isinstance(key.fileobj, Incoming):
                    _take(selector, server, key.fileobj)
                elif not _begin(selector, server):
                    return


def _begin(selector: selectors.BaseSelector, server: socket.socket) -> bool:
    """Begins with a body; whether there was one."""
    asked, descriptors, _, _ = socket.recv_fds(server, ASKED.size, 2)
    if not asked:
        return False
    number, at, size = ASKED.unpack(asked)
    connection, file = socket.socket(fileno=descriptors[0]), descriptors[1]
    try:
        incoming = Incoming(number, at, size, connection, file)
    except OSError:
        connection.close()
        server.send(TOLD.pack(number, Ended.FAILED))
    else:
        selector.register(incoming, selectors.EVENT_READ)
    return True


def _take(selector: selectors.BaseSelector, server: socket.socket, incoming: Incoming) -> None:
    ended = incoming.take()
    if ended is None:
        return
    selector.unregister(incoming)
    incoming.close()
    server.send(TOLD.pack(incoming.number, ended))


if __name__ == "__main__":
    main()
