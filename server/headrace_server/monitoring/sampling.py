"""Which requests are traced, where the native transport has not decided it: by W3C's traceparent, else by chance."""

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
        trace_id: Of 128 bits.
        span_id: Of 64 bits.
        sampled: Whether the caller traces it.
    """

    trace_id: int
    span_id: int
    sampled: bool

    @classmethod
    def of(cls, header: str) -> "Parent | None":
        """What a `traceparent` says; None for one that says nothing. Source: W3C Trace Context, 3.2."""
        found = _PARENT.fullmatch(header)
        if found is None:
            return None
        return cls(int(found[1], 16), int(found[2], 16), bool(int(found[3], 16) & _SAMPLED))


class Sampler:
    """Takes a share of all requests, and those whose callers trace them; no more than so many a second.

    In one event loop.

    Args:
        ratio: Share of the requests without a traceparent.
        rate: Requests a second at most.
        chance: Evenly from 0 to 1, 1 excluded.
        clock: In seconds.
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
