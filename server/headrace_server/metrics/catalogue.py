"""All metrics of one server: the families, the code that counts, and the values that are read for each page."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from threading import Lock

from headrace_batching import Beliefs
from headrace_server.metrics import gpus as nvml
from headrace_server.metrics.calls import GrpcMethod, RestCalls
from headrace_server.metrics.exposition import unhurried
from headrace_server.metrics.heap import read_memory
from headrace_server.metrics.names import DEVICE, SERVABLE, Families
from headrace_server.metrics.series import Gauges, Labels
from headrace_server.metrics.versions import Listen, Now, ServableMetrics

OTHER = "(other)"
"""The label of all models that are neither configured nor loaded, since callers may invent any number of names."""

NOTHING = Now()
"""The state of a version that never waits and never runs."""

AS_EXPECTED = "independent"
"""The usual verdict on a signature's rows; it is shown only for versions that have been called."""

READINGS: Mapping[str, nvml.Reading] = {
    "utilization": nvml.utilization,
    "memory_used_bytes": nvml.memory_used,
    "memory_total_bytes": nvml.memory_total,
    "power_milliwatts": nvml.power,
    "temperature_celsius": nvml.temperature,
}
"""The values that are read from each GPU; the names of the metrics begin with `/headrace/gpu_`."""


class Metrics(Families):
    """All metrics of one server; latencies and delays are in microseconds. Any thread.

    Args:
        gpus: Reads the GPUs' metrics.

    Attributes:
        listen: Called for each run with a traced request, of the versions that are loaded from now on; None if
            there is no listener.
    """

    def __init__(self, gpus: nvml.Gpus | None = None) -> None:
        super().__init__()
        self._lock = Lock()
        self._servables: dict[Labels, ServableMetrics] = {}
        self._methods: list[GrpcMethod] = []
        self._rest: dict[str, RestCalls] = {}
        self._configured: Collection[str] = frozenset()
        self.listen: Listen | None = None
        self._known: set[str] = set()
        self._loaded: dict[str, set[str]] = {}
        self._gpus = gpus or nvml.Gpus()
        self.queue_rows = Gauges("/headrace/queue_rows", SERVABLE, self._rows_waiting)
        self.verdicts = Gauges("/headrace/batching_verdict", (*SERVABLE, "signature", "verdict"), self._verdicts)
        self.gpus = {name: self._device_gauges(name, reading) for name, reading in READINGS.items()}
        self.gpu_model_memory = Gauges(
            "/headrace/gpu_model_memory_bytes", (*SERVABLE, "device"), self._memory_on_devices
        )
        self.process_memory = Gauges("/headrace/process_memory_bytes", ("kind",), lambda: _by_kind(read_memory()))
        objective = (*SERVABLE, "signature")
        self.objective_times = Gauges("/headrace/objective_microseconds", (*objective, "kind"), self._objective_times)
        self.objective_rows = Gauges("/headrace/objective_batch_rows", objective, self._objective_rows)
        self._gauges: tuple[Gauges, ...] = (
            self.queue_rows,
            self.verdicts,
            self.objective_times,
            self.objective_rows,
            *self.gpus.values(),
            self.gpu_model_memory,
            self.process_memory,
        )

    def show(self, *gauges: Gauges) -> None:
        """Adds gauges to the page. Must be called before the page is first requested."""
        self._gauges += gauges

    def configure(self, models: Collection[str]) -> None:
        """Sets the configured models: only these, and those still loaded, have labels of their own. Any thread.

        The series of models that are no longer configured or loaded are dropped.
        """
        with self._lock:
            self._configured = frozenset(models)
        self._forget_unknown()

    def label(self, model: str) -> str:
        """The label of a model that a caller has named: OTHER unless it is known; empty if no model is named."""
        return model if model in self._known or not model else OTHER

    def page(self, gauges: Iterable[Gauges] = ()) -> bytes:
        """The page that Prometheus scrapes."""
        self.count_reports()
        return super().page((*self._gauges, *gauges))

    def read_counter(self, path: str) -> int:
        """See `Families`; first counts the runs that have not been counted yet."""
        self.count_reports()
        return super().read_counter(path)

    def grpc_method(self, service: str, method: str) -> GrpcMethod:
        """Counts the calls of one method over gRPC."""
        counts = GrpcMethod(self, self.label, service, method)
        self._methods.append(counts)
        return counts

    def fetched(self, model: str, size: int) -> None:
        """Counts bytes of a model that were fetched from its store."""
        self.store_fetched_bytes.of(model).add(size)

    def store_failed(self, model: str) -> None:
        """Counts a failed scan of a model's store."""
        self.store_failures.of(model).add()

    def load_waited(self, model: str, version: int, seconds: float) -> None:
        """Counts a call that has waited until its version was in memory."""
        del version  # the version is not a label, since the series would be dropped with it
        self.model_load_wait.of(model).observe(seconds * 1e6)

    def evicted(self, model: str, version: int) -> None:
        """Counts a version that is unloaded to make room for another."""
        del version
        self.model_evictions.of(model).add()

    def rest_call(self, model: str, verb: str, code: str, seconds: float) -> None:
        """Counts a call over REST that has ended, as in TF Serving's http_server.cc.

        Args:
            model: The model's name in the path; empty if the path has none.
            verb: The verb, such as `predict` or `infer`; empty for a call that does not run a model.
            code: The canonical status code's name.
            seconds: The time from the first byte to the answer.
        """
        self.rest_verb(verb)(model, code, seconds)

    def rest_verb(self, verb: str) -> RestCalls:
        """Counts the calls of one verb over REST; there are few verbs, and callers cannot invent any."""
        counts = self._rest.get(verb)
        return counts or self._rest.setdefault(verb, RestCalls(self, self.label, verb))

    def servable(
        self,
        model: str,
        version: int,
        now: Now = NOTHING,
    ) -> ServableMetrics:
        """Counts what one version does until it is closed.

        Args:
            model: The name of the model.
            version: The number of the version.
            now: Reports the version's current state.
        """
        own = ServableMetrics(self, model, version, now, self._closed)
        own.listen = self.listen
        with self._lock:
            self._servables[own.labels] = own
            self._loaded.setdefault(model, set()).add(str(version))
            self._known.add(model)
        return own

    def _closed(self, servable: Labels) -> None:
        model, version = servable
        with self._lock:
            self._servables.pop(servable, None)
            versions = self._loaded.get(model, set())
            versions.discard(version)
            gone = not versions and model not in self._configured
            if not versions:
                self._loaded.pop(model, None)
            if gone:
                self._known.discard(model)
        if gone:
            self.forget(model)
            for method in self._methods:
                method.forget(model)

    def _forget_unknown(self) -> None:
        """Drops the series of all models that are neither configured nor loaded."""
        with self._lock:
            self._known = {*self._configured, *self._loaded}
            shown = {*self._known, "", OTHER}
        self.keep(shown)
        for method in self._methods:
            method.keep(shown)

    def close(self) -> None:
        """Closes the access to the GPUs."""
        self._gpus.close()

    def _device_gauges(self, name: str, reading: nvml.Reading) -> Gauges:
        return Gauges(f"/headrace/gpu_{name}", DEVICE, partial(self._gpus.read, reading))

    def _memory_on_devices(self) -> Iterator[tuple[Labels, int]]:
        for own in self.every_servable():
            if own.now.on_devices is not dict:
                for device, size in own.now.on_devices().items():
                    yield (*own.labels, str(device)), size

    def _verdicts(self) -> Iterator[tuple[Labels, int]]:
        for own in self.every_servable():
            for signature, verdict in own.verdicts.items():
                if own.called or verdict != AS_EXPECTED:
                    yield (*own.labels, signature, verdict), 1

    def _objective_times(self) -> Iterator[tuple[Labels, int]]:
        for labels, beliefs in self._beliefs():
            times = {"objective": beliefs.objective.seconds, "latency": beliefs.latency, "wait": beliefs.target.wait}
            for kind, seconds in times.items():
                yield (*labels, kind), round(seconds * 1e6)

    def _objective_rows(self) -> Iterator[tuple[Labels, int]]:
        return ((labels, beliefs.target.size) for labels, beliefs in self._beliefs())

    def _beliefs(self) -> Iterator[tuple[Labels, Beliefs]]:
        for own in self.every_servable():
            for signature, beliefs in own.now.beliefs().items():
                yield (*own.labels, signature), beliefs

    def _rows_waiting(self) -> Iterator[tuple[Labels, int]]:
        for own in self.every_servable():
            rows = own.now.waiting()
            if rows or own.called:
                yield own.labels, rows

    def count_reports(self) -> None:
        """Counts the runs that have not been counted yet."""
        for own in self.every_servable():
            own.count_reports()

    def now(self, *labels: str) -> Now:
        """A function that returns a version's current state, given its model's name and its number."""
        with self._lock:
            found = self._servables.get(labels)
        return NOTHING if found is None else found.now

    def every_servable(self) -> Iterator[ServableMetrics]:
        """The counts of all loaded versions. Any thread."""
        with self._lock:
            every = list(self._servables.values())
        return unhurried(every)


def _by_kind(memory: Mapping[str, int]) -> Iterator[tuple[Labels, int]]:
    return (((kind,), size) for kind, size in memory.items())
