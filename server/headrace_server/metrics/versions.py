"""Counts what one version of a model does."""

import re
from bisect import bisect_left
from collections import Counter as CounterOf
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from headrace_batching import BatchingError, BatchReport, Beliefs, Closed, DeadlineExceeded, QueueFull
from headrace_server.metrics.calls import CountCalls, Tallied
from headrace_server.metrics.counting import Counter, Histogram, Tally, tally
from headrace_server.metrics.inferences import InferenceCounts, Inferences
from headrace_server.metrics.names import LATENCY, PARTS, QUEUING, SERVABLE, SIZES, Families
from headrace_server.metrics.runs import RunColumns
from headrace_server.metrics.series import Labels
from headrace_server.metrics.summary import BatchCounts

RUNTIME = "TF1"
"""TF Serving's name for how a model runs, which its users filter by."""

REPORTS = 128
"""The number of runs that are counted together: one by one, they would cost a third of a small model's run."""

Listen = Callable[[Labels, BatchReport], None]
"""Called for each run of a version, on its batch thread; must not wait or raise."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Now:
    """Functions that report a version's current state.

    Attributes:
        waiting: Returns the number of rows that wait in its queues.
        running: Returns the number of batches that are running now.
        on_devices: Returns the number of bytes that it uses on each GPU, by the GPU's number.
        beliefs: Returns the beliefs about each signature that has been called, by name; empty without an objective.
        count_runs: Reports the runs without the interpreter that have not been reported yet.
    """

    waiting: Callable[[], int] = int
    running: Callable[[], int] = int
    on_devices: Callable[[], Mapping[int, int]] = dict
    beliefs: Callable[[], Mapping[str, Beliefs]] = dict
    count_runs: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Series:
    """The counters and histograms that each run of a version changes."""

    rows: Histogram
    latency: Histogram
    delay: Histogram
    padding: Counter
    parts: Sequence[Histogram]


class ServableMetrics:
    """Counts what one version does. Any thread.

    Attributes:
        labels: The model's name and the version's number.
        now: Reports the version's current state.
        listen: Called for each run with a traced request; None if there is no listener.
        verdicts: For each signature, by name, a word that says whether its requests are batched.
    """

    def __init__(
        self,
        families: Families,
        model: str,
        version: int,
        now: Now,
        closed: Callable[[Labels], None],
    ) -> None:
        self.labels = (model, str(version))
        self.now = now
        self.verdicts: Mapping[str, str] = {}
        self.listen: Listen | None = None
        self._families = families
        self._tell_closed = closed
        self._model = model
        self._series: _Series | None = None
        self._inferences = InferenceCounts()
        self._answers: dict[str, Histogram] = {}
        self._runs: list[Runs] = []
        # Lists, since an empty deque takes 600 bytes, and each version has up to ten of them.
        self._tallied: dict[tuple[CountCalls, str], list[Tallied]] = {}
        self._counting = Lock()  # a caller that finds nothing left to count can be sure that all has been counted
        self._closed = False

    def ran(self, api: str, seconds: float) -> None:
        """Counts a request that the model has answered."""
        self._answer(api).observe(seconds * 1e6)

    def answers(self, observe: CountCalls, api: str) -> Callable[[Tallied], None]:
        """Returns a cheap function that records answered plain calls; they are counted together with runs.

        Args:
            observe: Counts the recorded calls; a transport passes the same function for all of its routes.
            api: The method's name.
        """
        return self._tallied.setdefault((observe, api), []).append

    def runs(self, signature: BatchCounts, *, batched: bool) -> "Runs":
        """Counts the runs of one scheduler.

        Args:
            signature: The signature that also counts them.
            batched: Whether several requests may share a run; TF Serving counts only such runs.
        """
        runs = Runs(self, signature, batched=batched)
        self._runs.append(runs)
        return runs

    @property
    def called(self) -> bool:
        """Whether the version has run anything; until then it has no series and no lines on the page."""
        return self._series is not None

    def _own_series(self) -> "_Series":
        """The counters with the version's labels, created for the first run."""
        if self._series is None:
            families = self._families
            every = (families.batch_rows, families.batch_latency, families.queue_delay)
            rows, latency, delay = (family.of(*self.labels) for family in every)
            parts = [families.batch_parts.of(*self.labels, part) for part in PARTS]
            self._series = _Series(rows, latency, delay, families.padding_rows.of(*self.labels), parts)
        return self._series

    def _answer(self, api: str) -> Histogram:
        latency = self._answers.get(api)
        if latency is None:
            latency = self._answers[api] = self._families.runtime_latency.of(self._model, api, RUNTIME)
        return latency

    def examples(self, count: int) -> None:
        """Counts the Examples of a MultiInference, as in TF Serving's util.cc; it counts those of no other method."""
        self._families.example_counts.of(self._model).observe(count)
        self._families.example_count_total.of(self._model).add(count)

    def refused(self, error: BatchingError) -> None:
        """Counts a refused request, by the name of its error, such as `queue_full`.

        A refusal that is reported after the version was unloaded does not bring its series back.
        """
        if self._closed:
            return
        if isinstance(error, QueueFull | DeadlineExceeded | Closed):
            self._inferences.failed()
        reason = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
        self._families.refusals.of(*self.labels, reason).add()

    def failed(self, report: BatchReport) -> None:
        """Counts a run that has failed. A single request is not run again, so it has then failed, too."""
        self._families.batch_failures.of(*self.labels).add()
        if report.tasks <= 1:
            self._inferences.failed(report.waited + report.ran)

    def ran_alone(self, seconds: float, *, failed: bool) -> None:
        """Counts a request that was answered, or failed, without a queue: by a generator, or by steps."""
        if failed:
            self._inferences.failed(seconds)
        else:
            self._inferences.ran_alone(seconds)

    def inferences(self) -> Inferences:
        """The version's counts so far."""
        self.count_reports()
        return self._inferences.counted

    def count_reports(self) -> None:
        """Counts the answers and the runs that have not been counted yet."""
        self.now.count_runs()
        self.count_recorded()

    def count_recorded(self) -> None:
        """Like `count_reports`, but leaves out runs without the interpreter, since more of them may end at any time."""
        left = any(self._tallied.values()) or any(runs.waiting for runs in self._runs)
        if not left and not self._counting.locked():
            return  # the usual case on a server with many versions
        with self._counting:
            for (observe, api), tallied in list(self._tallied.items()):
                if taken := _taken(tallied):
                    counted, total = _sum(taken)
                    observe.several(self._model, "OK", counted, total)
                    self._answer(api).add(counted, total)
            for runs in list(self._runs):
                runs.count()

    def count(self, runs: RunColumns, *, batched: bool) -> None:
        """Counts runs that have not failed; `batched` as for `runs`."""
        waited, total = self._count(runs)
        if batched:
            self._count_batching_session(runs, waited, total)

    def _count(self, runs: RunColumns) -> tuple[Tally, float]:
        """Counts runs under the version's own names: how long their tasks waited, by buckets, and the total."""
        waits = runs.waited * 1e6
        waited, total = tally(waits, QUEUING), float(waits.sum())
        series = self._own_series()
        series.rows.add(tally(runs.rows, SIZES), int(runs.rows.sum()))
        series.latency.add(tally(runs.ran * 1e6, LATENCY), float(runs.ran.sum()) * 1e6)
        series.delay.add(waited, total)
        micros = runs.parts * 1e6
        for part, each, spent in zip(series.parts, micros.T, micros.sum(axis=0).tolist(), strict=True):
            part.add(tally(each, LATENCY), spent)
        self._inferences.add(runs, total / 1e6)
        return waited, total

    def _count_batching_session(self, runs: RunColumns, waited: Tally, total: float) -> None:
        families = self._families
        self._own_series().padding.add(int(runs.padding.sum()))
        families.queuing_latency.of("").add(waited, total)
        families.wrapped_run_count.of().add(len(runs))
        families.input_batch_size.of().add(tally(runs.sizes, SIZES), int(runs.sizes.sum()))
        executed = runs.rows + runs.padding
        families.processed_batch_size.of().add(tally(executed, SIZES), int(executed.sum()))
        for size, padding, count in runs.padded():
            families.padding_size.of(str(size)).add([(bisect_left(SIZES, padding), count)], padding * count)

    def close(self) -> None:
        """Counts all runs in the series that versions share, and drops the version's own series."""
        self.count_reports()
        self._closed = True
        self._tell_closed(self.labels)
        self._families.forget(self._model, dict(zip(SERVABLE, self.labels, strict=True)))


class Runs:
    """Counts the runs of one scheduler once there are many, or when the counts are requested. Any thread.

    Args:
        servable: The version's counts.
        signature: The signature's counts.
        batched: Whether several requests may share a run.
    """

    __slots__ = ("_batched", "_columns", "_reports", "_servable", "_signature")

    def __init__(self, servable: ServableMetrics, signature: BatchCounts, *, batched: bool) -> None:
        self._servable = servable
        self._signature = signature
        self._batched = batched
        self._reports: list[BatchReport] = []
        self._columns: list[RunColumns] = []

    def __call__(self, report: BatchReport) -> None:
        """Records a run. The callers of the next run wait for this, so it does no more than necessary."""
        if report.traced and (listen := self._servable.listen) is not None:
            listen(self._servable.labels, report)
        if report.failed:
            self._servable.failed(report)
            return
        self._reports.append(report)
        if len(self._reports) >= REPORTS:
            self._servable.count_recorded()

    def add_native(self, times: bytes, tasks: bytes, padded: bytes, arrivals: bytes, sizes: bytes) -> None:
        """Records runs without the interpreter; the arguments are those of `RunColumns.of_native`."""
        self._columns.append(RunColumns.of_native(times, tasks, padded, arrivals, sizes))
        if sum(map(len, self._columns)) >= REPORTS:
            self._servable.count_recorded()

    @property
    def waiting(self) -> bool:
        """Whether some runs have not been counted yet."""
        return bool(self._reports or self._columns)

    def count(self) -> None:
        """Counts the runs that have not been counted yet; called by the servable, on one thread at a time."""
        columns = _taken(self._columns)
        if reports := _taken(self._reports):
            columns.append(RunColumns.of(reports))
        for runs in columns:
            self._servable.count(runs, batched=self._batched)
            self._signature.add(runs)


def _sum(tallied: Sequence[Tallied]) -> Tallied:
    counted: CounterOf[int] = CounterOf()
    for buckets, _ in tallied:
        for bucket, calls in buckets:
            counted[bucket] += calls
    return list(counted.items()), sum(total for _, total in tallied)


def _taken(waiting: list[T]) -> list[T]:
    """Removes and returns all items, the last one first; if several threads call this, each item is returned once."""
    taken: list[T] = []
    if not waiting:  # the usual case on a server with many versions
        return taken
    with suppress(IndexError):
        while True:
            taken.append(waiting.pop())
    return taken
