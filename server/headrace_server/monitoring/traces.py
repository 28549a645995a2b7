"""Traces: spans of sampled requests for an OpenTelemetry collector, created on a thread of their own."""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Event, Lock, Thread

from headrace_batching import BatchReport
from headrace_server.config.run import Config
from headrace_server.metrics.series import Labels
from headrace_server.models.trace import Attributes, Trace, TraceRecord
from headrace_server.monitoring.sampling import Parent, Sampler
from headrace_server.monitoring.spans import Batch, Ran, SpanMaker, otlp_exporter

log = logging.getLogger(__name__)

SECONDS = 0.5
"""Seconds between two batches of finished requests; a message to the collector takes half a millisecond of CPU."""

PATIENCE = 5.0
"""Seconds after the end of a request for which its batches are awaited; a failed task has none."""

WAITING = 4096
"""The maximum number of traces, and of reports, that may wait to be sent; further ones are dropped."""


def make_tracer(config: Config, *, marked: bool) -> "Tracer | None":
    """The tracer for a configuration; None for no traces.

    Args:
        config: The server's configuration.
        marked: Whether the transport decides which requests are traced, and marks them.

    Raises:
        ServingError: As for `otlp_exporter`.
    """
    if not config.trace_endpoint:
        return None
    spans = SpanMaker(otlp_exporter(config.trace_endpoint))
    return Tracer(None if marked else Sampler(config.trace_ratio, config.trace_rate), spans)


class Tracer:
    """Records traced requests and the batches that they ran in, and combines them later.

    Args:
        sampler: Decides which requests are traced; None if the transport marks them.
        spans: Creates and sends spans, on the tracer's own thread.
        clock: The queues' clock, in seconds.
    """

    def __init__(self, sampler: Sampler | None, spans: SpanMaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._sampler = sampler
        self._spans = spans
        self._clock = clock
        self._take: Callable[[], Sequence[TraceRecord]] = tuple
        self._lock = Lock()
        self._ended: list[Trace] = []
        self._reports: deque[tuple[Labels, BatchReport]] = deque(maxlen=WAITING)
        self._known: dict[float, Batch] = {}
        self._due = Event()
        self._stopping = False
        self._thread: Thread | None = None

    def begin(self, parent: str, state: str, *, marked: bool) -> Trace | None:
        """Records that a request has arrived; None if it is not traced.

        Args:
            parent: Its `traceparent`; empty if there is none.
            state: Its `tracestate`; empty if there is none.
            marked: Whether the transport has decided that it is traced.
        """
        caller = Parent.of(parent) if parent else None
        if not (marked if self._sampler is None else self._sampler.takes(caller)):
            return None
        return Trace(_new_id()) if caller is None else Trace(caller.trace_id, caller.span_id, state)

    def end(self, trace: Trace) -> None:
        """Records that a traced request has been answered."""
        trace.ended = self._clock()
        with self._lock:
            if len(self._ended) < WAITING:
                self._ended.append(trace)

    def follow(self, take: Callable[[], Sequence[TraceRecord]]) -> None:
        """Also sends the requests that a transport has recorded by itself, which `take` returns, each once."""
        self._take = take

    def ran(self, version: Labels, report: BatchReport) -> None:
        """Records that a batch with a traced request has run. On its batch thread."""
        self._reports.append((version, report))

    def start(self) -> None:
        """Starts sending spans."""
        self._thread = Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sends the remaining spans and stops."""
        self._stopping = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()
        self._spans.close()

    def flush(self) -> None:
        """Sends the requests whose batches are known, or never will be. On the tracer's thread."""
        with self._lock:
            ended, self._ended = self._ended, []
        ended += map(_recorded, self._take())
        # Reports are read last: a batch is reported as soon as its requests have been answered.
        self._learn()
        oldest = self._clock() - PATIENCE
        whole: list[Trace] = []
        waiting: list[Trace] = []
        for trace in ended:
            (whole if self._is_whole(trace, oldest) else waiting).append(trace)
        with self._lock:
            self._ended = waiting[:WAITING] + self._ended
        if whole:
            self._spans.send([self._with_batches(trace) for trace in whole])
        self._forget(oldest - PATIENCE)

    def _run(self) -> None:
        while True:
            self._due.wait(SECONDS)
            stopping = self._stopping
            try:
                self.flush()
            except Exception:  # an unreachable collector must not end the thread
                log.exception("traces could not be sent")
            if stopping:
                return

    def _learn(self) -> None:
        """Stores the batches that have been reported by the arrivals of their traced tasks."""
        for _ in range(len(self._reports)):
            version, report = self._reports.popleft()
            self._known.update(dict.fromkeys(report.traced, Batch(version, report)))

    def _forget(self, oldest: float) -> None:
        """Drops batches that ran before then, since no trace needs them any more."""
        while self._known:
            arrival = next(iter(self._known))
            if self._known[arrival].report.began > oldest:
                return
            del self._known[arrival]

    def _is_whole(self, trace: Trace, oldest: float) -> bool:
        known = all(arrival in self._known for arrival in trace.arrivals)
        return known or self._stopping or trace.ended < oldest

    def _with_batches(self, trace: Trace) -> Ran:
        found = ((arrival, self._known.pop(arrival, None)) for arrival in trace.arrivals)
        return Ran(trace, {arrival: batch for arrival, batch in found if batch is not None})


def _new_id() -> bytes:
    return random.randbytes(16)


def _recorded(record: TraceRecord) -> Trace:
    (trace_id, span_id, state), about, (began, ended, arrived) = record
    trace = Trace(trace_id or _new_id(), span_id, state, began)
    trace.ended = ended
    trace.name, trace.attributes, trace.error = _described(*about)
    trace.arrivals = () if arrived is None else (arrived,)
    return trace


@lru_cache(maxsize=1024)
def _described(is_http: bool, name: str, model: str, status: int | None) -> tuple[str, Attributes, bool]:
    """The name and the attributes of a span, and whether it is an error's."""
    trace = Trace(b"")
    if is_http:
        trace.is_http("POST", name, status)
    elif status is not None:
        trace.is_rpc(name, model, status)
    return trace.name, trace.attributes, trace.error
