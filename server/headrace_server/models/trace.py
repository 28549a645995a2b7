"""The records of a traced request while it is answered; the package `monitoring` creates spans from them later."""

import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from typing import Protocol

from headrace_batching import BatchReport
from headrace_protos import Code
from headrace_server.metrics.series import Labels

MARK = "headrace-traced"
"""The metadata with which the native transport marks a request as traced."""

PARENT, STATE = "traceparent", "tracestate"
"""W3C Trace Context's headers: the caller's span, and the states of other tracing systems."""

Attributes = tuple[tuple[str, str | int], ...]

_SERVERS_FAULT = frozenset(
    (Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS)
)
"""Codes of calls whose spans are errors. Source: OpenTelemetry's semantic conventions for gRPC servers."""


class Trace:
    """A traced request. It stays in its event loop until it has ended.

    Args:
        trace_id: The ID, of 16 bytes.
        parent_id: The caller's span, of 8 bytes; empty if there is none.
        state: The caller's `tracestate`.
        began: The start, on the monotonic clock, in seconds; None means now.

    Attributes:
        ended: The end, on the same clock; 0 until then.
        name: The called method.
        attributes: Further attributes, by OpenTelemetry's names.
        error: Whether the request failed through the server's fault.
        arrivals: When each of the request's tasks joined a queue, which identifies each task's batch.
    """

    __slots__ = ("arrivals", "attributes", "began", "ended", "error", "name", "parent_id", "state", "trace_id")

    def __init__(self, trace_id: bytes, parent_id: bytes = b"", state: str = "", began: float | None = None) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.state = state
        self.began = time.monotonic() if began is None else began
        self.ended = 0.0
        self.name = ""
        self.attributes: Attributes = ()
        self.error = False
        self.arrivals: Sequence[float] = ()

    def is_rpc(self, name: str, model: str, code: int) -> None:
        """Describes a call over gRPC that has ended.

        Args:
            name: The method, with its service.
            model: The model's name.
            code: gRPC's status code.
        """
        self.name = name
        service, _, method = name.partition("/")
        self.attributes = (
            ("rpc.system", "grpc"),
            ("rpc.service", service),
            ("rpc.method", method),
            ("rpc.grpc.status_code", code),
            ("headrace.model", model),
        )
        self.error = code in _SERVERS_FAULT

    def is_http(self, method: str, path: str, status: int | None = None) -> None:
        """Describes a request over HTTP, with its status once it is answered."""
        self.name = method
        self.attributes = (("http.request.method", method), ("url.path", path))
        if status is not None:
            self.attributes += (("http.response.status_code", status),)
            self.error = status >= HTTPStatus.INTERNAL_SERVER_ERROR


class Spans(Protocol):
    """Combines traced requests with the batches that they ran in, and encodes their spans. One thread."""

    def encode(
        self,
        traces: Sequence[Trace],
        reports: Iterable[tuple[Labels, BatchReport]],
        oldest: float,
        oldest_batch: float,
    ) -> tuple[Sequence[tuple[bytes, int]], int]:
        """Encodes the spans of the requests whose batches are known.

        Args:
            traces: Further requests that have ended.
            reports: Further runs of batches, each with its model's name and version.
            oldest: Requests that ended before this time do not wait for their batches; in seconds of the queues' clock.
            oldest_batch: Batches that began before this time are forgotten.

        Returns:
            Encoded `ExportTraceServiceRequest`s, each with the number of its spans, and the number of requests that
            still wait.
        """


CURRENT: ContextVar[Trace | None] = ContextVar("headrace-trace", default=None)
"""The traced request that the current task answers; None in any other task, and without traces."""
