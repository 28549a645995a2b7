"""The batching decision as a pure function: which group of waiting tasks forms a batch now, or when to look again."""

from collections.abc import Iterable
from math import inf
from typing import Protocol, TypeVar

from headrace_batching.task import Priority


class Waiting(Protocol):
    """The data that the decision needs about tasks that wait together."""

    @property
    def full(self) -> bool:
        """Whether the tasks fill a batch, or no longer fit into one."""

    @property
    def due(self) -> float:
        """The time at which a batch of these tasks leaves the queue even if it is not full."""

    @property
    def priority(self) -> Priority:
        """The highest priority among them."""


W = TypeVar("W", bound=Waiting)


def choose(groups: Iterable[W], now: float) -> tuple[W | None, float]:
    """Chooses the group from which a free batch thread takes its next batch.

    Args:
        groups: The groups that have tasks, the one served least recently first.
        now: The current time, in seconds.

    Returns: A group that may run now, and `now`: of those with the highest priority, the first. If none may run, None
        and the time when the next batch is due (infinity if nothing waits). A full batch never waits.
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
