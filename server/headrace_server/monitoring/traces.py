"""Traces: spans of sampled requests for an OpenTelemetry collector, created on a thread of their own."""

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
"""Seconds between two looks at requests that have ended."""

PATIENCE = 5.0
"""Seconds after the end of a request for which its batches are awaited; a failed task has none."""

WAITING = 4096
"""The most traces that may wait to be sent; further ones are dropped."""


def make_tracer(config: Config, *, marked: bool) -> "Tracer | None":
    """The tracer that a configuration asks for; None for no traces.

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
    """Records traced requests and the batches that ran meanwhile, and combines them later.

    Args:
        sampler: Decides which requests are traced; None if the transport marks them.
        spans: Creates and sends spans, on the tracer's own thread.
        clock: The queues' clock, in seconds.
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
        """Records that a request has arrived; None if it is not traced.

        Args:
            header: Its `traceparent`; empty if there is none.
            marked: Whether the transport has decided that it is traced.
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
        """Records that a traced request has been answered."""
        trace.ended = self._clock()
        with self._lock:
            self._ended.append(trace)

    def ran(self, version: Labels, report: BatchReport) -> None:
        """Records that a batch has run. On a batch thread; costs almost nothing while no request is traced."""
        if self._open:
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
            except Exception:  # an unreachable collector must not end the thread
                log.exception("traces could not be sent")
            if self._stopping:
                return

    def _learn(self, ended: Iterable[Trace]) -> None:
        """Finds the batches of tasks in the reports that have come, by the arrival of the tasks."""
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
