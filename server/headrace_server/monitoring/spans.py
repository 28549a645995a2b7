"""Creates the spans of traced requests with OpenTelemetry's names, and sends them to a collector (extra `otel`).

OpenTelemetry's SDK creates and encodes one span of each kind. All others are copies of its message with other IDs and
times, which take a tenth of the time.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace_batching import BatchReport
from headrace_protos import Code
from headrace_server.errors import ServingError, invalid
from headrace_server.metrics.series import Labels
from headrace_server.models.trace import Attributes, Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

SLICE = 16
"""Traces whose spans are created without a pause, in a third of a millisecond; batch threads may wait meanwhile."""

PAUSE = 0.001
"""Seconds between two slices."""

KINDS = 1024
"""Kinds of spans whose messages are kept."""


@dataclass(eq=False, slots=True)
class Batch:
    """A batch that a traced request was in.

    Attributes:
        version: The name of the model, and the version.
        report: The report of the run.
        spans: The trace and the ID of the batch's span in the trace of each of its requests, once they are known.
    """

    version: Labels
    report: BatchReport
    spans: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ran:
    """A traced request that has ended, and its batches by the times when its tasks joined their queues."""

    trace: Trace
    batches: Mapping[float, Batch]


class SpanMaker:
    """Creates spans and sends them. One thread.

    Each request has a tree of spans: request > queue > batch > join, run, split. A batch with several traced requests
    has a span in each tree, and each of these links to the others.

    Args:
        exporter: Sends an `ExportTraceServiceRequest` with its method `export`.
        pause: Lets other threads run, for a number of seconds.
    """

    def __init__(self, exporter: Any, pause: Callable[[float], None] = time.sleep) -> None:
        self._exporter = exporter
        self._pause = pause
        self._encoder = encoder = _Encoder()
        self._request_of = lru_cache(KINDS)(encoder.request)
        self._batch_of = lru_cache(KINDS)(encoder.batch)
        self._queue, *self._parts = map(encoder.part, ("queue", "join", "run", "split"))
        self._offset = time.time_ns() - time.monotonic_ns()

    def send(self, requests: Sequence[Ran]) -> None:
        """Creates and sends the spans of requests that have ended."""
        message = self._encoder.message()
        spans = message.resource_spans[0].scope_spans[0].spans
        trees = [_Tree(ran) for ran in requests]  # all of them first, since the spans of batches link to each other
        for start in range(0, len(trees), SLICE):
            if start:
                self._pause(PAUSE)
            for tree in trees[start : start + SLICE]:
                self._add(tree, _Writer(spans, tree.trace, self._offset))
        self._exporter.export(message)

    def close(self) -> None:
        """Closes the connection to the collector."""
        self._exporter.shutdown()

    def _add(self, tree: "_Tree", writer: "_Writer") -> None:
        """Adds the spans of a request. Most of the time is spent here, so this does no more than necessary."""
        trace, request, add = tree.trace, _new_id(), writer.add
        kind = self._request_of(trace.name, trace.attributes, bool(trace.parent_id), trace.error)
        add(kind, request, trace.parent_id, trace.began, trace.ended)
        for arrival, batch, own in tree.batches:
            report, queue = batch.report, _new_id()
            began = report.began
            joined = began + report.joined
            times = (began, joined, joined + report.computed, began + report.ran)
            add(self._queue, queue, request, arrival, began)
            kind = self._batch_of(batch.version, report.tasks, report.rows, report.padding, report.failed)
            span = add(kind, own, queue, began, times[-1])
            if len(batch.spans) > 1:
                _link(span, batch)
            for number, part in enumerate(self._parts):
                add(part, _new_id(), own, times[number], times[number + 1])


class _Tree:
    """A request and its batches, each with the time when the request joined its queue, and the ID of its span."""

    __slots__ = ("batches", "trace")

    def __init__(self, ran: Ran) -> None:
        self.trace = ran.trace
        self.batches = [(arrival, batch, _new_id()) for arrival, batch in ran.batches.items()]
        for _, batch, own in self.batches:
            batch.spans.append((ran.trace.trace_id, own))


class _Writer:
    """Adds spans of one trace to a message; the wall clock is ahead of the monotonic one by `offset` ns."""

    __slots__ = ("_offset", "_spans", "_trace")

    def __init__(self, spans: Any, trace: Trace, offset: int) -> None:
        self._spans = spans
        self._trace = trace
        self._offset = offset

    def add(self, kind: Any, own: bytes, parent: bytes, began: float, ended: float) -> Any:
        """A span like `kind`, with these IDs, and these times of the monotonic clock in seconds."""
        span = self._spans.add()
        span.CopyFrom(kind)
        span.trace_id = self._trace.trace_id
        span.span_id = own
        span.parent_span_id = parent
        span.start_time_unix_nano = self._offset + int(began * 1e9)
        span.end_time_unix_nano = self._offset + int(ended * 1e9)
        if self._trace.state:
            span.trace_state = self._trace.state
        return span


def _link(span: Any, batch: Batch) -> None:
    """Links a batch's span to those in the traces of its other requests."""
    for trace_id, span_id in batch.spans:
        if span_id != span.span_id:
            span.links.add(trace_id=trace_id, span_id=span_id, flags=span.flags)


def _new_id() -> bytes:
    return random.randbytes(8)


class _Kind(NamedTuple):
    """What many spans have in common."""

    name: str
    attributes: Attributes = ()
    is_request: bool = False
    has_caller: bool = False
    failed: bool = False


class _Encoder:
    """OpenTelemetry's messages of spans, as its SDK encodes them."""

    def __init__(self) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        defaults = {"service.name": "headrace", "service.version": version("headrace")}
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence.
        self._resource = Resource(defaults).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("headrace", version("headrace"))
        self._empty = self._encoded(_Kind(""))
        self._empty.resource_spans[0].scope_spans[0].ClearField("spans")

    def message(self) -> Any:
        """An `ExportTraceServiceRequest` without spans."""
        message = type(self._empty)()
        message.CopyFrom(self._empty)
        return message

    # In each of the following spans, the IDs must be replaced, and the times added.

    def request(self, name: str, attributes: Attributes, has_caller: bool, failed: bool) -> Any:
        """The span of a request."""
        return self._span(_Kind(name, attributes, is_request=True, has_caller=has_caller, failed=failed))

    def batch(self, version: Labels, tasks: int, rows: int, padding: int, failed: bool) -> Any:
        """The span of a batch."""
        attributes = (
            ("headrace.model", version[0]),
            ("headrace.version", int(version[1])),
            ("headrace.batch.requests", tasks),
            ("headrace.batch.rows", rows),
            ("headrace.batch.padding", padding),
            ("headrace.batch.failed", failed),
        )
        return self._span(_Kind("batch", attributes, failed=failed))

    def part(self, name: str) -> Any:
        """A span without attributes."""
        return self._span(_Kind(name))

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


def otlp_exporter(endpoint: str) -> Any:
    """An exporter of messages by OTLP over gRPC, which OTEL_EXPORTER_OTLP_* configure if they are set.

    Args:
        endpoint: Such as `http://localhost:4317`; `https` means TLS.

    Raises:
        ServingError: FAILED_PRECONDITION, the extra `otel` is not installed; INVALID_ARGUMENT, the URL is invalid.
    """
    if not endpoint.startswith(("http://", "https://")):
        raise invalid(f"--trace_endpoint must be a URL such as http://localhost:4317; was '{endpoint}'")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        text = f"--trace_endpoint needs OpenTelemetry: pip install 'headrace[otel]' ({error})"
        raise ServingError(Code.FAILED_PRECONDITION, text) from error

    class Exporter(OTLPSpanExporter):
        """Sends messages that are encoded already; all else is as for the SDK's spans."""

        def _translate_data(self, data: Any) -> Any:
            return data

        def _count_data(self, data: Any) -> int:
            return len(data.resource_spans[0].scope_spans[0].spans)

    return Exporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
