"""What is recorded of a traced request while it is answered; the spans are created from it later, elsewhere."""

import time
from contextvars import ContextVar

MARK = "headrace-traced"
"""The metadata with which the native transport marks a request as traced."""

PARENT = "traceparent"
"""W3C Trace Context's header."""


class Trace:
    """A traced request. It stays in its event loop until it has ended.

    Args:
        trace_id: The ID, of 128 bits.
        parent_id: The caller's span; 0 if there is none.

    Attributes:
        began: The start, on the monotonic clock, in seconds.
        ended: The end, on the same clock; 0 until then.
        name: The called method.
        attributes: Further attributes, by OpenTelemetry's names.
        error: Whether it failed through the server's fault.
        arrivals: When each of its tasks joined a queue, which identifies each task's batch.
    """

    __slots__ = ("arrivals", "attributes", "began", "ended", "error", "name", "parent_id", "trace_id")

    def __init__(self, trace_id: int, parent_id: int) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.began = time.monotonic()
        self.ended = 0.0
        self.name = ""
        self.attributes: dict[str, str | int] = {}
        self.error = False
        self.arrivals: list[float] = []


CURRENT: ContextVar[Trace | None] = ContextVar("headrace-trace", default=None)
"""The traced request that the current task answers; None in any other task, and without traces."""
