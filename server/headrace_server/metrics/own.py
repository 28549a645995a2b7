"""The server's own metrics in seconds and bytes, with explanations, as served at `/metrics`."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from headrace_server.metrics.catalogue import Metrics
from headrace_server.metrics.exposition import Metric, Samples, Source, page
from headrace_server.metrics.process import process_metrics
from headrace_server.metrics.series import Gauges, Labels

MICROSECONDS = 1e-6

_CALL = ("method", "model", "code")
_VERSION = ("model", "version")
_GRPC = 'protocol="grpc"'
_REST = 'protocol="rest"'

Numbers = Callable[[], Sequence[tuple[Labels, float]]]


def own_metrics(metrics: Metrics, threads: Callable[[], int]) -> tuple[Metric, ...]:
    """The metrics of calls, batches, versions, GPUs and the process.

    Args:
        metrics: The counters and histograms to read.
        threads: Returns the maximum number of batches that run at the same time.
    """
    return (
        *_of_calls(metrics),
        *_of_batches(metrics),
        *_of_load(metrics, threads),
        *_of_stores(metrics),
        *_of_gpus(metrics),
        *process_metrics(),
    )


def own_page(metrics: Metrics, explained: Sequence[Metric]) -> bytes:
    """The text of the metrics, including all runs so far."""
    metrics.count_reports()
    return page(explained)


def gauge(name: str, explanation: str, read: Numbers, labels: Sequence[str] = (), kind: str = "gauge") -> Metric:
    """A metric whose numbers are read when it is scraped.

    Args:
        name: The name, with its unit.
        explanation: A sentence without a full stop.
        read: Returns every series' labels and number. Any thread.
        labels: The names of the labels.
        kind: `gauge`, or `counter` for numbers that only grow.
    """
    return Metric(name, kind, explanation, [Source(Gauges(name, tuple(labels), read), labels)])


def info(name: str, explanation: str, facts: Mapping[str, str]) -> Metric:
    """A metric that is always 1; its labels hold the information."""
    values = tuple(facts.values())
    return gauge(name, explanation, lambda: [(values, 1)], tuple(facts))


def _of_calls(metrics: Metrics) -> Iterator[Metric]:
    yield Metric(
        "headrace_requests_total",
        "counter",
        "Finished calls, by protocol, method or verb, model and status code",
        [Source(metrics.grpc_calls, _CALL, [_GRPC]), Source(metrics.rest_calls, _CALL, [_REST])],
    )
    yield Metric(
        "headrace_request_seconds",
        "histogram",
        "Time from the arrival of a request to its answer",
        [
            Source(metrics.grpc_latency, _CALL, [_GRPC], MICROSECONDS),
            Source(metrics.rest_latency, _CALL, [_REST], MICROSECONDS),
        ],
    )
    yield _plain(
        "headrace_logged_requests_total",
        "Calls that were written to a request log, or could not be",
        metrics.request_log_count,
        ("model", "code"),
    )


def _of_batches(metrics: Metrics) -> Iterator[Metric]:
    yield Metric(
        "headrace_queue_seconds",
        "histogram",
        "Time that each request waited for its batch to begin",
        [Source(metrics.queue_delay, _VERSION, scale=MICROSECONDS)],
    )
    yield Metric(
        "headrace_batch_seconds",
        "histogram",
        "Time to join, run and split a batch",
        [Source(metrics.batch_latency, _VERSION, scale=MICROSECONDS)],
    )
    yield Metric(
        "headrace_batch_part_seconds",
        "histogram",
        "Time of each part of a batch: join inputs, run the model, split outputs (the native transport also encodes)",
        [Source(metrics.batch_parts, (*_VERSION, "part"), scale=MICROSECONDS)],
    )
    yield Metric(
        "headrace_batch_rows",
        "histogram",
        "The number of rows of each batch, without padding",
        [Source(metrics.batch_rows, _VERSION)],
    )
    counted = {
        "headrace_batch_failures_total": ("Runs that failed, including runs in halves", metrics.batch_failures),
        "headrace_padding_rows_total": ("Rows added to reach an allowed size", metrics.padding_rows),
        "headrace_worker_restarts_total": ("Worker processes that ended unexpectedly", metrics.worker_restarts),
    }
    for name, (explanation, family) in counted.items():
        yield _plain(name, explanation, family, _VERSION)
    yield _plain(
        "headrace_refusals_total",
        "Requests refused by a model's queue, by reason",
        metrics.refusals,
        (*_VERSION, "reason"),
    )
    yield Metric(
        "headrace_batching_verdict",
        "gauge",
        "Always 1; the label says whether a signature's requests share batches",
        [Source(metrics.verdicts, (*_VERSION, "signature", "verdict"))],
    )
    signature = (*_VERSION, "signature")
    yield Metric(
        "headrace_latency_objective_seconds",
        "gauge",
        "For a model with a latency objective, by kind: the objective, the measured latency at the objective's "
        "percentile, and how long the model's batches wait",
        [Source(metrics.objective_times, (*signature, "kind"), scale=1e-6)],
    )
    yield Metric(
        "headrace_latency_objective_batch_rows",
        "gauge",
        "The number of rows of a full batch of a model with a latency objective",
        [Source(metrics.objective_rows, signature)],
    )


def _of_load(metrics: Metrics, threads: Callable[[], int]) -> Iterator[Metric]:
    """The figures for an autoscaler: they rise before latency does."""

    def rows() -> int:
        return sum(own.now.waiting() for own in metrics.every_servable())

    def busy() -> int:
        return sum(own.now.running() for own in metrics.every_servable())

    yield Metric(
        "headrace_queue_rows",
        "gauge",
        "The number of rows that are waiting now",
        [Source(metrics.queue_rows, _VERSION)],
    )
    yield gauge(
        "headrace_batch_threads", "The number of batches that may run at the same time", lambda: [((), threads())]
    )
    yield gauge("headrace_batch_threads_busy", "The number of batches that are running now", lambda: [((), busy())])
    yield gauge(
        "headrace_batch_threads_busy_ratio",
        "Share of the batch threads that are running a batch now",
        lambda: [((), min(1.0, busy() / threads()))],
    )
    yield gauge(
        "headrace_queue_rows_per_busy_thread",
        "The number of rows that are waiting now, divided by the number of batches that are running now, or by 1",
        lambda: [((), rows() / max(1, busy()))],
    )


def _of_stores(metrics: Metrics) -> Iterator[Metric]:
    counted = {
        "headrace_store_fetched_bytes_total": ("Bytes of models fetched from stores", metrics.store_fetched_bytes),
        "headrace_store_failures_total": ("Failed scans of models' stores", metrics.store_failures),
    }
    for name, (explanation, family) in counted.items():
        yield _plain(name, explanation, family, ("model",))


def _of_gpus(metrics: Metrics) -> Iterator[Metric]:
    device = ("device", "uuid")
    units = {
        "utilization": ("headrace_gpu_utilization_ratio", "Share of the time in which a kernel ran", 0.01),
        "memory_used_bytes": ("headrace_gpu_memory_used_bytes", "Memory in use, by every process", 1.0),
        "memory_total_bytes": ("headrace_gpu_memory_bytes", "Total memory of the GPU", 1.0),
        "power_milliwatts": ("headrace_gpu_power_watts", "Power that the GPU draws", 0.001),
        "temperature_celsius": ("headrace_gpu_temperature_celsius", "Temperature of the GPU", 1.0),
    }
    for reading, (name, explanation, scale) in units.items():
        yield Metric(name, "gauge", explanation, [Source(metrics.gpus[reading], device, scale=scale)])
    yield Metric(
        "headrace_gpu_model_memory_bytes",
        "gauge",
        "Memory that a version uses on a GPU",
        [Source(metrics.gpu_model_memory, (*_VERSION, "device"))],
    )
    yield Metric(
        "headrace_process_memory_bytes",
        "gauge",
        "Memory of the process by kind: resident, and the used, free and mapped parts of C's heap",
        [Source(metrics.process_memory, ("kind",))],
    )


def _plain(name: str, explanation: str, family: Samples, labels: Sequence[str]) -> Metric:
    return Metric(name, "counter", explanation, [Source(family, labels)])
