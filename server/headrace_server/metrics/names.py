"""The names of all counters and histograms, and the buckets of each histogram."""

from collections.abc import Collection, Iterable, Mapping

from headrace_server.metrics.counting import Counter, Histogram, growing
from headrace_server.metrics.exposition import page
from headrace_server.metrics.series import Family, Gauges, counters, histograms

# TF Serving's servables/tensorflow/util.cc, batching_session.cc and batching_util.h have names and buckets.
LATENCY = growing(10, 1.8, 33)
QUEUING = growing(100, 1.2, 52)
SIZES = growing(1, 2, 14)
LOADING = growing(1000, 2, 16)
EXAMPLES = growing(1, 2, 15)

SERVABLE = ("model_name", "version")

MODEL = ("model_name", "model")
"""The labels that may hold a model's name: TF Serving calls it one or the other, depending on the metric."""

DEVICE = ("device", "uuid")

SIZES_SHOWN = 100
"""The maximum number of batch sizes in `padding_size`; callers choose the sizes if none are configured."""

PARTS = ("join", "run", "split")
"""The parts of a batch's run: join inputs, run the model, split outputs (the native transport also encodes them)."""

WARMUPS_SHOWN = 1000
"""The maximum number of warm-ups that are shown, the newest: over months, a server loads more and more versions."""


class Families:
    """Every family of series that one server counts; latencies and delays are in microseconds. Any thread."""

    def __init__(self) -> None:
        serving, batching, ours = "/tensorflow/serving/", "/tensorflow/serving/batching_session/", "/headrace/"
        self._families: list[Family[Counter] | Family[Histogram]] = []
        self.request_count = self._counters(f"{serving}request_count", "model_name", "status")
        self.request_latency = self._histograms(f"{serving}request_latency", LATENCY, "model_name", "API", "entrypoint")
        self.example_counts = self._histograms(f"{serving}request_example_counts", EXAMPLES, "model")
        self.example_count_total = self._counters(f"{serving}request_example_count_total", "model")
        self.runtime_latency = self._histograms(f"{serving}runtime_latency", LATENCY, "model_name", "API", "runtime")
        self.queuing_latency = self._histograms(f"{batching}queuing_latency", QUEUING, "thread_pool_name")
        self.wrapped_run_count = self._counters(f"{batching}wrapped_run_count")
        self.input_batch_size = self._histograms(f"{batching}input_batch_size", SIZES)
        self.processed_batch_size = self._histograms(f"{batching}processed_batch_size", SIZES)
        self.padding_size = self._histograms(
            f"{batching}padding_size", SIZES, "execution_batch_size", limit=SIZES_SHOWN
        )
        warmup = ("model_path", "status")
        self.warmup_latency = self._histograms(f"{serving}model_warmup_latency", LATENCY, *warmup, limit=WARMUPS_SHOWN)
        self.warmup_records_read = self._counters(f"{serving}model_warmup_records_read", *warmup, limit=WARMUPS_SHOWN)
        self.request_log_count = self._counters(f"{serving}request_log_count", "model_name", "status_code")
        self.grpc_calls = self._counters(f"{ours}grpc_calls", "method", "model_name", "code")
        self.grpc_latency = self._histograms(f"{ours}grpc_latency", LATENCY, "method", "model_name", "code")
        self.rest_calls = self._counters(f"{ours}rest_calls", "method", "model_name", "code")
        self.rest_latency = self._histograms(f"{ours}rest_latency", LATENCY, "method", "model_name", "code")
        self.batch_rows = self._histograms(f"{ours}batch_rows", SIZES, *SERVABLE)
        self.batch_latency = self._histograms(f"{ours}batch_latency", LATENCY, *SERVABLE)
        self.batch_parts = self._histograms(f"{ours}batch_parts", LATENCY, *SERVABLE, "part")
        self.batch_failures = self._counters(f"{ours}batch_failures", *SERVABLE)
        self.worker_restarts = self._counters(f"{ours}worker_restarts", *SERVABLE)
        self.padding_rows = self._counters(f"{ours}padding_rows", *SERVABLE)
        self.queue_delay = self._histograms(f"{ours}queue_delay", QUEUING, *SERVABLE)
        self.model_load_wait = self._histograms(f"{ours}model_load_wait", LOADING, "model_name")
        self.model_evictions = self._counters(f"{ours}model_evictions", "model_name")
        self.store_fetched_bytes = self._counters(f"{ours}store_fetched_bytes", "model_name")
        self.store_failures = self._counters(f"{ours}store_failures", "model_name")
        self.refusals = self._counters(f"{ours}refusals", *SERVABLE, "reason")

    def page(self, gauges: Iterable[Gauges] = ()) -> bytes:
        """The page that Prometheus scrapes.

        Args:
            gauges: The values that are read again for each page.
        """
        return page((*(family for family in self._families if family is not self.batch_parts), *gauges))

    def read_counter(self, path: str) -> int:
        """The value of the first cell (set of labels) of the counter with this name; 0 if there is no such counter.

        TF Serving's model_service_impl.cc reads it for the metrics of a ReloadConfigRequest.
        """
        family = next((family for family in self._families if family.path == path), None)
        first = family.first() if family else None
        return first.value if isinstance(first, Counter) else 0

    def forget(self, model: str, labels: Mapping[str, str] = {}) -> None:
        """Drops all series of a model with these labels, whichever label holds the model's name."""
        for family in self._families:
            family.forget(model, labels)

    def keep(self, models: Collection[str]) -> None:
        """Drops all series of all other models."""
        for family in self._families:
            family.keep(models)

    def _counters(self, path: str, *labels: str, limit: int | None = None) -> Family[Counter]:
        family = counters(path, *labels, limit=limit, group=_model_label(labels))
        self._families.append(family)
        return family

    def _histograms(
        self, path: str, buckets: tuple[float, ...], *labels: str, limit: int | None = None
    ) -> Family[Histogram]:
        family = histograms(path, buckets, *labels, limit=limit, group=_model_label(labels))
        self._families.append(family)
        return family


def _model_label(labels: Collection[str]) -> str:
    return next((label for label in labels if label in MODEL), "")
