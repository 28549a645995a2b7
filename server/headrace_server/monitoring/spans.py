"""Combines traced requests with the batches that they ran in, and encodes their spans.

Spans are copies of their kind's message with other IDs and times, which take a tenth of the time that OpenTelemetry's
SDK takes. `native/src/traces/` does the same without the interpreter, for servers on the native transport.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace_batching import BatchReport
from headrace_server.metrics.series import Labels
from headrace_server.models.trace import Trace
from headrace_server.monitoring.span_kinds import COUNTS, SpanKinds

SLICE = 16
"""The number of traces whose spans are created without a pause: batch threads may wait for a third of a millisecond."""

PAUSE = 0.001
"""Seconds between two slices."""

ENOUGH = 1 << 20
"""The size in bytes after which another message begins: collectors refuse messages of more than 4 MB."""

WAITING = 4096
"""The maximum number of requests that may wait for their batches; further ones are dropped."""


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


class SpanMaker:
    """Creates spans. One thread.

    Each request has a tree of spans: request > queue > batch > join, run, split. A batch with several traced requests
    has a span in each tree, and each of these links to the others.

    Args:
        kinds: The kinds of spans.
        pause: Lets other threads run, for a number of seconds.
    """

    def __init__(self, kinds: SpanKinds, pause: Callable[[float], None] = time.sleep) -> None:
        self._kinds = kinds
        self._pause = pause
        self._queue, *self._parts = map(kinds.part, ("queue", "join", "run", "split"))
        self._waiting: list[Trace] = []
        self._known: dict[float, Batch] = {}

    def encode(
        self,
        traces: Sequence[Trace],
        reports: Iterable[tuple[Labels, BatchReport]],
        oldest: float,
        oldest_batch: float,
    ) -> tuple[Sequence[tuple[bytes, int]], int]:
        """See `models.trace.Spans`."""
        for version, report in reports:
            self._known.update(dict.fromkeys(report.traced, Batch(version, report)))
        ended, self._waiting = [*self._waiting, *traces], []
        whole: list[Trace] = []
        for trace in ended:
            (whole if self._is_whole(trace, oldest) else self._waiting).append(trace)
        del self._waiting[WAITING:]
        # All trees are made first, since the spans of batches link to each other.
        trees = deque(_Tree(trace, self._known) for trace in whole)
        self._forget(oldest_batch)
        messages: list[tuple[bytes, int]] = []
        while trees:
            messages.append(self._message(trees))
        return messages, len(self._waiting)

    def _is_whole(self, trace: Trace, oldest: float) -> bool:
        return trace.ended < oldest or all(arrival in self._known for arrival in trace.arrivals)

    def _forget(self, oldest: float) -> None:
        """Drops batches that ran before this time: their traces have been written, or have not come in time."""
        while self._known:
            arrival = next(iter(self._known))
            if self._known[arrival].report.began > oldest:
                return
            del self._known[arrival]

    def _message(self, trees: "deque[_Tree]") -> tuple[bytes, int]:
        """Removes trees from the front and encodes their spans, until none is left or the message is large enough."""
        message = self._kinds.message()
        spans = message.resource_spans[0].scope_spans[0].spans
        size = encoded = 0
        while trees and size < ENOUGH:
            if encoded and encoded % SLICE == 0:
                self._pause(PAUSE)
            tree, before = trees.popleft(), len(spans)
            self._add(tree, _Writer(spans, tree.trace, self._kinds.offset))
            size += sum(span.ByteSize() for span in spans[before:])
            encoded += 1
        return message.SerializeToString(), len(spans)

    def _add(self, tree: "_Tree", writer: "_Writer") -> None:
        """Adds the spans of a request. Most of the time is spent here, so this does no more than necessary."""
        trace, request, add = tree.trace, _new_id(), writer.add
        kind = self._kinds.request(trace.name, trace.attributes, bool(trace.parent_id), trace.error)
        add(kind, request, trace.parent_id, trace.began, trace.ended)
        for arrival, batch, own in tree.batches:
            report, queue = batch.report, _new_id()
            began = report.began
            joined = began + report.joined
            times = (began, joined, joined + report.computed, began + report.ran)
            add(self._queue, queue, request, arrival, began)
            _tell(batch, add(self._kinds.batch(batch.version, report.failed), own, queue, began, times[-1]))
            for number, part in enumerate(self._parts):
                add(part, _new_id(), own, times[number], times[number + 1])


class _Tree:
    """A request and its batches, each with the time when the request joined its queue, and the ID of its span."""

    __slots__ = ("batches", "trace")

    def __init__(self, trace: Trace, known: dict[float, Batch]) -> None:
        self.trace = trace
        self.batches = [(arrival, known.pop(arrival), _new_id()) for arrival in trace.arrivals if arrival in known]
        for _, batch, own in self.batches:
            batch.spans.append((trace.trace_id, own))


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


def _tell(batch: Batch, span: Any) -> None:
    """Adds a batch's counts to its span, and links it to those in the traces of its other requests."""
    report = batch.report
    for name, count in zip(COUNTS, (report.tasks, report.rows, report.padding), strict=True):
        span.attributes.add(key=name).value.int_value = count
    if len(batch.spans) > 1:
        for trace_id, span_id in batch.spans:
            if span_id != span.span_id:
                span.links.add(trace_id=trace_id, span_id=span_id, flags=span.flags)


def _new_id() -> bytes:
    return random.randbytes(8)
