"""What is counted: so far the batches of one signature, and the sizes they had."""

from collections import Counter
from threading import Lock


class BatchCounts:
    """Requests, rows and batches of one signature, with the batch sizes in powers of two. Any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests = 0
        self._rows = 0
        self._by_power: Counter[int] = Counter()

    def add(self, requests: int, rows: int) -> None:
        """Counts one batch that ran."""
        with self._lock:
            self._requests += requests
            self._rows += rows
            self._by_power[rows.bit_length()] += 1

    def __str__(self) -> str:
        with self._lock:
            batches = self._by_power.total()
            mean = self._rows / batches if batches else 0.0
            sizes = ", ".join(f"{_range(power)}: {count}" for power, count in sorted(self._by_power.items()))
            return f"{self._requests} requests, {self._rows} rows in {batches} batches, mean {mean:.1f} rows ({sizes})"


def _range(power: int) -> str:
    low, high = (1 << power) >> 1, (1 << power) - 1
    return str(low) if low >= high else f"{low}-{high}"
