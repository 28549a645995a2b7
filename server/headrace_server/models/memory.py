"""Returns freed memory to the system, since C's allocator tends to keep it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from headrace_server.metrics.heap import c_library, read_memory, resident_memory

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0

REUSED_BYTES = 32 << 20
"""The number of bytes of evicted versions that may always stay with the process, for the next loads to reuse."""

REUSED_PART = 10
"""If the bytes of the loaded versions, divided by this, are more than `REUSED_BYTES`, that quotient is used instead.

The bound on memory is kept nevertheless: a version counts as 1.2 times the size of its files, which leaves room.
"""

WORTH_BYTES = 64 << 20
"""Fewer free bytes than this, or than a quarter of the bytes in use, are not returned: they may be needed again."""


def release() -> None:
    """Returns free memory in C's heap to the system if the C library can (glibc); takes milliseconds.

    TF Serving's SimpleLoader, too, releases memory to the system after an unload.
    """
    trim = getattr(c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident() -> int:
    """The number of resident bytes of this process; 0 if the system has no /proc."""
    try:
        return resident_memory()
    except OSError:
        return 0


class Remains:
    """Decides when the memory of evicted versions is returned to the system.

    The next load can reuse most of this memory. If the memory is returned, its pages are unmapped, and mapping pages
    again takes most of the next load's CPU time. So the memory is returned only if the process has grown by more than
    its versions have.

    Args:
        release: Returns free memory to the system.
        resident: Returns the resident bytes of the process.
    """

    def __init__(self, release: Callable[[], None] = release, resident: Callable[[], int] = resident) -> None:
        self._release = release
        self._resident = resident
        self._evicted = 0  # the bytes of the versions evicted since the last release
        self._least: int | None = None  # the least resident bytes without those of the versions, since the last release

    def add(self, size: int, loaded: int) -> None:
        """Records that a version was evicted; returns free memory to the system if too much has remained.

        Args:
            size: The version's size in bytes.
            loaded: The number of bytes of the versions that are still loaded.
        """
        self._evicted += size
        if self._evicted < REUSED_BYTES:
            return
        others = self._resident() - loaded
        if self._least is not None and others < self._least + max(REUSED_BYTES, loaded // REUSED_PART):
            self._least = min(self._least, others)
            return
        self._release()
        self._evicted = 0
        self._least = self._resident() - loaded


class Trimmer:
    """Returns memory that large requests and answers have left free while the server runs. In one event loop.

    Args:
        free_unused: Frees the memory that models keep for later runs.
        read: Returns the memory use of the process, by kind.
        release: Returns free memory to the system.
    """

    def __init__(
        self,
        free_unused: Callable[[], None],
        read: Callable[[], Mapping[str, int]] = read_memory,
        release: Callable[[], None] = release,
    ) -> None:
        self._free_unused = free_unused
        self._read = read
        self._release = release
        self._least: int | None = None  # the least resident bytes that were not in use, since the last release
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
        self._free_unused()
        memory = self._read()
        free = self._returnable(memory)
        if free < WORTH_BYTES or 4 * free < memory.get("heap_used", 0):
            return False
        self._release()
        self._least = _unused(self._read())
        return True

    def _returnable(self, memory: Mapping[str, int]) -> int:
        """The number of bytes that a release would return; C's library counts what it has returned as free, too."""
        free, unused = memory.get("heap_free", 0), _unused(memory)
        if self._least is None:
            return free
        self._least = min(self._least, unused)
        return min(free, unused - self._least)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.trim)
            except Exception:  # such as a lack of memory: the next time may succeed, and `stop` must not raise it
                log.exception("free memory could not be returned to the system")


def _unused(memory: Mapping[str, int]) -> int:
    """The number of resident bytes besides those that the heap's owners use."""
    return memory.get("resident", 0) - memory.get("heap_used", 0) - memory.get("heap_mapped", 0)
