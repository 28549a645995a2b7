"""Decides which requests are traced if the native transport has not: by W3C's traceparent, otherwise by chance."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")

_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span.

    Attributes:
        trace_id: The ID, of 16 bytes.
        span_id: The ID, of 8 bytes.
        sampled: Whether the caller traces the request.
    """

    trace_id: bytes
    span_id: bytes
    sampled: bool

    @classmethod
    def of(cls, header: str) -> "Parent | None":
        """Parses a `traceparent`; None if it is invalid. Source: W3C Trace Context, 3.2.

        `native/src/traces/parent.rs` does the same.
        """
        found = _PARENT.fullmatch(header)
        if found is None:
            return None
        return cls(bytes.fromhex(found[1]), bytes.fromhex(found[2]), bool(int(found[3], 16) & _SAMPLED))


class Sampler:
    """Samples a share of all requests, and those whose callers trace them, up to a number per second.

    In one event loop.

    Args:
        ratio: The share of requests without a traceparent.
        rate: The maximum number of requests per second.
        chance: Returns a uniformly distributed random number from 0 to 1, excluding 1.
        clock: Returns the time, in seconds.
    """

    def __init__(
        self,
        ratio: float,
        rate: float,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ratio = ratio
        self._rate = rate
        self._chance = chance
        self._clock = clock
        self._room, self._since = rate, clock()

    def takes(self, parent: Parent | None) -> bool:
        """Whether a request is traced."""
        wanted = self._chance() < self._ratio if parent is None else parent.sampled
        return wanted and self._has_room()

    def _has_room(self) -> bool:
        now = self._clock()
        self._room = min(max(self._rate, 1.0), self._room + (now - self._since) * self._rate)
        self._since = now
        if self._room < 1:
            return False
        self._room -= 1
        return True
