"""Decides which of large and small jobs runs next: the smallest first, and never only large ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count


class Turns:
    """Limits how many jobs run at the same time; the others wait, the smallest first. In one event loop.

    Args:
        most: The number of jobs that run at the same time.
        large: The size from which a job is large.
        most_large: How many of those that run may be large.
    """

    def __init__(self, most: int, *, large: int, most_large: int) -> None:
        self._free = most
        self._large = large
        self._free_large = most_large
        self._order = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Waits until the job may run; it counts as running until the end of the block."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (size, next(self._order), turn))
        self._begin()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
                self._free_large += size >= self._large
            turn.cancel()
            self._begin()

    def _begin(self) -> None:
        """Starts the jobs that may start.

        Jobs start in the order of their sizes, the smallest first: if one must wait, all jobs after it are at least as
        large.
        """
        while self._waiting and self._free:
            size, _, turn = self._waiting[0]
            if not turn.done() and size >= self._large and not self._free_large:
                return
            heappop(self._waiting)
            if not turn.done():
                self._free -= 1
                self._free_large -= size >= self._large
                turn.set_result(None)
