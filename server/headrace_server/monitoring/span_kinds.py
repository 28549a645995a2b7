"""The parts that many spans share, as OpenTelemetry's SDK encodes them: each kind of span once (extra `otel`)."""

import time
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace_server.metrics.series import Labels
from headrace_server.models.trace import Attributes, Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

KINDS = 1024
"""The maximum number of kinds of spans whose messages are kept."""

COUNTS = ("headrace.batch.requests", "headrace.batch.rows", "headrace.batch.padding")
"""The attributes of a batch's span that follow those of its kind."""


class _Kind(NamedTuple):
    """The parts that spans of one kind share."""

    name: str
    attributes: Attributes = ()
    is_request: bool = False
    has_caller: bool = False
    failed: bool = False


class SpanKinds:
    """The kinds of spans, as messages in which the IDs must be replaced, and the times added.

    Attributes:
        offset: The nanoseconds by which the system's clock is ahead of the monotonic one.
        request: Takes a request's name, its attributes, whether it has a caller's span, and whether it failed. Returns
            its span.
        batch: Takes a version, and whether a batch of it failed. Returns the batch's span without its counts.
    """

    def __init__(self) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        defaults = {"service.name": "headrace", "service.version": version("headrace")}
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence.
        self._resource = Resource(defaults).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("headrace", version("headrace"))
        self._empty = self._encoded(_Kind(""))
        self._empty.resource_spans[0].scope_spans[0].ClearField("spans")
        self.offset = time.time_ns() - time.monotonic_ns()
        self.request = lru_cache(KINDS)(self._request)
        self.batch = lru_cache(KINDS)(self._batch)

    def message(self) -> Any:
        """An `ExportTraceServiceRequest` without spans."""
        message = type(self._empty)()
        message.CopyFrom(self._empty)
        return message

    def part(self, name: str) -> Any:
        """A span without attributes."""
        return self._span(_Kind(name))

    def _request(self, name: str, attributes: Attributes, has_caller: bool, failed: bool) -> Any:
        return self._span(_Kind(name, attributes, is_request=True, has_caller=has_caller, failed=failed))

    def _batch(self, version: Labels, failed: bool) -> Any:
        attributes = (
            ("headrace.model", version[0]),
            ("headrace.version", int(version[1])),
            ("headrace.batch.failed", failed),
        )
        return self._span(_Kind("batch", attributes, failed=failed))

    def _span(self, kind: _Kind) -> Any:
        return self._encoded(kind).resource_spans[0].scope_spans[0].spans[0]

    def _encoded(self, kind: _Kind) -> Any:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        return encode_spans([self._made(kind)])

    def _made(self, kind: _Kind) -> "ReadableSpan":
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(*, remote: bool) -> SpanContext:
            return SpanContext(1, 1, remote, TraceFlags(TraceFlags.SAMPLED))

        return ReadableSpan(
            kind.name,
            context(remote=False),
            context(remote=True) if kind.has_caller else None,
            self._resource,
            dict(kind.attributes),
            kind=SpanKind.SERVER if kind.is_request else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR if kind.failed else StatusCode.UNSET),
            instrumentation_scope=self._scope,
        )


class EncodedKinds:
    """The kinds of spans as bytes, for the native transport.

    Args:
        kinds: The kinds of spans.

    Attributes:
        resource: A `ResourceSpans` without its spans.
        scope: A `ScopeSpans` without its spans.
        queue: A span without attributes; so are `join`, `run` and `split`.
        counts: The names of a batch's counts.
        link_flags: The flags of a link.
        offset: As in `SpanKinds`.
        of_batch: Takes a version, and whether a batch of it failed. Returns the batch's span without its counts.
    """

    def __init__(self, kinds: SpanKinds) -> None:
        self._kinds = kinds
        message = kinds.message().resource_spans[0]
        self.scope = message.scope_spans[0].SerializeToString()
        message.ClearField("scope_spans")
        self.resource = message.SerializeToString()
        self.queue, self.join, self.run, self.split = (
            _bytes(kinds.part(name)) for name in ("queue", "join", "run", "split")
        )
        self.counts = list(COUNTS)
        self.link_flags = kinds.part("queue").flags
        self.offset = kinds.offset
        self.of_batch = lru_cache(KINDS)(self._of_batch)

    def of_record(self, is_http: bool, name: str, model: str, status: int | None, has_caller: bool) -> bytes:
        """The span of a request that the transport has answered.

        Args:
            is_http: Whether the request came over HTTP.
            name: The HTTP path, or the gRPC method with its service.
            model: The model's name.
            status: The HTTP status or gRPC's code; None for an HTTP request whose client has left.
            has_caller: Whether the request has a caller's span.
        """
        trace = Trace(b"", b"caller" if has_caller else b"")
        if is_http:
            trace.is_http("POST", name, status)
        elif status is not None:
            trace.is_rpc(name, model, status)
        return self.of_trace(trace)

    def of_trace(self, trace: Trace) -> bytes:
        """The span of a request that Python has answered."""
        return _bytes(self._kinds.request(trace.name, trace.attributes, bool(trace.parent_id), trace.error))

    def _of_batch(self, version: Labels, failed: bool) -> bytes:
        return _bytes(self._kinds.batch(version, failed))


def _bytes(span: Any) -> bytes:
    """The encoding of a span without its IDs and times."""
    rest = type(span)()
    rest.CopyFrom(span)
    for name in ("trace_id", "span_id", "parent_span_id"):
        rest.ClearField(name)
    encoded: bytes = rest.SerializeToString()
    return encoded
