"""The batching decision, pure: which group of waiting tasks gives a batch now, or when to look again."""

from collections.abc import Iterable
from math import inf
from typing import Protocol, TypeVar

from headrace_batching.task import Priority


class Waiting(Protocol):
    """What the decision needs to know of tasks that wait together."""

    @property
    def full(self) -> bool:
        """Whether they fill a batch, or no longer fit into one."""

    @property
    def due(self) -> float:
        """When a batch of them leaves even if it is not full."""

    @property
    def priority(self) -> Priority:
        """The first priority among them."""


W = TypeVar("W", bound=Waiting)

QUICK = 0.0002
"""Seconds within which a run has ended before another thread would have got well under way."""

SLOW = 0.002
"""Seconds that nobody else should be kept waiting for."""

_MOST, _ENOUGH, _LOST = 16, 8, 4


class Pace:
    """How long the runs of one lane take. Under the queue's lock.

    A size is in bytes of input, and only compared: what has been quick says nothing of what is larger.

    Args:
        steady: Whether a run takes about as long as the one before; otherwise it is never quick.
    """

    __slots__ = ("_began", "_most", "_running", "_size", "_steady", "_trust")

    def __init__(self, *, steady: bool) -> None:
        self._steady = steady
        self._running = 0
        self._began = 0.0
        self._size = 0  # of the largest since then
        self._trust = 0  # earned by quick runs; a thread that is interrupted now and then loses some of it
        self._most = 0  # the size of the largest that was quick

    @property
    def running(self) -> int:
        """Runs that have begun and not ended."""
        return self._running

    def quick(self, size: int) -> bool:
        """Whether the next run, of that size, is expected to be over before another thread could be called for it."""
        return self._steady and self._trust >= _ENOUGH and size <= self._most

    def begin(self, now: float, size: int) -> None:
        """A run begins."""
        if not self._running:
            self._began, self._size = now, 0
        self._size = max(self._size, size)
        self._running += 1

    def end(self, now: float) -> None:
        """A run ends; those that overlap count as one, as long as all of them and as large as the largest."""
        self._running -= 1
        if self._running:
            return
        ran = now - self._began
        if ran <= QUICK:
            self._trust = min(_MOST, self._trust + 1)
            self._most = max(self._most, self._size)
        elif self._size <= self._most:
            self._trust = max(0, self._trust - _LOST) if ran <= SLOW else 0
            self._most = self._most if self._trust else 0


def choose(groups: Iterable[W], now: float) -> tuple[W | None, float]:
    """The group whose turn it is, asked for by a free batch thread.

    Args:
        groups: Those that hold tasks, the one longest without a turn first.
        now: The clock, in seconds.

    Returns:
        The first group that may run now, of the first priority that has one, and `now`; or None, and the time at
        which the next batch falls due (infinity while nothing waits). A full batch never waits.
    """
    second: W | None = None
    wake = inf
    for group in groups:
        due = now if group.full else group.due
        if due > now:
            wake = min(wake, due)
        elif group.priority is Priority.NORMAL:
            return group, now
        elif second is None:
            second = group
    return second, now if second is not None else wake
