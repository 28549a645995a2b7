"""Returns freed memory to the system, since C's allocator tends to keep it."""

import asyncio
import ctypes
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from headrace_server.metrics.heap import read_memory

LOOK_SECONDS = 5.0

REUSED_BYTES = 32 << 20
"""Bytes of evicted versions after which free memory is returned to the system; the next loads reuse what is less."""

WORTH_BYTES = 64 << 20
"""The fewest free bytes that are returned; they must also be a quarter of the bytes in use, as these may grow again."""


def release() -> None:
    """Returns free memory in C's heap to the system if the C library can (glibc); takes milliseconds.

    TF Serving: SimpleLoader releases memory to the system after an unload.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class Remains:
    """Counts the memory of evicted versions, a little of which is left for loads to reuse, since new pages are slow.

    Args:
        release: Returns free memory to the system.
    """

    def __init__(self, release: Callable[[], None] = release) -> None:
        self._release = release
        self._bytes = 0

    def add(self, size: int) -> None:
        """Records that a version of this size was evicted; returns free memory to the system if there may be much."""
        self._bytes += size
        if self._bytes >= REUSED_BYTES:
            self._bytes = 0
            self._release()


class Trimmer:
    """Returns memory that large requests and answers have left free while the server runs. In one event loop.

    Args:
        read: Returns the memory use of the process, by kind.
        release: Returns free memory to the system.
    """

    def __init__(
        self, read: Callable[[], Mapping[str, int]] = read_memory, release: Callable[[], None] = release
    ) -> None:
        self._read = read
        self._release = release
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts checking at intervals."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stops checking."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def trim(self) -> bool:
        """Returns free memory to the system if that is worthwhile; returns whether it did. Any thread."""
        memory = self._read()
        free = memory.get("heap_free", 0)
        if free < WORTH_BYTES or 4 * free < memory.get("heap_used", 0):
            return False
        self._release()
        return True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.trim)
