"""Who may run next, of jobs that are large and small: the smallest first, and never large ones alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count


class Turns:
    """Lets a number of jobs run at once; the others wait, the smallest at the front. In one event loop.

    Args:
        most: Jobs that run at once.
        large: The size from which on a job is large.
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
        """Waits for its turn, and has it until the end of the block."""
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
        """Begins what may begin: the smallest is looked at first, so that all behind one that may not are as large."""
        while self._waiting and self._free:
            size, _, turn = self._waiting[0]
            if not turn.done() and size >= self._large and not self._free_large:
                return
            heappop(self._waiting)
            if not turn.done():
                self._free -= 1
                self._free_large -= size >= self._large
                turn.set_result(None)
