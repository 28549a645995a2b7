"""The names of all counters and histograms, and who counts what."""

import re
from bisect import bisect_left
from collections import Counter as CounterOf
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Protocol, TypeVar

import numpy as np

from headrace_batching import BatchingError, BatchReport, Closed, DeadlineExceeded, QueueFull
from headrace_server.metrics import gpus as nvml
from headrace_server.metrics.inferences import InferenceCounts, Inferences
from headrace_server.metrics.series import (
    Counter,
    Family,
    Gauges,
    Histogram,
    Labels,
    Tally,
    counters,
    growing,
    histograms,
    page,
    tally,
)

# TF Serving: servables/tensorflow/util.cc, batching_session.cc and batching_util.h have names and buckets.
LATENCY = growing(10, 1.8, 33)
QUEUING = growing(100, 1.2, 52)
SIZES = growing(1, 2, 14)
EXAMPLES = growing(1, 2, 15)

COUNTED = ("Predict", "Classify", "Regress")
"""The methods that TF Serving counts."""

RUNTIME = "TF1"
"""TF Serving's word for how a model runs, by which its users filter."""

SERVABLE = ("model_name", "version")

MODEL = ("model_name", "model")
"""The labels that hold a model's name; TF Serving has both."""

DEVICE = ("device", "uuid")

OTHER = "(other)"
"""The label of all models that are neither configured nor loaded: callers may invent names without end."""

SIZES_SHOWN = 100
"""Sizes of batches that `padding_size` tells apart; callers choose them where no sizes are configured."""

WARMUPS_SHOWN = 1000
"""Warm-ups that are shown, the newest ones: a server that runs for months loads new versions without end."""

REPORTS = 128
"""Runs that are counted together: one by one they would cost a third of what a small model's run does."""

Tallied = tuple[Tally, float]
"""Calls that have been answered, tallied by LATENCY, and how long they took together, in microseconds."""

T = TypeVar("T")


class CountCalls(Protocol):
    """Who counts the calls of one method."""

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """As `GrpcMethod.several`."""


class Metrics:
    """Everything that one server counts, latencies and delays in microseconds. Any thread.

    Args:
        gpus: What the GPUs are asked through.
    """

    def __init__(self, gpus: nvml.Gpus | None = None) -> None:
        serving, batching, ours = "/tensorflow/serving/", "/tensorflow/serving/batching_session/", "/headrace/"
        self._lock = Lock()
        self._servables: dict[Labels, ServableMetrics] = {}
        self._methods: list[GrpcMethod] = []
        self._configured: Collection[str] = frozenset()
        self._known: Collection[str] = frozenset()
        self._gpus = gpus or nvml.Gpus()
        self.request_count = counters(f"{serving}request_count", "model_name", "status")
        self.request_latency = histograms(f"{serving}request_latency", LATENCY, "model_name", "API", "entrypoint")
        self.example_counts = histograms(f"{serving}request_example_counts", EXAMPLES, "model")
        self.example_count_total = counters(f"{serving}request_example_count_total", "model")
        self.runtime_latency = histograms(f"{serving}runtime_latency", LATENCY, "model_name", "API", "runtime")
        self.queuing_latency = histograms(f"{batching}queuing_latency", QUEUING, "thread_pool_name")
        self.wrapped_run_count = counters(f"{batching}wrapped_run_count")
        self.input_batch_size = histograms(f"{batching}input_batch_size", SIZES)
        self.processed_batch_size = histograms(f"{batching}processed_batch_size", SIZES)
        self.padding_size = histograms(f"{batching}padding_size", SIZES, "execution_batch_size", limit=SIZES_SHOWN)
        warmup = ("model_path", "status")
        self.warmup_latency = histograms(f"{serving}model_warmup_latency", LATENCY, *warmup, limit=WARMUPS_SHOWN)
        self.warmup_records_read = counters(f"{serving}model_warmup_records_read", *warmup, limit=WARMUPS_SHOWN)
        self.request_log_count = counters(f"{serving}request_log_count", "model_name", "status_code")
        self.grpc_calls = counters(f"{ours}grpc_calls", "method", "model_name", "code")
        self.grpc_latency = histograms(f"{ours}grpc_latency", LATENCY, "method", "model_name", "code")
        self.batch_rows = histograms(f"{ours}batch_rows", SIZES, *SERVABLE)
        self.batch_latency = histograms(f"{ours}batch_latency", LATENCY, *SERVABLE)
        self.batch_failures = counters(f"{ours}batch_failures", *SERVABLE)
        self.padding_rows = counters(f"{ours}padding_rows", *SERVABLE)
        self.queue_delay = histograms(f"{ours}queue_delay", QUEUING, *SERVABLE)
        self.queue_rows = Gauges(f"{ours}queue_rows", SERVABLE, self._rows_waiting)
        self.refusals = counters(f"{ours}refusals", *SERVABLE, "reason")
        self.gpu_utilization = self._device_gauges("utilization", nvml.utilization)
        self.gpu_memory_used = self._device_gauges("memory_used_bytes", nvml.memory_used)
        self.gpu_memory_total = self._device_gauges("memory_total_bytes", nvml.memory_total)
        self.gpu_power = self._device_gauges("power_milliwatts", nvml.power)
        self.gpu_temperature = self._device_gauges("temperature_celsius", nvml.temperature)
        self.gpu_model_memory = Gauges(f"{ours}gpu_model_memory_bytes", (*SERVABLE, "device"), self._memory_on_devices)

    def configure(self, models: Collection[str]) -> None:
        """Says which models are configured: only they, and those still loaded, are told apart. Any thread.

        Series of a model that is neither any more are dropped.
        """
        with self._lock:
            self._configured = frozenset(models)
        self._forget_unknown()

    def label(self, model: str) -> str:
        """The label of a model that a caller has named: OTHER unless it is known, or empty, as where none is named."""
        return model if model in self._known or not model else OTHER

    def page(self) -> bytes:
        """What Prometheus scrapes."""
        self._count_reports()
        return page(family for family in vars(self).values() if isinstance(family, Family | Gauges))

    def read_counter(self, path: str) -> int:
        """The first cell of a counter by its name, as `/tensorflow/serving/request_count`; 0 for none of ours.

        TF Serving: model_service_impl.cc reads it for the metrics of a ReloadConfigRequest.
        """
        self._count_reports()
        for family in vars(self).values():
            if isinstance(family, Family) and family.path == path:
                first = family.first()
                return first.value if isinstance(first, Counter) else 0
        return 0

    def grpc_method(self, service: str, method: str) -> "GrpcMethod":
        """Who counts the calls of one method over gRPC."""
        counts = GrpcMethod(self, service, method)
        self._methods.append(counts)
        return counts

    def rest_call(self, model: str, verb: str, code: str, seconds: float) -> None:
        """Counts a call over REST that has ended. TF Serving: http_server.cc.

        Args:
            model: Its name as the path has it; empty where the path has none.
            verb: `predict`, `classify` or `regress`; empty for any other call.
            code: The canonical status code's name.
            seconds: From the first byte to the answer.
        """
        model = self.label(model)
        self.request_count.of(model, code).add()
        if code == "OK":
            self.request_latency.of(model, verb, "REST").observe(seconds * 1e6)

    def servable(
        self,
        model: str,
        version: int,
        waiting: Callable[[], int],
        on_devices: Callable[[], Mapping[int, int]] = dict,
    ) -> "ServableMetrics":
        """Who counts what one version does, until it is closed.

        Args:
            model: Its name.
            version: Its number.
            waiting: Gives the rows that wait in its queues.
            on_devices: Gives the bytes that it takes on each GPU, by its number.
        """
        own = ServableMetrics(self, model, version, waiting, on_devices)
        with self._lock:
            self._servables[own.labels] = own
            self._known = {*self._known, model}
        return own

    def forget(self, servable: Labels) -> None:
        """Drops all series of a version, by its labels."""
        with self._lock:
            self._servables.pop(servable, None)
        for family in vars(self).values():
            if isinstance(family, Family):
                family.forget(dict(zip(SERVABLE, servable, strict=True)))
        self._forget_unknown()

    def close(self) -> None:
        """Lets go of what GPUs are asked through."""
        self._gpus.close()

    def _forget_unknown(self) -> None:
        """Drops the series of all models that are neither configured nor loaded."""
        with self._lock:
            self._known = {*self._configured, *(model for model, _ in self._servables)}
            shown = {*self._known, "", OTHER}
        for family in vars(self).values():
            if isinstance(family, Family):
                for label in MODEL:
                    family.keep(label, shown)
        for method in self._methods:
            method.keep(shown)

    def _device_gauges(self, name: str, reading: nvml.Reading) -> Gauges:
        return Gauges(f"/headrace/gpu_{name}", DEVICE, partial(self._gpus.read, reading))

    def _memory_on_devices(self) -> Iterator[tuple[Labels, int]]:
        for own in self._every_servable():
            for device, size in own.on_devices().items():
                yield (*own.labels, str(device)), size

    def _rows_waiting(self) -> Iterator[tuple[Labels, int]]:
        for own in self._every_servable():
            yield own.labels, own.waiting()

    def _count_reports(self) -> None:
        for own in self._every_servable():
            own.count_reports()

    def _every_servable(self) -> "list[ServableMetrics]":
        with self._lock:
            return list(self._servables.values())


class GrpcMethod:
    """Counts the calls of one method. In one event loop.

    A call costs one look-up and one histogram: what else counts calls follows that histogram, or shows it again.
    """

    def __init__(self, metrics: Metrics, service: str, method: str) -> None:
        self._metrics = metrics
        self._name = f"{service}/{method}"
        self._method = method
        self._latencies: dict[Labels, Histogram] = {}

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """Counts a call that has ended, by its model's name and the name of its status code."""
        latency = self._latencies.get((model, code)) or self._find(model, code)
        latency.observe(seconds * 1e6)

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Counts calls that have ended alike, tallied by LATENCY; the total in microseconds. Any thread."""
        latency = self._latencies.get((model, code)) or self._find(model, code)
        latency.add(tally, total)

    def keep(self, models: Collection[str]) -> None:
        """Forgets what it knows of any other model: its series have been dropped. Any thread."""
        self._latencies = {labels: own for labels, own in list(self._latencies.items()) if labels[0] in models}

    def _find(self, named: str, code: str) -> Histogram:
        model = self._metrics.label(named)
        metrics, labels = self._metrics, (self._name, model, code)
        latency = metrics.grpc_latency.of(*labels)
        metrics.grpc_calls.of(*labels).follow(latency)
        if self._method in COUNTED:
            metrics.request_count.of(model, code).follow(latency)
            if code == "OK":
                metrics.request_latency.share(latency, model, self._method, "GRPC")
        if model == named:
            self._latencies[(model, code)] = latency
        return latency


class ServableMetrics:
    """Counts what one version does. Any thread.

    Attributes:
        labels: Its model's name and its number.
        waiting: Gives the rows that wait in its queues.
        on_devices: Gives the bytes that it takes on each GPU, by its number.
    """

    def __init__(
        self,
        metrics: Metrics,
        model: str,
        version: int,
        waiting: Callable[[], int],
        on_devices: Callable[[], Mapping[int, int]],
    ) -> None:
        self.labels = labels = (model, str(version))
        self.waiting = waiting
        self.on_devices = on_devices
        self._metrics = metrics
        self._model = model
        self._rows = metrics.batch_rows.of(*labels)
        self._latency = metrics.batch_latency.of(*labels)
        self._delay = metrics.queue_delay.of(*labels)
        self._padding = metrics.padding_rows.of(*labels)
        self._inferences = InferenceCounts()
        self._answers: dict[str, Histogram] = {}
        self._runs: list[Runs] = []
        self._tallied: dict[CountCalls, deque[Tallied]] = {}
        self._counting = Lock()  # who finds nothing left to count finds it counted
        self._closed = False

    def ran(self, api: str, seconds: float) -> None:
        """Counts a request that the model has answered."""
        self._answer(api).observe(seconds * 1e6)

    def answers(self, observe: "CountCalls") -> "Callable[[Tallied], None]":
        """Who takes note of plain Predicts that have been answered, which costs next to nothing; counted as runs are.

        Args:
            observe: Counts them as calls; the same for all of a transport's routes, of which there are ever more.
        """
        return self._tallied.setdefault(observe, deque()).append

    def runs(self, signature: "BatchCounts", *, batched: bool) -> "Runs":
        """Who counts the runs of one scheduler.

        Args:
            signature: Where they are counted, too.
            batched: Whether several requests may share a run: only such runs does TF Serving count.
        """
        runs = Runs(self, signature, batched=batched)
        self._runs.append(runs)
        return runs

    def _answer(self, api: str) -> Histogram:
        latency = self._answers.get(api)
        if latency is None:
            latency = self._answers[api] = self._metrics.runtime_latency.of(self._model, api, RUNTIME)
        return latency

    def examples(self, count: int) -> None:
        """Counts the Examples of a MultiInference. TF Serving: util.cc; it counts those of no other method."""
        self._metrics.example_counts.of(self._model).observe(count)
        self._metrics.example_count_total.of(self._model).add(count)

    def refused(self, error: BatchingError) -> None:
        """Counts a request that was turned away, by the name of its error, as in `queue_full`.

        One that is heard of when the version has gone brings none of its series back.
        """
        if self._closed:
            return
        if isinstance(error, QueueFull | DeadlineExceeded | Closed):
            self._inferences.failed()
        reason = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
        self._metrics.refusals.of(*self.labels, reason).add()

    def failed(self, report: BatchReport) -> None:
        """Counts a run that has failed, which is a failure and nothing else; one of a single request is its end."""
        self._metrics.batch_failures.of(*self.labels).add()
        if report.tasks <= 1:
            self._inferences.failed(report.waited + report.ran)

    def inferences(self) -> Inferences:
        """What the version has done until now."""
        self.count_reports()
        return self._inferences.counted

    def count_reports(self) -> None:
        """Counts the answers and the runs that have not been counted yet."""
        with self._counting:
            for observe, tallied in list(self._tallied.items()):
                if taken := _taken(tallied):
                    counted, total = _sum(taken)
                    observe.several(self._model, "OK", counted, total)
                    self._answer("Predict").add(counted, total)
            for runs in list(self._runs):
                runs.count()

    def count(self, reports: Sequence[BatchReport], *, batched: bool) -> None:
        """Counts runs that have not failed; `batched` as for `runs`."""
        waited, total = self._count(reports)
        if batched:
            self._count_batching_session(reports, waited, total)

    def _count(self, reports: Sequence[BatchReport]) -> tuple[Tally, float]:
        """Counts runs under the version's own names; how long their tasks waited, tallied, and the total."""
        rows = [report.rows for report in reports]
        ran = np.array([report.ran for report in reports]) * 1e6
        came = np.concatenate([report.arrivals for report in reports])
        waits = (np.repeat([report.began for report in reports], [len(r.arrivals) for r in reports]) - came) * 1e6
        waited, total = tally(waits, QUEUING), float(waits.sum())
        self._rows.add(tally(rows, SIZES), sum(rows))
        self._latency.add(tally(ran, LATENCY), float(ran.sum()))
        self._delay.add(waited, total)
        self._inferences.add(reports, total / 1e6)
        return waited, total

    def _count_batching_session(self, reports: Sequence[BatchReport], waited: Tally, total: float) -> None:
        metrics = self._metrics
        self._padding.add(sum(report.padding for report in reports))
        metrics.queuing_latency.of("").add(waited, total)
        metrics.wrapped_run_count.of().add(len(reports))
        sizes = np.concatenate([report.sizes for report in reports])
        metrics.input_batch_size.of().add(tally(sizes, SIZES), int(sizes.sum()))
        executed = [report.rows + report.padding for report in reports]
        metrics.processed_batch_size.of().add(tally(executed, SIZES), sum(executed))
        for (size, padding), runs in CounterOf((r.rows + r.padding, r.padding) for r in reports).items():
            metrics.padding_size.of(str(size)).add([(bisect_left(SIZES, padding), runs)], padding * runs)

    def close(self) -> None:
        """Counts what has run, for the series that are not the version's own, and drops those that are."""
        self.count_reports()
        self._closed = True
        self._metrics.forget(self.labels)


class Runs:
    """Counts the runs of one scheduler, when many have come or the counts are asked for. Any thread.

    Args:
        servable: The version's counts.
        signature: The signature's.
        batched: Whether several requests may share a run.
    """

    __slots__ = ("_batched", "_reports", "_servable", "_signature")

    def __init__(self, servable: ServableMetrics, signature: "BatchCounts", *, batched: bool) -> None:
        self._servable = servable
        self._signature = signature
        self._batched = batched
        self._reports: deque[BatchReport] = deque()

    def __call__(self, report: BatchReport) -> None:
        """Takes note of a run. The callers of the next one wait for this, so it does no more than it must."""
        if report.failed:
            self._servable.failed(report)
            return
        self._reports.append(report)
        if len(self._reports) >= REPORTS:
            self._servable.count_reports()

    def count(self) -> None:
        """Counts those that have not been counted yet; for the servable, which does so on one thread at a time."""
        if reports := _taken(self._reports):
            self._servable.count(reports, batched=self._batched)
            self._signature.add(reports)


def _sum(tallied: Sequence[Tallied]) -> Tallied:
    counted: CounterOf[int] = CounterOf()
    for buckets, _ in tallied:
        for bucket, calls in buckets:
            counted[bucket] += calls
    return list(counted.items()), sum(total for _, total in tallied)


def _taken(waiting: deque[T]) -> list[T]:
    """All of them, each once however many threads take them."""
    taken = []
    with suppress(IndexError):
        while True:
            taken.append(waiting.popleft())
    return taken


class BatchCounts:
    """Requests, rows and batches of one signature, with the batch sizes in powers of two. Any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests = 0
        self._rows = 0
        self._by_power: CounterOf[int] = CounterOf()

    def add(self, reports: Sequence[BatchReport]) -> None:
        """Counts batches that ran."""
        with self._lock:
            self._requests += sum(report.tasks for report in reports)
            self._rows += sum(report.rows for report in reports)
            self._by_power.update(report.rows.bit_length() for report in reports)

    def __str__(self) -> str:
        with self._lock:
            batches = self._by_power.total()
            mean = self._rows / batches if batches else 0.0
            sizes = ", ".join(f"{_range(power)}: {count}" for power, count in sorted(self._by_power.items()))
            return f"{self._requests} requests, {self._rows} rows in {batches} batches, mean {mean:.1f} rows ({sizes})"


def _range(power: int) -> str:
    low, high = (1 << power) >> 1, (1 << power) - 1
    return str(low) if low >= high else f"{low}-{high}"
