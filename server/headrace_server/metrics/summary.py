"""The batches of one signature, for the line that is logged when a version is unloaded."""

from collections import Counter as CounterOf
from threading import Lock

from headrace_server.metrics.counting import tally
from headrace_server.metrics.runs import RunColumns

_POWERS = tuple(float((1 << power) - 1) for power in range(32))
"""The largest number of rows with each number of binary digits."""


class BatchCounts:
    """Requests, rows and batches of one signature, with the batch sizes in powers of two. Any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests = 0
        self._rows = 0
        self._by_power: CounterOf[int] = CounterOf()

    def add(self, runs: RunColumns) -> None:
        """Counts batches that ran."""
        with self._lock:
            self._requests += int(runs.tasks.sum())
            self._rows += int(runs.rows.sum())
            for power, count in tally(runs.rows, _POWERS):
                self._by_power[power] += count

    def __bool__(self) -> bool:
        """Whether a batch has run."""
        with self._lock:
            return bool(self._by_power)

    def __str__(self) -> str:
        with self._lock:
            batches = self._by_power.total()
            mean = self._rows / max(1, batches)
            sizes = ", ".join(f"{_range(power)}: {count}" for power, count in sorted(self._by_power.items()))
            return f"{self._requests} requests, {self._rows} rows in {batches} batches, mean {mean:.1f} rows ({sizes})"


def _range(power: int) -> str:
    low, high = (1 << power) >> 1, (1 << power) - 1
    return str(low) if low >= high else f"{low}-{high}"
