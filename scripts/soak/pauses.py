"""Reads the server's memory under load, and from time to time while all callers pause, so that it holds nothing."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .watch import Reading, Watch

EVERY = 20.0
"""Seconds from one pause to the next."""
AT_REST = 6.0
"""Seconds that a pause lasts: the server returns free memory to the system every five seconds."""


class Pauses:
    """The readings of one run, and its pauses.

    Args:
        watch: Takes the readings.
        seconds: The length of the run.
    """

    def __init__(self, watch: Watch, seconds: float) -> None:
        self._watch = watch
        self._until = time.monotonic() + seconds
        self._calls = 0
        self._idle = asyncio.Event()
        self._open = asyncio.Event()
        self._idle.set()
        self._open.set()
        self.loaded: list[Reading] = []
        self.resting: list[Reading] = []

    async def over(self) -> bool:
        """Waits until a pause is over; returns whether the run goes on."""
        await self._open.wait()
        return time.monotonic() < self._until

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Counts a call, which delays the next pause until it has ended."""
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def look_often(self, every: float) -> None:
        """Takes readings under load, again and again."""
        while True:
            await self._open.wait()
            self.loaded.append(await self._watch.look_now())
            await asyncio.sleep(every)

    async def take(self) -> None:
        """Pauses again and again, and takes a reading at the end of each pause."""
        while True:
            await asyncio.sleep(EVERY)
            self._open.clear()
            await self._idle.wait()
            await asyncio.sleep(AT_REST)
            self.resting.append(await self._watch.look_now())
            self._open.set()
