"""A clock that stands still until a test moves it."""

from threading import Condition

from headrace_server.models.versions import Clock


class StillClock(Clock):
    """Only `advance` moves the time. It wakes a waiter, and so does a notification of the waiter's own condition."""

    def __init__(self) -> None:
        self._now = 0.0
        self._waiting: set[Condition] = set()

    def now(self) -> float:
        return self._now

    def wait(self, changed: Condition, seconds: float | None) -> None:
        del seconds
        self._waiting.add(changed)
        changed.wait()

    def advance(self, seconds: float) -> None:
        """Moves the clock, and wakes all waiters."""
        self._now += seconds
        for changed in list(self._waiting):
            with changed:
                changed.notify_all()
