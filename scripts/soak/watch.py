"""Records a server's resources from time to time: memory, files, threads, waiting rows."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .route import Route

_HEAP = re.compile(r"^:headrace:process_memory_bytes\{kind=\"heap_used\"\} (\S+)$", re.MULTILINE)
_QUEUED = re.compile(r"^:headrace:queue_rows\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Reading:
    """One reading: seconds since the first, resident bytes, open files, threads, and bytes of the heap in use."""

    seconds: float
    resident: int
    files: int
    threads: int
    heap: int = 0


class Watch:
    """Observes one process.

    Args:
        pid: The process ID of the server.
        route: How its metrics are reached.
    """

    def __init__(self, pid: int, route: Route) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._route = route
        self._began = time.monotonic()

    def look(self, heap: int = 0) -> Reading:
        """Takes a reading, with the heap size that the server reports."""
        status = (self._proc / "status").read_text()
        return Reading(
            time.monotonic() - self._began,
            int(_field(status, "VmRSS")) * 1024,
            len(list((self._proc / "fd").iterdir())),
            int(_field(status, "Threads")),
            heap,
        )

    async def look_now(self) -> Reading:
        """Takes a reading, with the heap size that the server reports now."""
        return self.look(_heap(await asyncio.to_thread(self._route.metrics)))

    def waiting(self) -> float:
        """The rows that wait in all queues, according to the server."""
        return sum(map(float, _QUEUED.findall(self._route.metrics())))


def growth(seconds: Sequence[float], sizes: Sequence[int]) -> float:
    """The growth of a fitted line from the first reading to the last, relative to the median.

    The line's slope is the median of the slopes between any two readings (Theil and Sen), since a few readings include
    free memory that the allocator has not returned yet.
    """
    if len(sizes) < 2 or not any(sizes):
        return 0.0
    first, second = np.triu_indices(len(sizes), 1)
    rises = np.subtract(np.take(sizes, second), np.take(sizes, first))
    slope = np.median(rises / np.subtract(np.take(seconds, second), np.take(seconds, first)))
    return float(slope) * (seconds[-1] - seconds[0]) / float(np.median(sizes))


def _heap(page: str) -> int:
    """The bytes of C's heap in use; 0 if the server does not report it."""
    found = _HEAP.search(page)
    return int(float(found.group(1))) if found else 0


def _field(status: str, name: str) -> str:
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return line.split()[1]
