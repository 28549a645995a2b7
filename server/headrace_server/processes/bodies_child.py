"""A process that takes in large bodies from their connections: their bytes never are in the server's interpreter."""

import math
import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from struct import Struct

from headrace_server.processes import memory_file
from headrace_server.processes.child import come_up

ASKED = Struct("<QQQ")
"""A body's number, how many of its bytes have come, and how many there are; with it, its connection and its file."""

TOLD = Struct("<QB")
"""The number, and how it ended."""

AT_ONCE = 256 << 10
"""Bytes of one body before another has its turn, and of all of them between two rests."""

PAUSE = 0.004
"""Seconds of a rest, while the server's threads wait for a core. A low priority alone does not do: who
has it runs seldom, but then for as long as anybody, a few milliseconds."""

LOOK_AFTER = 0.02
"""Seconds between two looks at whether they do."""

MOST_WAIT = 0.1
"""Seconds a second that all of them together may wait."""


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
        file: In memory.
    """

    def __init__(self, number: int, at: int, size: int, connection: socket.socket, file: int) -> None:
        self.number = number
        self._connection = connection
        self._file = file
        self._at = at
        self._size = size

    def fileno(self) -> int:
        """The connection's."""
        return self._connection.fileno()

    def take(self, room: memoryview) -> tuple[int, Ended | None]:
        """Takes what has come, by way of some room; the bytes, and how it ended, None where more is to come."""
        try:
            count = self._connection.recv_into(room[: self._size - self._at])
        except BlockingIOError:
            return 0, None
        except OSError:
            return 0, Ended.LEFT
        try:
            memory_file.append(self._file, room[:count])
        except OSError:
            return count, Ended.FAILED
        self._at += count
        if self._at == self._size:
            return count, Ended.WHOLE
        return count, None if count else Ended.LEFT

    def close(self) -> None:
        """Lets go of connection and file; the server has others of them."""
        os.close(self._file)
        self._connection.close()


class Neighbours:
    """Whether the threads of a process have to wait for a core.

    Args:
        process: Its folder, as in /proc.
        clock: Seconds.
    """

    def __init__(self, process: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads = process / "task"
        self._clock = clock
        self._looked = -math.inf
        self._waited = 0.0
        self._wait = False

    def wait(self) -> bool:
        """Whether they lately had to; so it is where nobody can tell."""
        now = self._clock()
        if now - self._looked >= LOOK_AFTER:
            waited = self._seconds()
            self._wait = waited - self._waited > MOST_WAIT * (now - self._looked) or math.isnan(waited)
            self._looked, self._waited = now, waited
        return self._wait

    def _seconds(self) -> float:
        """Those that all threads that there are have waited; nan where Linux does not say."""
        waited = math.nan
        for file in self._threads.glob("*/schedstat"):
            with suppress(OSError):  # of a thread that has just ended
                nanoseconds = int(file.read_text().split()[1])
                waited = nanoseconds / 1e9 + (0.0 if math.isnan(waited) else waited)
        return waited


class Bodies:
    """Those that come in, and the server's socket.

    Args:
        server: Where new ones are told of, and how each ended is told.
        neighbours: Who may have to wait for a core.
        rest: Waits for so many seconds.
    """

    def __init__(
        self, server: socket.socket, neighbours: Neighbours, rest: Callable[[float], None] = time.sleep
    ) -> None:
        self._server = server
        self._neighbours = neighbours
        self._rest = rest
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)
        self._room = memoryview(bytearray(AT_ONCE))
        self._taken = 0

    def turn(self) -> bool:
        """Takes what has come; false once the server is gone."""
        for key, _ in self._selector.select():
            if isinstance(key.fileobj, Incoming):
                self._take(key.fileobj)
            elif not self._begin():
                return False
        return True

    def _begin(self) -> bool:
        """Begins with a body; whether there was one."""
        asked, descriptors, _, _ = socket.recv_fds(self._server, ASKED.size, 2)
        if not asked:
            return False
        number, at, size = ASKED.unpack(asked)
        connection, file = descriptors
        incoming = Incoming(number, at, size, socket.socket(fileno=connection), file)
        self._selector.register(incoming, selectors.EVENT_READ)
        return True

    def _take(self, incoming: Incoming) -> None:
        count, ended = incoming.take(self._room)
        if ended is not None:
            self._selector.unregister(incoming)
            incoming.close()
            self._server.send(TOLD.pack(incoming.number, ended))
        self._taken += count
        if self._taken >= AT_ONCE:
            self._taken -= AT_ONCE
            if self._neighbours.wait():
                self._rest(PAUSE)


def main() -> None:
    """Takes bodies in, until the other end of the socket is closed."""
    neighbours = Neighbours(Path("/proc", str(os.getppid())))
    with come_up() as server, suppress(ConnectionError):
        bodies = Bodies(server, neighbours)
        while bodies.turn():
            pass


if __name__ == "__main__":
    main()
