"""Ends uvicorn's connections that stall: within a request, or with an answer that is not read."""

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

LOOKS = 4
"""The number of checks of a connection within the time limit."""

_Mark = tuple[float, int]  # when bytes last arrived, and how many wait to be sent


class WatchedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, extended to know when bytes last arrived."""

    came = 0.0

    def data_received(self, data: bytes) -> None:
        """Receives bytes."""
        self.came = self.loop.time()
        super().data_received(data)

    @property
    def owes(self) -> bool:
        """Whether the connection's client must act: complete a request, or read an answer."""
        if self.transport.get_write_buffer_size():
            return True
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's own annotation lacks None
        if cycle is not None and not cycle.response_complete:
            return cycle.more_body
        return bool(self.conn.trailing_data[0])

    @property
    def mark(self) -> _Mark:
        """A value that changes whenever the client has acted."""
        return self.came, self.transport.get_write_buffer_size()


async def end_stalled(connections: Iterable[Any], seconds: float) -> None:
    """Ends each connection whose client must act, but has not done so within the time limit; runs until cancelled.

    Args:
        connections: The connections that are open now; the set changes meanwhile.
        seconds: The time within which a client must act.
    """
    loop = asyncio.get_running_loop()
    marks: dict[WatchedProtocol, tuple[_Mark, float]] = {}
    while True:
        await asyncio.sleep(seconds / LOOKS)
        now = loop.time()
        owing = [own for own in connections if isinstance(own, WatchedProtocol) and own.owes]
        before, marks = marks, {}
        for connection in owing:
            mark, since = before.get(connection, (None, now))
            if mark != connection.mark:
                since = now
            elif now - since >= seconds:
                connection.transport.abort()
                continue
            marks[connection] = (connection.mark, since)
