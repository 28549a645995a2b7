"""Creates the spans of traced requests with OpenTelemetry's names, and sends them to a collector (extra `otel`)."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from headrace_batching import BatchReport
from headrace_protos import Code
from headrace_server.errors import ServingError, invalid
from headrace_server.metrics.series import Labels
from headrace_server.models.trace import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

Attributes = Mapping[str, str | int | bool | float]


@dataclass(eq=False)
class Batch:
    """A batch that a traced request was in.

    Attributes:
        version: The name of the model, and the version.
        report: The report of the run.
        spans: The batch's span in the trace of each of its requests, once it is known.
    """

    version: Labels
    report: BatchReport
    spans: "list[SpanContext]" = field(default_factory=list)


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
        exporter: An OpenTelemetry `SpanExporter`.
    """

    def __init__(self, exporter: Any) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._exporter = exporter
        defaults = {"service.name": "headrace", "service.version": version("headrace")}
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence.
        self._resource = Resource(defaults).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("headrace", version("headrace"))
        self._offset = time.time() - time.monotonic()

    def send(self, requests: Sequence[Ran]) -> None:
        """Creates and sends the spans of requests that have ended."""
        contexts = {id(each): _Contexts(each) for each in requests}
        for each in requests:
            for arrival, batch in each.batches.items():
                batch.spans.append(contexts[id(each)].batch[arrival])
        self._exporter.export([span for each in requests for span in self._spans(each, contexts[id(each)])])

    def close(self) -> None:
        """Closes the connection to the collector."""
        self._exporter.shutdown()

    def _spans(self, ran: Ran, own: "_Contexts") -> "list[ReadableSpan]":
        return [self._made(planned) for planned in _planned(ran, own)]

    def _made(self, planned: "_Planned") -> "ReadableSpan":
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode

        began, ended = (round((self._offset + seconds) * 1e9) for seconds in planned.between)
        return ReadableSpan(
            planned.name,
            planned.context,
            planned.parent,
            self._resource,
            planned.attributes,
            links=[Link(other) for other in planned.links],
            kind=SpanKind.SERVER if planned.is_request else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR if planned.failed else StatusCode.UNSET),
            start_time=began,
            end_time=ended,
            instrumentation_scope=self._scope,
        )


@dataclass(frozen=True, slots=True)
class _Planned:
    """A span to create; `between` holds its start and end on the monotonic clock."""

    name: str
    context: "SpanContext"
    parent: "SpanContext | None"
    between: tuple[float, float]
    attributes: Attributes = field(default_factory=dict)
    links: "Sequence[SpanContext]" = ()
    is_request: bool = False
    failed: bool = False


def _planned(ran: Ran, own: "_Contexts") -> Iterator[_Planned]:
    trace = ran.trace
    between = (trace.began, trace.ended)
    yield _Planned(trace.name, own.request, own.caller, between, trace.attributes, is_request=True, failed=trace.error)
    for arrival, batch in ran.batches.items():
        report, queue, context = batch.report, own.queue[arrival], own.batch[arrival]
        ended = report.began + report.ran
        links = [other for other in batch.spans if other is not context]
        yield _Planned("queue", queue, own.request, (arrival, report.began))
        yield _Planned("batch", context, queue, (report.began, ended), _about(batch), links, failed=report.failed)
        joined = report.began + report.joined
        computed = joined + report.computed
        for name, between in (
            ("join", (report.began, joined)),
            ("run", (joined, computed)),
            ("split", (computed, ended)),
        ):
            yield _Planned(name, _context(trace.trace_id), context, between)


class _Contexts:
    """The IDs of a request's spans, which must be known before any is created, since spans link to each other."""

    def __init__(self, ran: Ran) -> None:
        trace = ran.trace
        self.caller = _context(trace.trace_id, trace.parent_id, remote=True) if trace.parent_id else None
        self.request = _context(trace.trace_id)
        self.queue = {arrival: _context(trace.trace_id) for arrival in ran.batches}
        self.batch = {arrival: _context(trace.trace_id) for arrival in ran.batches}


def otlp_exporter(endpoint: str) -> Any:
    """An exporter of spans by OTLP over gRPC, which OTEL_EXPORTER_OTLP_* configure if they are set.

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
    return OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))


def _about(batch: Batch) -> Attributes:
    model, number = batch.version
    report = batch.report
    return {
        "headrace.model": model,
        "headrace.version": int(number),
        "headrace.batch.requests": report.tasks,
        "headrace.batch.rows": report.rows,
        "headrace.batch.padding": report.padding,
        "headrace.batch.failed": report.failed,
    }


def _context(trace_id: int, span_id: int = 0, *, remote: bool = False) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(trace_id, span_id or random.getrandbits(64) or 1, remote, TraceFlags(TraceFlags.SAMPLED))
