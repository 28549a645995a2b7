"""Records a server's resources from time to time: memory, files, threads, waiting rows."""

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .route import Route

_HEAP = re.compile(r"^:headrace:process_memory_bytes\{kind=\"heap_used\"\} (\S+)$", re.MULTILINE)
_QUEUED = re.compile(r"^:headrace:queue_rows\{.*\} (\S+)$", re.MULTILINE)
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)$")
_ARENA = 64 << 20
"""The maximum size in bytes of a mapping for a heap of glibc, except the first; its address is a multiple of this."""


@dataclass(frozen=True)
class Reading:
    """One reading.

    Attributes:
        seconds: The time since the first reading.
        resident: The resident memory in bytes.
        files: The number of open files.
        threads: The number of threads.
        heap: The size of the part of C's heap that is in use, in bytes; 0 if it was not read.
        other: The resident memory outside C's heap, in bytes; 0 if it was not read.
    """

    seconds: float
    resident: int
    files: int
    threads: int
    heap: int = 0
    other: int = 0

    @property
    def used(self) -> int:
        """The resident memory in bytes, without the free part of C's heap if the heap was read."""
        return self.heap + self.other if self.heap else self.resident


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

    def look(self) -> Reading:
        """Takes a reading without the parts of the memory."""
        status = (self._proc / "status").read_text()
        return Reading(
            time.monotonic() - self._began,
            int(_field(status, "VmRSS")) * 1024,
            len(list((self._proc / "fd").iterdir())),
            int(_field(status, "Threads")),
        )

    async def look_now(self) -> Reading:
        """Takes a reading, with the size of the heap that the server reports now."""
        heap = _heap(await asyncio.to_thread(self._route.metrics))
        with (self._proc / "smaps").open() as lines:
            return replace(self.look(), heap=heap, other=outside_heap(lines))

    def waiting(self) -> float:
        """The number of rows that wait in all queues, according to the server."""
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


def outside_heap(lines: Iterable[str]) -> int:
    """The resident memory of a process outside C's heap, such as other allocators, stacks and libraries, in bytes.

    Args:
        lines: The process's /proc/PID/smaps.
    """
    resident, in_heap = 0, False
    for line in lines:
        if found := _MAPPING.match(line):
            start, end, name = int(found[1], 16), int(found[2], 16), found[3]
            in_heap = name == "[heap]" or (not name and start % _ARENA == 0 and end - start <= _ARENA)
        elif line.startswith("Rss:") and not in_heap:
            resident += int(line.split()[1]) * 1024
    return resident


def _heap(page: str) -> int:
    """The size of the part of C's heap that is in use, in bytes; 0 if the server does not report it."""
    found = _HEAP.search(page)
    return int(float(found.group(1))) if found else 0


def _field(status: str, name: str) -> str:
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return line.split()[1]
