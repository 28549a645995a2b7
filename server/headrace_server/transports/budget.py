"""What callers may make the server hold on transports that are not the native one: bytes, of all calls together."""

from typing import Self

from headrace_protos import Code
from headrace_server.errors import ServingError

COPIES = 2
"""Times that a message is in memory once it has been parsed, as on the native transport."""


class Budget:
    """Bytes that calls hold. In one event loop.

    A call may take as much as it leaves free, so that there is room for one that comes later; connections have no
    parts of their own, as they have on the native transport.

    Args:
        limit: The most that all calls may hold together.

    Attributes:
        limit: That.
        used: Bytes that are held.
        refusals: Calls for which there was too little left, ever.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.refusals = 0

    def hold(self, size: int = 0) -> "Held":
        """What one call holds, to be grown and released.

        Raises:
            ServingError: As `Held.grow`.
        """
        held = Held(self)
        held.grow(size)
        return held


class Held:
    """The bytes that one call holds of a budget, until they are released."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def grow(self, size: int) -> None:
        """Takes so many bytes more.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, they may not be had. In the native transport's words.
        """
        budget = self._budget
        if self.size + size > budget.limit - budget.used - size:
            budget.refusals += 1
            raise ServingError(
                Code.RESOURCE_EXHAUSTED,
                f"too much memory is held for requests: {budget.used} of {budget.limit} bytes (--request_memory_mb), "
                "of which one connection may hold only a part",
            )
        budget.used += size
        self.size += size

    def release(self, *_: object) -> None:
        """Gives all back; it may be called again."""
        self._budget.used -= self.size
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
