"""The limits of one caller: calls and rows per second, and calls at the same time."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Protocol

SOON = 0.1
"""Seconds after which a caller with too many calls at the same time may try again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that a rule of the policy sets for each of its callers; 0 means no limit.

    Attributes:
        calls_per_second: The maximum number of calls per second.
        rows_per_second: The maximum number of rows of inputs, or of Examples, per second.
        concurrent_calls: The maximum number of calls that run at the same time.
    """

    calls_per_second: float = 0.0
    rows_per_second: float = 0.0
    concurrent_calls: int = 0

    @property
    def are_none(self) -> bool:
        """Whether nothing is limited."""
        return not (self.calls_per_second or self.rows_per_second or self.concurrent_calls)


NO_LIMITS = Limits()


class Account(Protocol):
    """The remainder of one caller's limits. Any thread."""

    def admit(self) -> float | None:
        """Admits a call, and returns None; or refuses it, and returns the seconds after which to try again."""

    def charge(self, rows: int) -> None:
        """Charges for the rows of a call that has been admitted."""

    def release(self) -> None:
        """Records that an admitted call has ended."""


class LocalAccount:
    """An account in Python; `headrace_native.Account` does the same.

    There is a bucket of tokens for calls and one for rows. Each fills at its rate, up to the tokens of one second (at
    least one). A call is admitted while neither bucket is empty, and then takes what it needs, so a bucket may be
    overdrawn: a call with many rows is admitted, and the calls after it wait longer.

    Args:
        limits: The limits of the account.
        clock: Returns the time, in seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        self._calls = max(1.0, limits.calls_per_second)
        self._rows = max(1.0, limits.rows_per_second)
        self._filled = clock()
        self._running = 0

    def admit(self) -> float | None:
        """See `Account`."""
        with self._lock:
            self._fill()
            limits = self._limits
            wait = max(_wait(limits.calls_per_second, self._calls), _wait(limits.rows_per_second, self._rows))
            if wait > 0:
                return wait
            if 0 < limits.concurrent_calls <= self._running:
                return SOON
            self._calls -= 1
            self._running += 1
            return None

    def charge(self, rows: int) -> None:
        """See `Account`."""
        with self._lock:
            self._rows -= rows

    def release(self) -> None:
        """See `Account`."""
        with self._lock:
            self._running -= 1

    def _fill(self) -> None:
        now = self._clock()
        seconds = max(0.0, now - self._filled)
        calls, rows = self._limits.calls_per_second, self._limits.rows_per_second
        self._calls = min(max(1.0, calls), self._calls + seconds * calls)
        self._rows = min(max(1.0, rows), self._rows + seconds * rows)
        self._filled = max(self._filled, now)


def _wait(rate: float, left: float) -> float:
    return (1.0 - left) / rate if rate > 0 and left < 1.0 else 0.0
