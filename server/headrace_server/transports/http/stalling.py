"""Ends uvicorn's connections that stall: in the midst of a request, or with an answer that nobody reads."""

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

LOOKS = 4
"""Within the time after which a connection has stalled."""

_Mark = tuple[float, int]  # when bytes came last, and how many wait to be sent


class WatchedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which knows when bytes came last."""

    came = 0.0

    def data_received(self, data: bytes) -> None:
        """Takes in bytes."""
        self.came = self.loop.time()
        super().data_received(data)

    @property
    def owes(self) -> bool:
        """Whether its client has to go on: with a request that is not whole, or by reading."""
        if self.transport.get_write_buffer_size():
            return True
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's own annotation leaves None out
        if cycle is not None and not cycle.response_complete:
            return cycle.more_body
        return bool(self.conn.trailing_data[0])

    @property
    def mark(self) -> _Mark:
        """What is another one when it has gone on."""
        return self.came, self.transport.get_write_buffer_size()


async def end_stalled(connections: Iterable[Any], seconds: float) -> None:
    """Ends, until it is cancelled, each connection that owes something and has not gone on for so long.

    Args:
        connections: Those that there are, whenever it looks.
        seconds: How long.
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
