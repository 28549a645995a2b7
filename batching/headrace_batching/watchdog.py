"""Abandons runs that take too long: their callers get an error, and another thread replaces the one that hangs."""

import logging
import time
from collections.abc import Callable
from itertools import count
from threading import Condition, Thread

from headrace_batching.contract import Clock

log = logging.getLogger(__name__)


class Abandoned(BaseException):
    """Raised when an abandoned run ends after all: its thread has been replaced, and must end."""


class Watchdog:
    """Waits for the ends of runs. Any thread; its own thread starts with the first run that has a time limit.

    Args:
        clock: Returns the time, in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._changed = Condition()
        self._numbers = count()
        self._runs: dict[int, tuple[float, Callable[[], None]]] = {}
        self._thread: Thread | None = None
        self._closed = False

    def begin(self, seconds: float, give_up: Callable[[], None]) -> int:
        """Records that a run begins, and returns its number.

        Args:
            seconds: The time limit in seconds.
            give_up: Called on the watchdog's thread when the limit has passed.

        Raises:
            RuntimeError: The system has no thread for the watchdog.
        """
        with self._changed:
            if self._thread is None:
                thread = Thread(target=self._watch, name="batch-watchdog", daemon=True)
                thread.start()
                self._thread = thread
            number = next(self._numbers)
            self._runs[number] = (self._clock() + seconds, give_up)
            self._changed.notify()
            return number

    def end(self, number: int) -> bool:
        """Records that a run has ended; false if it had been abandoned before."""
        with self._changed:
            return self._runs.pop(number, None) is not None

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while (late := self._next_late()) is not None:
            for give_up in late:
                try:
                    give_up()
                except Exception:  # such as a lack of threads; the watchdog must go on for the other runs
                    log.exception("a run that takes too long could not be abandoned completely")

    def _next_late(self) -> list[Callable[[], None]] | None:
        """Waits until runs are late, and returns their `give_up`; None when the watchdog is closed."""
        with self._changed:
            while not self._closed:
                now = self._clock()
                late = [number for number, (end, _) in self._runs.items() if end <= now]
                if late:
                    return [self._runs.pop(number)[1] for number in late]
                ends = [end for end, _ in self._runs.values()]
                self._changed.wait(min(ends) - now if ends else None)
            return None
