"""The target of a queue for an objective, in plain numbers, and whether a task can still be in time."""

from bisect import insort
from math import inf
from typing import NamedTuple


class Target(NamedTuple):
    """How one lane forms its batches, and which tasks it accepts. The native queue has the same rules.

    Attributes:
        wait: Seconds that a batch which is not full waits for more tasks, counted from its first task's arrival.
        size: The number of rows that make a batch full. A task with more rows runs in a batch of its own.
        start_within: Seconds after its arrival by which a task's run must begin for it to be answered in time; infinity
            to accept every task.
        run_one: The expected seconds of a batch of one row.
        run_full: The expected seconds of a full batch.
    """

    wait: float
    size: int
    start_within: float = inf
    run_one: float = 0.0
    run_full: float = 0.0

    def run_of(self, rows: int) -> float:
        """The expected seconds of a batch, by a line through one row and a full batch."""
        if self.size <= 1:
            return self.run_full * rows
        return self.run_one + (self.run_full - self.run_one) * (rows - 1) / (self.size - 1)


class Slots:
    """When the running batches of one lane are expected to end. Under the queue's lock."""

    __slots__ = ("_ends", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._ends: list[float] = []  # sorted

    def begin(self, now: float, seconds: float) -> None:
        """Records that a batch begins."""
        insort(self._ends, now + seconds)

    def end(self) -> None:
        """Records that a batch has ended: the one that was expected to end first."""
        if self._ends:
            del self._ends[0]

    def start_of(self, now: float, batches: int, run_full: float) -> float:
        """When a batch that waits behind `batches` full ones is expected to begin; `now` if a thread is idle for it."""
        rounds, place = divmod(batches, self._most)
        busy = place - (self._most - len(self._ends))
        free = self._ends[busy] if 0 <= busy < len(self._ends) else now
        return max(now, free) + rounds * run_full


def makes_it(target: Target, slots: Slots, now: float, waiting: int, rows: int) -> bool:
    """Whether a task that arrives now would be answered in time.

    Args:
        target: How the task's lane forms its batches now.
        slots: When the lane's running batches are expected to end.
        now: The current time on the clock of `slots`, in seconds.
        waiting: The number of rows that wait before the task.
        rows: The number of rows of the task.
    """
    batches = max(0, waiting + rows - 1) // target.size if waiting else 0
    return slots.start_of(now, batches, target.run_full) <= now + target.start_within
