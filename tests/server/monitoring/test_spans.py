"""Spans of requests and their batches, as each of the two implementations encodes them."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from headrace_batching import BatchReport
from headrace_server.models.trace import Spans, Trace
from headrace_server.monitoring.otlp import EncodedSpans
from headrace_server.monitoring.span_kinds import EncodedKinds, SpanKinds
from headrace_server.monitoring.spans import WAITING, SpanMaker
from headrace_server.monitoring.traces import PATIENCE, Tracer

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

VERSION = ("model", "1")

KINDS = SpanKinds()


def in_python() -> Spans:
    return SpanMaker(KINDS, pause=lambda _: None)


def native() -> Spans:
    found = pytest.importorskip("headrace_native").Spans(0.0, 0.0, EncodedKinds(KINDS))
    assert hasattr(found, "encode")
    spans: Spans = found
    return spans


@pytest.fixture(params=[in_python, native])
def spans(request: pytest.FixtureRequest) -> Spans:
    make: Callable[[], Spans] = request.param
    return make()


def decoded(message: bytes) -> list[Any]:
    """The spans of an `ExportTraceServiceRequest`."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request: Any = ExportTraceServiceRequest.FromString(message)
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    assert scope.scope.name == "headrace"
    assert {attribute.key for attribute in resource.resource.attributes} >= {"service.name", "service.version"}
    return list(scope.spans)


class Sent:
    """An exporter that keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def export(self, spans: EncodedSpans) -> None:
        found = decoded(spans.message)
        assert len(found) == spans.count > 0
        assert len(spans.message) < 2 << 20  # collectors refuse messages of more than 4 MB
        self.spans += found

    def shutdown(self) -> None:
        """Does nothing."""


class Recorded:
    """A tracer of recorded requests, with its own time."""

    def __init__(self, spans: Spans) -> None:
        self.now = 1000.0
        self.sent = Sent()
        self.tracer = Tracer(None, spans, self.sent, lambda: self.now)

    def end(self, *arrivals: float, trace: bytes = b"1" * 16, parent: bytes = b"", state: str = "") -> None:
        """Records that a request ends now."""
        request = Trace(trace, parent, state, self.now - 1)
        request.is_rpc("a.Service/Method", "model", 0)
        request.arrivals = arrivals
        self.tracer.end(request)

    def ran(self, *arrivals: float, failed: bool = False) -> None:
        """Reports that a batch with these traced tasks has run."""
        report = BatchReport(
            4, 6, 2, self.now - 0.5, 0.25, failed, (*arrivals, 1.0), (1, 1, 1, 3), 0.0625, 0.125, arrivals
        )
        self.tracer.ran(VERSION, report)

    def flush(self) -> list[int]:
        """Sends the requests that are complete; returns the number of batches of each."""
        self.sent.spans.clear()
        self.tracer.flush()
        counts: list[int] = []
        for span in self.sent.spans:
            if span.name == "a.Service/Method":
                counts.append(0)
            elif span.name == "batch":
                counts[-1] += 1
        return counts


@pytest.fixture
def recorded(spans: Spans) -> Recorded:
    return Recorded(spans)


def test_a_request_waits_for_the_report_of_its_batch(recorded: Recorded) -> None:
    recorded.end(2.0)
    assert recorded.flush() == []
    recorded.ran(2.0)
    assert recorded.flush() == [1]


def test_a_request_may_have_several_batches(recorded: Recorded) -> None:
    recorded.end(2.0, 3.0)
    recorded.ran(2.0)
    assert recorded.flush() == []
    recorded.ran(3.0)
    assert recorded.flush() == [2]


def test_a_request_without_a_batch_waits_no_longer_than_it_may(recorded: Recorded) -> None:
    recorded.end(2.0)
    recorded.now += PATIENCE - 0.1
    assert recorded.flush() == []
    recorded.now += 0.2
    assert recorded.flush() == [0]


def test_reports_that_no_request_asks_for_are_forgotten(recorded: Recorded) -> None:
    recorded.ran(2.0, 3.0)
    recorded.end(3.0)
    assert recorded.flush() == [1]
    recorded.now += 3 * PATIENCE
    recorded.ran(4.0)
    recorded.flush()
    recorded.end(4.0)
    assert recorded.flush() == [1]
    recorded.end(2.0)
    assert recorded.flush() == []


def test_a_task_that_is_run_again_is_in_the_later_batch(recorded: Recorded) -> None:
    recorded.ran(2.0, 3.0, failed=True)
    recorded.ran(2.0)
    recorded.end(2.0)
    assert recorded.flush() == [1]
    (batch,) = (span for span in recorded.sent.spans if span.name == "batch")
    assert (batch.status.code, batch.links) == (0, [])


def test_many_spans_are_sent_in_several_messages(recorded: Recorded) -> None:
    for number in range(WAITING):
        recorded.ran(number + 0.5)
        recorded.end(number + 0.5, state="x" * 100)
    assert recorded.flush() == [1] * WAITING


def test_the_links_of_a_large_batch_are_sent_in_several_messages(recorded: Recorded) -> None:
    arrivals = [number + 0.5 for number in range(512)]
    recorded.ran(*arrivals)
    for arrival in arrivals:
        recorded.end(arrival)
    assert recorded.flush() == [1] * len(arrivals)


def test_no_more_requests_wait_than_are_allowed(recorded: Recorded) -> None:
    for number in range(WAITING):
        recorded.end(float(number))
    assert recorded.flush() == []
    recorded.end(-1.0)
    assert recorded.flush() == []
    assert recorded.tracer.waiting == WAITING


def test_ended_requests_are_sent_when_the_tracer_stops(recorded: Recorded) -> None:
    recorded.end(2.0)
    assert recorded.flush() == []
    recorded.tracer.stop()
    assert recorded.flush() == [0]


def renamed(spans: Sequence[Any]) -> list[str]:
    """Spans as text, with each random ID replaced by the number of its first appearance."""
    numbers: dict[bytes, bytes] = {}

    def number(own: bytes) -> bytes:
        return numbers.setdefault(own, str(len(numbers)).encode()) if own else b""

    for span in spans:
        span.span_id, span.parent_span_id = number(span.span_id), number(span.parent_span_id)
        for link in span.links:
            link.span_id = number(link.span_id)
    return [str(span) for span in spans]


def test_both_create_the_same_spans() -> None:
    every = []
    for make in (in_python, native):
        recorded = Recorded(make())
        recorded.ran(2.0, 3.0, 4.5)
        recorded.ran(5.0, failed=True)
        recorded.end(2.0, 5.0, state="rojo=1,congo=2", parent=b"a" * 8)
        recorded.end(3.0, trace=b"2" * 16)
        recorded.end(4.5, trace=b"3" * 16, state="x" * 300)
        recorded.end(trace=b"4" * 16, parent=b"b" * 8)
        assert recorded.flush() == [2, 1, 1, 0]
        every.append(renamed(recorded.sent.spans))
    assert len(every[0]) == 4 + 4 * 5
    assert every[0] == every[1]


def test_a_batch_links_to_each_of_its_other_spans(recorded: Recorded) -> None:
    arrivals = [float(number) for number in range(2, 12)]
    recorded.ran(*arrivals)
    traces = {random.randbytes(16) for _ in arrivals}
    for arrival, trace in zip(arrivals, traces, strict=True):
        recorded.end(arrival, trace=trace)
    recorded.flush()
    batches = [span for span in recorded.sent.spans if span.name == "batch"]
    assert len({batch.span_id for batch in batches}) == len(arrivals)
    for batch in batches:
        assert {link.trace_id for link in batch.links} == traces - {batch.trace_id}
        assert {link.span_id for link in batch.links} == {other.span_id for other in batches} - {batch.span_id}
