"""A limit on the memory that the server uses for callers, for transports other than the native one."""

from collections import deque
from typing import Self

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.models.answers import NeverFits

COPIES = 2
"""How many times a message is in memory once it has been parsed, as on the native transport."""

ANSWER_COPIES = 3
"""How many times an answer is in memory when it is sent: the outputs, the message, and gRPC's copy of the message.

The outputs of a batch are freed together, after the last of its answers has been written.
"""


class Budget:
    """Counts the memory that calls use, in bytes. In one event loop.

    A call may use no more memory than it leaves free, so that there is room for later calls. Connections have no share
    of their own, unlike on the native transport.

    Args:
        limit: The maximum number of bytes that all calls may use together.

    Attributes:
        limit: The limit of the budget in bytes.
        used: The number of bytes in use.
        refusals: How many calls have been refused because too little memory was left.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.refusals = 0

    def hold(self, size: int = 0) -> "Held":
        """Reserves this many bytes for one call. The reservation can grow, and must be released.

        Raises:
            ServingError: As for `Held.grow`.
        """
        held = Held(self)
        held.grow(size)
        return held


class Held:
    """The memory, in bytes, that one call uses until it is released."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._reserved: deque[int] = deque()
        self._released = False
        self.size = 0

    def grow(self, size: int) -> None:
        """Reserves more bytes, unless all have been released: the call may have ended before this is called.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if too little is left. In the native transport's words.
        """
        budget = self._budget
        if self._released:
            return
        if self.size + size > budget.limit - budget.used - size:
            budget.refusals += 1
            raise ServingError(
                Code.RESOURCE_EXHAUSTED,
                f"too much memory is held for requests: {budget.used} of {budget.limit} bytes (--request_memory_mb); "
                "a single connection may hold only a part of that memory",
            )
        self.count(size)

    def shrink(self, size: int) -> None:
        """Releases some of the call's bytes."""
        size = min(size, self.size)
        self._budget.used -= size
        self.size -= size

    def reserve(self, size: int) -> None:
        """Reserves memory for outputs that a model is about to compute, for their message, and for gRPC's copy of it.

        Args:
            size: The approximate number of bytes that the outputs will take.

        Raises:
            ServingError: As for `grow`; `NeverFits` if the call could not get this much even if it were the only one.
        """
        self._reserved.append(self.take(ANSWER_COPIES * size, self.size))

    def apart(self) -> "Part":
        """The memory of one of several requests on the call."""
        return Part(self)

    def take(self, size: int, own: int) -> int:
        """Reserves more bytes for a request that has reserved `own` bytes; returns `size`.

        Raises:
            ServingError: As for `reserve`.
        """
        try:
            self.grow(size)
        except ServingError as error:
            if size > self._budget.limit // 2 - own:
                raise NeverFits(error.code, error.message) from error
            raise
        return size

    def settle(self, size: int) -> None:
        """Releases everything that was reserved, and takes the memory of an answer of this size instead.

        Raises:
            ServingError: As for `grow`.
        """
        while self._reserved:
            self.unreserve()
        self.grow(size)

    def count(self, size: int) -> None:
        """Counts more bytes, even if too little is left: they are in use already, such as gRPC's copy of an answer."""
        if not self._released:
            self._budget.used += size
            self.size += size

    def unreserve(self) -> None:
        """Releases the oldest reservation, if there is any."""
        if self._reserved:
            self.shrink(self._reserved.popleft())

    def release(self, *_: object) -> None:
        """Releases all memory. Further calls have no effect."""
        self._released = True
        self._budget.used -= self.size
        self._reserved.clear()
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Part:
    """The memory of one of several requests on a call: a part of the call's memory."""

    def __init__(self, call: Held) -> None:
        self._call = call
        self._size = 0

    def reserve(self, size: int) -> None:
        """Reserves memory for outputs; see `Held.reserve`."""
        self._size += self._call.take(ANSWER_COPIES * size, self._size)

    def apart(self) -> "Part":
        """The memory of one of several requests within this one."""
        return Part(self._call)

    def release(self) -> None:
        """Releases all memory. Further calls have no effect."""
        self._call.shrink(self._size)
        self._size = 0
