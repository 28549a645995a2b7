"""Traces of a real server, as a collector gets them over gRPC."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any

import grpc
import numpy as np
import pytest

from headrace_batching import Options
from headrace_protos import Code
from headrace_server import Config, Server
from headrace_server.errors import ServingError
from headrace_server.monitoring import traces
from headrace_server.monitoring.otlp import EncodedSpans
from headrace_server.monitoring.sampling import Sampler
from headrace_server.monitoring.span_kinds import SpanKinds
from headrace_server.monitoring.spans import SpanMaker
from headrace_server.monitoring.traces import Tracer
from tests.conftest import Run
from tests.support import models
from tests.support.calls import PREDICT, floats, predict_request
from tests.support.ports import free_port
from tests.support.rest_calls import ROW, RestCaller
from tests.support.running import START_WITHIN, RunningServer, eventually

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"

X = floats([1, 2, 3, 4])


class Collector:
    """An OTLP receiver over gRPC that keeps its spans."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

        self._lock = Lock()
        self._requests: list[Any] = []
        collector = self

        class Service(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: object) -> Any:  # noqa: N802  # OTLP's name
                del context
                with collector._lock:
                    collector._requests.append(request)
                return trace_service_pb2.ExportTraceServiceResponse()

        self._server = grpc.server(ThreadPoolExecutor(2))
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(Service(), self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def spans(self, trace: str = "") -> list[Any]:
        """The spans of a trace, or all."""
        with self._lock:
            resources = [each for request in self._requests for each in request.resource_spans]
        every = [span for each in resources for scope in each.scope_spans for span in scope.spans]
        return [span for span in every if not trace or span.trace_id.hex() == trace]

    def services(self) -> set[str]:
        """The service names of the resources."""
        with self._lock:
            resources = [each.resource for request in self._requests for each in request.resource_spans]
        return {a.value.string_value for each in resources for a in each.attributes if a.key == "service.name"}

    def clear(self) -> None:
        """Forgets all spans."""
        with self._lock:
            self._requests.clear()

    def close(self) -> None:
        """Stops the receiver."""
        self._server.stop(0).wait()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


class Traced:
    """A server that traces only the calls that callers trace."""

    def __init__(self, server: RunningServer, port: int, collector: Collector) -> None:
        self.server = server
        self.rest = RestCaller(port)
        self.collector = collector

    def predict(self, parent: str, *more: tuple[str, str]) -> None:
        """Sends a call with a traceparent, and more metadata."""
        metadata = (("traceparent", parent), *more)
        self.server.caller.send_bytes(PREDICT, predict_request({"x": X}).SerializeToString(), metadata=metadata)


@pytest.fixture(scope="module")
def traced(running: Run, collector: Collector) -> Iterator[Traced]:
    port = free_port()
    options = Options(num_batch_threads=1, max_batch_size=4, batch_timeout_micros=200_000, allowed_batch_sizes=(4,))
    server = running(
        models.linear, rest_api_port=port, trace_endpoint=collector.endpoint, trace_ratio=0.0, batching=options
    )
    found = Traced(server, port, collector)
    yield found
    found.rest.close()


@pytest.fixture(autouse=True)
def nothing_left(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "SECONDS", 0.05)  # makes the tracer send sooner than by default
    collector.clear()


def by_name(spans: list[Any]) -> dict[str, Any]:
    return {span.name: span for span in spans}


def value(attribute: Any) -> Any:
    return getattr(attribute.value, attribute.value.WhichOneof("value"))


def attributes(span: Any) -> dict[str, Any]:
    return {attribute.key: value(attribute) for attribute in span.attributes}


def test_a_request_from_its_caller_to_its_run(traced: Traced) -> None:
    traced.predict(SAMPLED)
    spans = by_name(eventually(lambda: traced.collector.spans(TRACE)))
    request = spans["tensorflow.serving.PredictionService/Predict"]
    assert request.parent_span_id.hex() == SPAN
    chain = [request, spans["queue"], spans["batch"], spans["run"]]
    assert [below.parent_span_id for below in chain[1:]] == [above.span_id for above in chain[:-1]]
    assert {spans[part].parent_span_id for part in ("join", "run", "split")} == {spans["batch"].span_id}
    assert len(spans) == 6
    assert attributes(request) == {
        "rpc.system": "grpc",
        "rpc.service": "tensorflow.serving.PredictionService",
        "rpc.method": "Predict",
        "rpc.grpc.status_code": 0,
        "headrace.model": "model",
    }
    about = attributes(spans["batch"])
    assert (about["headrace.batch.rows"], about["headrace.batch.padding"], about["headrace.version"]) == (1, 3, 1)


def test_times_follow_each_other(traced: Traced) -> None:
    traced.predict(SAMPLED)
    spans = by_name(eventually(lambda: traced.collector.spans(TRACE)))
    request, queue, batch = spans["tensorflow.serving.PredictionService/Predict"], spans["queue"], spans["batch"]
    assert request.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano
    assert queue.end_time_unix_nano == batch.start_time_unix_nano
    assert batch.start_time_unix_nano == spans["join"].start_time_unix_nano
    assert spans["join"].end_time_unix_nano == spans["run"].start_time_unix_nano
    assert spans["split"].end_time_unix_nano == batch.end_time_unix_nano


def test_over_rest(traced: Traced) -> None:
    answer = traced.rest.post("predict", ROW, traceparent=SAMPLED)
    assert answer.status == 200
    spans = by_name(eventually(lambda: traced.collector.spans(TRACE)))
    assert spans["POST"].parent_span_id.hex() == SPAN
    assert attributes(spans["POST"]) == {
        "http.request.method": "POST",
        "url.path": "/v1/models/model:predict",
        "http.response.status_code": 200,
    }
    assert {"queue", "batch", "run"} <= spans.keys()


def test_the_states_of_other_tracing_systems(traced: Traced) -> None:
    traced.predict(SAMPLED, ("tracestate", "rojo=1,congo=2"))
    spans = eventually(lambda: traced.collector.spans(TRACE))
    assert {span.trace_state for span in spans} == {"rojo=1,congo=2"}
    traced.collector.clear()
    answer = traced.rest.post("predict", ROW, traceparent=SAMPLED, tracestate="rojo=1")
    assert answer.status == 200
    spans = eventually(lambda: traced.collector.spans(TRACE))
    assert {span.trace_state for span in spans} == {"rojo=1"}


def test_a_span_says_whether_its_parent_is_remote(traced: Traced) -> None:
    traced.predict(SAMPLED)
    spans = by_name(eventually(lambda: traced.collector.spans(TRACE)))
    remote = {name for name, span in spans.items() if span.flags & 0x200}
    assert remote == {"tensorflow.serving.PredictionService/Predict"}
    assert all(span.flags & 0x100 for span in spans.values())


def test_plain_calls_are_recorded_without_python(
    traced: Traced, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def begin(self: Tracer, parent: str, state: str, *, marked: bool) -> None:
        del self, state, marked
        begun.append(parent)

    monkeypatch.setattr(Tracer, "begin", begin)
    traced.predict(SAMPLED)
    traced.rest.post("predict", ROW, traceparent=SAMPLED)
    if transport == "native":
        eventually(lambda: len([span for span in traced.collector.spans(TRACE) if span.name == "run"]) == 2)
        assert begun == []
    else:
        assert begun == [SAMPLED, SAMPLED]


def test_calls_that_run_one_by_one(running: Run, collector: Collector) -> None:
    server = running(models.doubled_scalar, trace_endpoint=collector.endpoint, trace_ratio=1.0)
    server.caller.predict({"x": np.array(3, np.float32)})
    spans = by_name(eventually(lambda: collector.spans()))
    assert spans["batch"].parent_span_id == spans["queue"].span_id
    assert attributes(spans["batch"])["headrace.batch.requests"] == 1


def test_a_call_whose_caller_has_given_up_has_no_batch(running: Run, collector: Collector) -> None:
    options = Options(num_batch_threads=1, max_batch_size=4, batch_timeout_micros=10_000_000)
    server = running(models.linear, trace_endpoint=collector.endpoint, trace_ratio=1.0, batching=options)
    assert server.caller.refusal(predict_request({"x": X}), timeout=0.1).code is grpc.StatusCode.DEADLINE_EXCEEDED
    tracer = server._server._tracer
    assert tracer is not None
    eventually(lambda: tracer.waiting)
    server.stop()
    (span,) = collector.spans()
    code = attributes(span)["rpc.grpc.status_code"]
    # The deadline and the caller's cancellation reach the server at the same time.
    assert code in (Code.DEADLINE_EXCEEDED, Code.CANCELLED)
    assert (span.status.code == 2) == (code == Code.DEADLINE_EXCEEDED)


def test_a_batch_is_linked_from_each_of_its_requests(traced: Traced) -> None:
    other = TRACE.replace("0af", "1bf")
    parents = [SAMPLED, SAMPLED.replace(TRACE, other)]
    with ThreadPoolExecutor(2) as pool:  # a request waits up to 200 ms for the other one
        list(pool.map(traced.predict, parents))
    eventually(lambda: traced.collector.spans(TRACE) and traced.collector.spans(other))
    first, second = (by_name(traced.collector.spans(trace))["batch"] for trace in (TRACE, other))
    assert attributes(first)["headrace.batch.requests"] == 2
    if first.links or second.links:  # there are no links if the requests came too far apart
        assert {link.span_id for span in (first, second) for link in span.links} <= {first.span_id, second.span_id}


def test_a_refused_call_has_a_span_without_a_batch(traced: Traced) -> None:
    request = predict_request({"y": X}).SerializeToString()
    traced.server.caller.send_bytes(PREDICT, request, metadata=(("traceparent", SAMPLED),))
    (span,) = eventually(lambda: traced.collector.spans(TRACE))
    assert attributes(span)["rpc.grpc.status_code"] == int(Code.INVALID_ARGUMENT)
    assert span.status.code == 0  # the error is the caller's


def test_requests_that_are_not_sampled_have_no_spans(traced: Traced) -> None:
    traced.predict(NOT_SAMPLED)
    traced.predict("no traceparent")
    traced.server.caller.predict({"x": X})
    traced.predict(SAMPLED)
    eventually(lambda: traced.collector.spans(TRACE))
    assert {span.trace_id.hex() for span in traced.collector.spans()} == {TRACE}
    assert [span.name for span in traced.collector.spans()].count("batch") == 1


def test_a_caller_cannot_mark_a_call_itself(traced: Traced, transport: str) -> None:
    request = predict_request({"x": X}).SerializeToString()
    traced.server.caller.send_bytes(PREDICT, request, metadata=(("headrace-traced", "1"),))
    traced.predict(SAMPLED)
    eventually(lambda: traced.collector.spans(TRACE))
    assert {span.trace_id.hex() for span in traced.collector.spans()} == {TRACE}, transport


def test_a_share_of_the_calls_without_a_parent(running: Run, collector: Collector) -> None:
    server = running(models.linear, trace_endpoint=collector.endpoint, trace_ratio=1.0)
    for _ in range(3):
        server.caller.predict({"x": X})
    eventually(lambda: len([span for span in collector.spans() if span.name.endswith("Predict")]) == 3)
    assert len({span.trace_id for span in collector.spans()}) == 3


def test_the_name_of_the_service(running: Run, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "digits-in-production")
    server = running(models.linear, trace_endpoint=collector.endpoint, trace_ratio=1.0)
    server.caller.predict({"x": X})
    eventually(lambda: "digits-in-production" in collector.services())


def test_ended_spans_are_sent_before_the_server_ends(running: Run, collector: Collector) -> None:
    server = running(models.linear, trace_endpoint=collector.endpoint, trace_ratio=1.0)
    server.caller.predict({"x": X})
    server.stop()
    assert [span.name for span in collector.spans()].count("run") == 1


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exporter:
        """Sends nothing before it is shut down."""

        def __init__(self) -> None:
            self.closed = Event()
            self.ended: list[bool] = []

        def export(self, spans: EncodedSpans) -> None:
            del spans
            self.ended.append(self.closed.wait(START_WITHIN))

        def shutdown(self) -> None:
            self.closed.set()

    monkeypatch.setattr(traces, "LAST_WITHIN", 0.01)
    kinds, exporter = SpanKinds(), Exporter()
    tracer = Tracer(Sampler(1.0, 100.0), SpanMaker(kinds), exporter)
    trace = tracer.begin("", "", marked=True)
    assert trace is not None
    tracer.end(trace)
    tracer.start()
    tracer.stop()
    eventually(lambda: exporter.ended)
    assert exporter.ended == [True]


def test_an_exporter_that_waits_for_its_call_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old versions of OpenTelemetry's exporter, such as 1.27, wait even during a shutdown."""

    class Exporter:
        """Ends when the test ends."""

        def __init__(self) -> None:
            self.over = Event()
            self.closed: list[bool] = []

        def export(self, spans: EncodedSpans) -> None:
            del spans
            self.over.wait(START_WITHIN)

        def shutdown(self) -> None:
            self.closed.append(self.over.wait(START_WITHIN))

    monkeypatch.setattr(traces, "LAST_WITHIN", 0.01)
    exporter = Exporter()
    tracer = Tracer(Sampler(1.0, 100.0), SpanMaker(SpanKinds()), exporter)
    trace = tracer.begin("", "", marked=True)
    assert trace is not None
    tracer.end(trace)
    tracer.start()
    tracer.stop()
    exporter.over.set()
    eventually(lambda: exporter.closed)
    assert exporter.closed == [True]


def test_nothing_is_recorded_without_an_endpoint(running: Run) -> None:
    server = running(models.linear)
    assert server._server._tracer is None
    assert server._server._metrics.listen is None


def test_an_endpoint_that_is_not_a_url(tmp_path: Any) -> None:
    text = "--trace_endpoint must be a URL such as http://localhost:4317; was 'localhost:4317'"
    with pytest.raises(ServingError, match=re.escape(text)):
        Server(Config(model_base_path=str(tmp_path), trace_endpoint="localhost:4317"))
