"""Reads what a server holds, now and then: memory, files, threads, waiting rows."""

import asyncio
import re
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_QUEUED = re.compile(r"^:headrace:queue_rows\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Reading:
    """One look: seconds since the first, resident bytes, open files, threads."""

    seconds: float
    resident: int
    files: int
    threads: int


class Watch:
    """Looks at one process.

    Args:
        pid: Of the server.
        rest_port: Where its metrics are.
    """

    def __init__(self, pid: int, rest_port: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._metrics = f"http://127.0.0.1:{rest_port}/metrics"
        self._began = time.monotonic()
        self.readings: list[Reading] = []

    def look(self) -> Reading:
        """Reads, and keeps what was read."""
        status = (self._proc / "status").read_text()
        reading = Reading(
            time.monotonic() - self._began,
            int(_field(status, "VmRSS")) * 1024,
            len(list((self._proc / "fd").iterdir())),
            int(_field(status, "Threads")),
        )
        self.readings.append(reading)
        return reading

    async def look_often(self, every: float) -> None:
        """Looks again and again."""
        while True:
            self.look()
            await asyncio.sleep(every)

    def waiting(self) -> float:
        """Rows that wait in all queues, by the server's own word."""
        with urllib.request.urlopen(self._metrics, timeout=10) as page:
            return sum(map(float, _QUEUED.findall(page.read().decode())))


def slope(readings: list[Reading]) -> float:
    """Bytes of memory that a second adds, by the straight line that fits best."""
    if len(readings) < 2:
        return 0.0
    seconds = [reading.seconds for reading in readings]
    return float(np.polyfit(seconds, [reading.resident for reading in readings], 1)[0])


def _field(status: str, name: str) -> str:
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return line.split()[1]
