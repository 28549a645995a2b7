"""Traces: spans of sampled requests, made after the answer on a thread of their own, for an OpenTelemetry collector."""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from threading import Event, Lock, Thread

from headrace_batching import BatchReport
from headrace_server.config.run import Config
from headrace_server.metrics.series import Labels
from headrace_server.models.trace import Trace
from headrace_server.monitoring.sampling import Parent, Sampler
from headrace_server.monitoring.spans import Batch, Ran, SpanMaker, otlp_exporter

log = logging.getLogger(__name__)

SECONDS = 0.25
"""Between two looks at what has ended."""

PATIENCE = 5.0
"""Seconds after the end of a request for which its batches are waited for: a failed task has none."""

WAITING = 4096
"""Traces that may wait to be sent; one more is dropped."""


def make_tracer(config: Config, *, marked: bool) -> "Tracer | None":
    """What a configuration asks for; None for no traces.

    Args:
        config: What the server is told.
        marked: Whether the transport decides which requests are traced, and marks them.

    Raises:
        ServingError: As for `otlp_exporter`.
    """
    if not config.trace_endpoint:
        return None
    spans = SpanMaker(otlp_exporter(config.trace_endpoint))
    return Tracer(None if marked else Sampler(config.trace_ratio, config.trace_rate), spans)


class Tracer:
    """Takes note of traced requests and of the batches that ran meanwhile, and puts them together later.

    Args:
        sampler: Says which requests are traced; None where the transport has marked them.
        spans: Makes spans and sends them, on the tracer's own thread.
        clock: In seconds, that of the queues.
    """

    def __init__(self, sampler: Sampler | None, spans: SpanMaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._sampler = sampler
        self._spans = spans
        self._clock = clock
        self._lock = Lock()
        self._open = 0
        self._ended: list[Trace] = []
        self._reports: deque[tuple[Labels, BatchReport]] = deque()
        self._known: dict[float, Batch] = {}
        self._due = Event()
        self._stopping = False
        self._thread: Thread | None = None
        self.dropped = 0

    def begin(self, header: str, *, marked: bool) -> Trace | None:
        """A request has come; None where it is not traced.

        Args:
            header: Its `traceparent`; empty for none.
            marked: Whether the transport has decided that it is.
        """
        parent = Parent.of(header) if header else None
        if not (marked if self._sampler is None else self._sampler.takes(parent)):
            return None
        with self._lock:
            if self._open >= WAITING:
                self.dropped += 1
                return None
            self._open += 1
        if parent is None:
            return Trace(random.getrandbits(128) or 1, 0)
        return Trace(parent.trace_id, parent.span_id)

    def end(self, trace: Trace) -> None:
        """A traced request has been answered."""
        trace.ended = self._clock()
        with self._lock:
            self._ended.append(trace)

    def ran(self, version: Labels, report: BatchReport) -> None:
        """A batch has run. On a batch thread; costs a look at a number while no request is traced."""
        if self._open:
            self._reports.append((version, report))

    def start(self) -> None:
        """Sends spans from now on."""
        self._thread = Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sends what has ended, and nothing any more."""
        self._stopping = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()
        self._spans.close()

    def flush(self) -> None:
        """Sends the requests whose batches are known, or will not be. On the tracer's thread."""
        with self._lock:
            ended, self._ended = self._ended, []
        self._learn(ended)
        whole: list[Trace] = []
        waiting: list[Trace] = []
        for trace in ended:
            (whole if self._is_whole(trace) else waiting).append(trace)
        with self._lock:
            self._ended += waiting
            self._open -= len(whole)
            idle = not self._open
        if whole:
            self._spans.send([Ran(trace, self._batches(trace)) for trace in whole])
        if idle:
            self._reports.clear()
            self._known.clear()

    def _run(self) -> None:
        while True:
            self._due.wait(SECONDS)
            try:
                self.flush()
            except Exception:  # a collector that cannot be reached must not end the thread
                log.exception("traces could not be sent")
            if self._stopping:
                return

    def _learn(self, ended: Iterable[Trace]) -> None:
        """Finds the batches of tasks that have arrived, in the reports that have come."""
        wanted = {arrival for trace in ended for arrival in trace.arrivals}
        kept: deque[tuple[Labels, BatchReport]] = deque()
        oldest = self._clock() - PATIENCE
        for _ in range(len(self._reports)):
            version, report = self._reports.popleft()
            found = wanted.intersection(report.arrivals)
            if found:
                batch = Batch(version, report)
                self._known.update(dict.fromkeys(found, batch))
            elif report.began + report.ran > oldest:
                kept.append((version, report))  # its request may not have ended yet
        self._reports.extendleft(reversed(kept))

    def _is_whole(self, trace: Trace) -> bool:
        known = all(arrival in self._known for arrival in trace.arrivals)
        return known or self._stopping or self._clock() - trace.ended > PATIENCE

    def _batches(self, trace: Trace) -> Mapping[float, Batch]:
        return {arrival: self._known[arrival] for arrival in trace.arrivals if arrival in self._known}
