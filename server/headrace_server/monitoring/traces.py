"""Traces: spans of sampled requests for an OpenTelemetry collector, created on a thread of their own."""

import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Event, Lock, Thread

from headrace_batching import BatchReport
from headrace_server.config.run import Config
from headrace_server.metrics.series import Labels
from headrace_server.models.trace import Spans, Trace
from headrace_server.monitoring.otlp import EncodedSpans, Exporter, otlp_exporter
from headrace_server.monitoring.sampling import Parent, Sampler
from headrace_server.monitoring.span_kinds import EncodedKinds, SpanKinds
from headrace_server.monitoring.spans import WAITING, SpanMaker
from headrace_server.transports.grpc.selection import make_spans

log = logging.getLogger(__name__)

SECONDS = 0.5
"""Seconds between two batches of finished requests; a message to the collector takes half a millisecond of CPU."""

PATIENCE = 5.0
"""Seconds after the end of a request for which its batches are awaited; a failed task has none."""

LAST_WITHIN = 1.0
"""Seconds that sending the last spans may take when the server stops, and that closing the exporter may then take."""


def make_tracer(config: Config, transport: str) -> "Tracer | None":
    """The tracer for a configuration; None means no traces.

    Args:
        config: The server's configuration.
        transport: The transport's name.

    Raises:
        ServingError: As for `otlp_exporter`.
    """
    if not config.trace_endpoint:
        return None
    exporter, kinds = otlp_exporter(config.trace_endpoint), SpanKinds()
    ratio, rate = config.trace_ratio, config.trace_rate
    spans = make_spans(transport, ratio, rate, EncodedKinds(kinds))
    if spans is not None:
        return Tracer(None, spans, exporter)
    return Tracer(Sampler(ratio, rate), SpanMaker(kinds), exporter)


class Tracer:
    """Records traced requests and the batches that they ran in, and sends their spans later.

    Args:
        sampler: Decides which requests are traced; None if the transport marks them.
        spans: Creates the spans, on the tracer's own thread.
        exporter: Sends the spans, on the same thread.
        clock: The queues' clock, in seconds.

    Attributes:
        spans: The object that creates the spans, as passed.
        waiting: The number of requests that wait for their batches.
    """

    def __init__(
        self, sampler: Sampler | None, spans: Spans, exporter: Exporter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.spans = spans
        self.waiting = 0
        self._sampler = sampler
        self._exporter = exporter
        self._clock = clock
        self._lock = Lock()
        self._ended: list[Trace] = []
        self._reports: deque[tuple[Labels, BatchReport]] = deque(maxlen=WAITING)
        self._due = Event()
        self._stopping = False
        self._thread: Thread | None = None

    def begin(self, parent: str, state: str, *, marked: bool) -> Trace | None:
        """Begins the trace of a request that has arrived; None if the request is not traced.

        Args:
            parent: The request's `traceparent`; empty if there is none.
            state: The request's `tracestate`; empty if there is none.
            marked: Whether the transport has decided that the request is traced.
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

    def ran(self, version: Labels, report: BatchReport) -> None:
        """Records that a batch with a traced request has run. On its batch thread."""
        self._reports.append((version, report))

    def start(self) -> None:
        """Starts sending spans."""
        self._thread = Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sends the remaining spans and stops; abandons them if the collector takes longer than `LAST_WITHIN`."""
        self._stopping = True
        self._due.set()
        if self._thread is not None:
            self._thread.join(LAST_WITHIN)
        # OpenTelemetry's exporter ends the call that it makes; old versions, such as 1.27, wait up to 30 s for it.
        closing = Thread(target=self._close, name="traces-end", daemon=True)
        closing.start()
        closing.join(LAST_WITHIN)

    def flush(self) -> None:
        """Sends the requests whose batches are known, or never will be. On the tracer's thread."""
        with self._lock:
            ended, self._ended = self._ended, []
        oldest = self._clock() - PATIENCE
        messages, self.waiting = self.spans.encode(
            ended, self._new_reports(), math.inf if self._stopping else oldest, oldest - PATIENCE
        )
        for message, count in messages:
            self._exporter.export(EncodedSpans(message, count))

    def _close(self) -> None:
        self._exporter.shutdown()
        if self._thread is not None:
            self._thread.join()

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

    def _new_reports(self) -> Iterator[tuple[Labels, BatchReport]]:
        """The reports since the last time; each is taken when it is asked for."""
        for _ in range(len(self._reports)):
            yield self._reports.popleft()


def _new_id() -> bytes:
    return random.randbytes(16)
