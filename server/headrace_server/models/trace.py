"""What is noted of a request that is traced, while it is answered; spans are made of it later, elsewhere."""

import time
from contextvars import ContextVar

MARK = "headrace-traced"
"""The metadata by which the native transport says that a request is traced."""

PARENT = "traceparent"
"""W3C Trace Context's header."""


class Trace:
    """A traced request. In its event loop until it has ended.

    Args:
        trace_id: Of 128 bits.
        parent_id: The caller's span; 0 for none.

    Attributes:
        began: On the monotonic clock, in seconds.
        ended: Likewise; 0 until then.
        name: What was called.
        attributes: What else is known of it, by OpenTelemetry's names.
        error: Whether it has failed by the server's fault.
        arrivals: When each of its tasks joined a queue, by which the batch of each is found.
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
"""The traced request that the running task answers; None in any other task, and where there are no traces."""
