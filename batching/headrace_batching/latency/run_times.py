"""How long a batch runs by its size, learned from runs: robust against outliers, and adapting to the machine."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt
from statistics import median
from typing import NamedTuple

_KEPT = 128
"""The maximum number of runs that are kept for each size."""

_ENOUGH = 32
"""The number of runs after which it is known how much they differ."""

_TELLING = 1.25
"""A size gets its own percentile, instead of that of all sizes, once this many of its runs are expected to exceed it.
"""

_FEW = 8
"""A size with fewer runs is forgotten after `_FEW_SECONDS`, so that one slow run does not rule it out forever."""

_FEW_SECONDS = 30.0

_DOUBTED_SECONDS = 2.0
"""Replaces `_FEW_SECONDS` for sizes above the one in use while most tasks are refused: a stall may have delayed the few
runs. Each use doubles the number, up to `_FEW_SECONDS`, so that a size that really is slow is not tried forever.
"""

_STALE = 60.0
"""Seconds after which a run is no longer used to estimate how much runs differ."""

_FORGOTTEN = 900.0
"""Seconds after which a size that has not been run again is forgotten."""

_DRIFT = 1.25
"""A change by more than this factor in the last `_DRIFTED` runs also applies to sizes that have not run since."""

_DRIFTED = 16
_AGREEING = 12

_FIRST_SPREAD = 1.2

_MOST_SPREAD = 2.0
"""Slow runs are planned for up to this multiple of the median; longer ones are stalls, which occur at any size.
"""

_GROWTH = 0.8
"""The power of the size with which run times are expected to grow if nothing is known."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Run time by batch size. It is linear between two sizes, and a power of the size beyond the largest one seen.

    Beyond the largest size, a batch of twice the size is estimated to run 1.74 times as long. That is longer than for
    most models, whose runs have a fixed part, but not so long that larger sizes are never tried. The first run of a
    larger size corrects the estimate.

    Attributes:
        sizes: The sizes of batches in rows, padding included, in increasing order.
        typical: The median run time of a batch of each size, in seconds; never decreasing.
        high: For each size, the duration that the objective's share of runs (such as 99%) does not exceed, in seconds;
            at most twice the median, and never decreasing.
        hopeful: A low estimate of the median of each size, lower for sizes with few runs; never decreasing.
    """

    sizes: tuple[float, ...]
    typical: tuple[float, ...]
    high: tuple[float, ...]
    hopeful: tuple[float, ...]

    def typical_of(self, size: float) -> float:
        """The median run time in seconds of a batch with this many rows."""
        return self._at(self.typical, size)

    def high_of(self, size: float) -> float:
        """The duration in seconds that the objective's share of runs with this many rows does not exceed."""
        return self._at(self.high, size)

    def rate_of(self, size: float) -> float:
        """Rows per second of one thread with batches of this size, in the best case that the data allow.

        So larger sizes, and sizes with only a few, slow runs, are tried again.
        """
        return size / self._at(self.hopeful, size)

    def _at(self, seconds: tuple[float, ...], size: float) -> float:
        if size <= self.sizes[0]:
            return seconds[0]
        if size >= self.sizes[-1]:
            guess: float = seconds[-1] * (size / self.sizes[-1]) ** _GROWTH
            return guess
        right = bisect_left(self.sizes, size)
        left = right - 1
        part = (size - self.sizes[left]) / (self.sizes[right] - self.sizes[left])
        return seconds[left] + part * (seconds[right] - seconds[left])


class _Run(NamedTuple):
    """One run: when it ended, and its duration in seconds."""

    at: float
    seconds: float


@dataclass(slots=True)
class _Runs:
    """The last runs of batches of about one size."""

    runs: deque[_Run] = field(default_factory=lambda: deque(maxlen=_KEPT))
    size: float = 0.0
    typical: float = 0.0

    @property
    def last(self) -> float:
        """When the last of the runs ended."""
        return self.runs[-1].at

    def add(self, members: list[tuple[int, float]], now: float) -> None:
        """Records the rows and seconds of more runs, and drops old runs if there are enough without them."""
        self.runs.extend(_Run(now, seconds) for _, seconds in members)
        while len(self.runs) > _ENOUGH and now - self.runs[0].at > _STALE:
            self.runs.popleft()
        self.size = sum(size for size, _ in members) / len(members)
        self._set_typical()

    def scale(self, factor: float, expected: float, since: float) -> None:
        """Scales the durations of the runs that ended before `since`, and of later runs that do not show the change.

        Args:
            factor: The factor of the change.
            expected: The duration before the change.
            since: When the first run with the new duration ended.
        """
        changed = expected * sqrt(factor)

        def scaled(run: _Run) -> _Run:
            has_changed = run.at >= since and (run.seconds < changed if factor < 1 else run.seconds > changed)
            return run if has_changed else _Run(run.at, run.seconds * factor)

        self.runs = deque(map(scaled, self.runs), maxlen=_KEPT)
        self._set_typical()

    def high(self, share: float, spread: float, now: float) -> float:
        """The duration in seconds that this share of the runs does not exceed."""
        if len(self.runs) * (1 - share) < _TELLING or now - self.last > _STALE:
            found = self.typical * spread
        else:
            found = quantile((run.seconds for run in self.runs), share)
        return min(found, self.typical * _MOST_SPREAD)

    def _set_typical(self) -> None:
        self.typical = median(run.seconds for run in self.runs)


class RunTimes:
    """Learns run times. One thread at a time.

    Args:
        share: The share of runs that `Curve.high` must cover.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._known: dict[int, _Runs] = {}
        self._ratios: deque[_Run] = deque(maxlen=_DRIFTED)
        self._curve: Curve | None = None
        self._doubted_seconds = _DOUBTED_SECONDS

    @property
    def curve(self) -> Curve | None:
        """The current estimates; None if nothing has run."""
        return self._curve

    def knows(self, size: int) -> bool:
        """Whether a batch of about this size has run and is not forgotten."""
        return _bucket(size) in self._known

    def learn(self, runs: Iterable[tuple[int, float]], now: float, *, refusing_most: bool = False) -> None:
        """Records runs that have ended.

        Args:
            runs: The number of rows, including padding, and the seconds of each run.
            now: The current time, in seconds.
            refusing_most: Whether most tasks are refused, so that larger sizes with few runs are soon tried again.
        """
        fresh: dict[int, list[tuple[int, float]]] = {}
        for size, seconds in runs:
            fresh.setdefault(_bucket(size), []).append((size, seconds))
        for bucket, members in fresh.items():
            self._known.setdefault(bucket, _Runs()).add(members, now)
        if self._curve is not None:
            self._follow_drift(self._curve, fresh, now)
        self._forget(now, refusing_most=refusing_most)
        self._curve = self._drawn(now)

    def _drawn(self, now: float) -> Curve | None:
        known = sorted(self._known.values(), key=lambda runs: runs.size)
        if not known:
            return None
        spread = self._spread(known, now)
        typical = _increasing(runs.typical for runs in known)
        high = _increasing(runs.high(self._share, spread, now) for runs in known)
        hopeful = _increasing(runs.typical / (1 + (spread - 1) / sqrt(len(runs.runs))) for runs in known)
        return Curve(tuple(runs.size for runs in known), typical, high, hopeful)

    def _spread(self, known: list[_Runs], now: float) -> float:
        """How many times as long as the typical run of their size the slowest runs that count take, over all sizes."""
        recent = [runs for runs in known if now - runs.last <= _STALE and runs.typical > 0]
        ratios = [run.seconds / runs.typical for runs in recent for run in runs.runs]
        return quantile(ratios, self._share) if len(ratios) >= _ENOUGH else _FIRST_SPREAD

    def _follow_drift(self, curve: Curve, fresh: dict[int, list[tuple[int, float]]], now: float) -> None:
        """Scales the estimates if the last runs agree that they are far too high or too low.

        Sizes that have not run since keep their position relative to the others.
        """
        for members in fresh.values():
            for size, seconds in members:
                ratio = seconds / curve.typical_of(min(size, curve.sizes[-1]))
                if size <= curve.sizes[-1] or ratio < 1:  # a larger batch is slower, but how much is unknown
                    self._ratios.append(_Run(now, ratio))
        if len(self._ratios) < _DRIFTED:
            return
        faster = sum(run.seconds < 1 / _DRIFT for run in self._ratios)
        slower = sum(run.seconds > _DRIFT for run in self._ratios)
        if max(faster, slower) < _AGREEING:
            return
        factor = median(run.seconds for run in self._ratios)
        for runs in self._known.values():
            runs.scale(factor, curve.typical_of(runs.size), self._ratios[0].at)
        self._ratios.clear()

    def _forget(self, now: float, *, refusing_most: bool) -> None:
        newest = max(self._known.items(), key=lambda item: item[1].last, default=(0, None))[0]
        doubted = False
        for bucket, runs in list(self._known.items()):
            doubt = refusing_most and bucket > newest
            few_kept = self._doubted_seconds if doubt else _FEW_SECONDS
            few = len(runs.runs) < _FEW
            if bucket != newest and now - runs.last > (few_kept if few else _FORGOTTEN):
                del self._known[bucket]
                doubted = doubted or (few and doubt)
        if doubted:
            self._doubted_seconds = min(2 * self._doubted_seconds, _FEW_SECONDS)


def quantile(values: Iterable[float], share: float) -> float:
    """The value that a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _bucket(size: int) -> int:
    """A size, rounded up to one of those that are distinguished: all up to 8, and four in each doubling above that."""
    if size <= 8:
        return size
    step = 1 << (size.bit_length() - 3)
    return -(-size // step) * step


def _increasing(values: Iterable[float]) -> tuple[float, ...]:
    highest = 0.0
    found = []
    for value in values:
        highest = max(highest, value)
        found.append(highest)
    return tuple(found)
