"""Latencies from histograms: values and counts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latencies:
    """Latencies as sorted pairs: seconds, rounded to three digits, and the number of calls that took that long."""

    pairs: Sequence[tuple[float, int]] = ()

    @property
    def count(self) -> int:
        """The number of calls."""
        return sum(count for _, count in self.pairs)

    def percentile(self, percent: float) -> float | None:
        """The seconds within which this percentage of calls ended; None if there was no call."""
        wanted, seen = self.count * percent / 100, 0
        for seconds, count in self.pairs:
            seen += count
            if seen >= wanted:
                return seconds
        return None

    def mean(self) -> float | None:
        """The mean in seconds; None if there was no call."""
        return sum(seconds * count for seconds, count in self.pairs) / self.count if self.pairs else None

    def within(self, seconds: float) -> int:
        """The number of calls that took no longer than this many seconds."""
        return sum(count for took, count in self.pairs if took <= seconds)


def of_nanoseconds(*lists: Iterable[tuple[int, int]]) -> Latencies:
    """The latencies of several histograms of nanoseconds, combined."""
    counts: Counter[int] = Counter()
    for pairs in lists:
        for nanoseconds, count in pairs:
            counts[nanoseconds] += count
    return Latencies(tuple((nanoseconds / 1e9, count) for nanoseconds, count in sorted(counts.items())))


def together(several: Iterable[Latencies]) -> Latencies:
    """The latencies of several loads, combined."""
    return of_nanoseconds(*(((round(seconds * 1e9), count) for seconds, count in each.pairs) for each in several))
