"""The data of the live page, read from counters that exist anyway: nothing is stored or computed for it beforehand."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

from headrace_batching import Options
from headrace_protos.tensor import dtype_name
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.config.run import Config
from headrace_server.errors import ServingError, status_of
from headrace_server.metrics.catalogue import Metrics
from headrace_server.metrics.counting import Histogram
from headrace_server.metrics.names import LATENCY, PARTS, QUEUING, SIZES
from headrace_server.metrics.process import read_process
from headrace_server.metrics.series import Family
from headrace_server.models.servable import Servable
from headrace_server.models.versions import VersionStatus
from headrace_server.services.page.options import options_in_force
from headrace_server.services.servables import Repository

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """The sources of the page.

    Attributes:
        config: The server's configuration.
        transport: The name of the transport.
        metrics: The server's metrics.
        models: The models and their versions.
        threads: The maximum number of batches that run at the same time.
        grpc_port: Returns the gRPC port; 0 if there is none.
        held: Returns the memory that the server uses for callers, as an object with the keys `kinds`, `limit` and
            `refusals`; None if it is not counted.
        more: Functions that return further facts about one version, given the model's name and the version's number.
    """

    config: Config
    transport: str
    metrics: Metrics
    models: Repository
    threads: int
    grpc_port: Callable[[], int] = int
    held: Callable[[], Json | None] = lambda: None
    more: Mapping[str, Callable[[str, int], Any]] = field(default_factory=dict)


class PageState:
    """Collects the data that the page shows. Any thread.

    Args:
        shown: The sources of the page.

    Attributes:
        options: The options in effect, which do not change while the server runs.
    """

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._constants = {
            "version": version("headrace"),  # takes about a millisecond
            "transport": shown.transport,
            "cpus": os.cpu_count(),
            "threads": shown.threads,
            "tls": {"grpc": bool(shown.config.ssl_config_file), "rest": bool(shown.config.rest_api_ssl_config_file)},
        }
        self._described: WeakKeyDictionary[Servable, Json] = WeakKeyDictionary()
        self.options = list(options_in_force(shown.config))

    def known(self, model: str) -> str:
        """The given name if a model has it, otherwise the first model's name; empty if there is no model."""
        return model if self._statuses(model) else next(iter(self._names()), "")

    def read(self, model: str) -> Json:
        """Everything that is shown: the server, a line for each model, and one model in detail.

        Args:
            model: The name of the model in detail; an unknown name shows none.
        """
        self._shown.metrics.count_reports()
        names = self._names()
        return {
            "time": time.time(),
            "server": self._server(),
            "process": read_process(),
            "memory": self._shown.held(),
            "gpus": self._gpus(),
            "models": [self._line(name) for name in names],
            "model": self._model(model) if model in names else None,
            "bounds": {"latency": LATENCY, "queue": QUEUING, "rows": SIZES},
        }

    def _server(self) -> Json:
        shown = self._shown
        return {
            **self._constants,
            "running": sum(own.now.running() for own in shown.metrics.every_servable()),
            "grpc_port": shown.grpc_port(),
        }

    def _names(self) -> list[str]:
        return sorted(name for name in self._shown.models.names() if self._statuses(name))

    def _statuses(self, name: str) -> list[VersionStatus]:
        """The versions that are loaded, are being loaded or unloaded, or have failed to load."""
        return [status for status in self._shown.models.statuses(name) if not status.has_ended_well]

    def _line(self, name: str) -> Json:
        """A model's line in the list of models: the states of its versions, and its calls so far."""
        metrics = self._shown.metrics
        calls = (*metrics.grpc_latency.of_group(name), *metrics.rest_latency.of_group(name))
        states = [[status.version, status.state.name] for status in self._statuses(name)]
        return {"name": name, "versions": states, "calls": sum(latency.count for _, latency in calls)}

    def _model(self, name: str) -> Json:
        metrics = self._shown.metrics
        protocols = {"gRPC": metrics.grpc_latency, "REST": metrics.rest_latency}
        calls = [
            {"protocol": protocol, "method": method.rpartition("/")[2], "code": code, **_counts(latency)}
            for protocol, family in protocols.items()
            for (method, _, code), latency in family.of_group(name)
        ]
        versions = [self._version(name, status) for status in self._statuses(name)]
        return {"name": name, "calls": calls, "versions": versions}

    def _version(self, name: str, status: VersionStatus) -> Json:
        said = {"version": status.version, "state": status.state.name}
        if status.error is not None:
            said["error"] = status_of(status.error)[1]
        try:
            with self._shown.models.servable(name, status.version) as servable:
                return {**said, **self._about(servable), **self._counted(name, status.version)}
        except ServingError:
            return said

    def _about(self, servable: Servable) -> Json:
        """The data about a loaded version. Only those about its latency objectives change while it is loaded."""
        described = self._described.get(servable)
        if described is None:
            described = self._described[servable] = _described(servable)
        beliefs = servable.beliefs()
        return {**described, "objectives": {signature: each.document() for signature, each in beliefs.items()}}

    def _counted(self, name: str, number: int) -> Json:
        metrics, labels = self._shown.metrics, (name, str(number))

        def read(family: Family[Histogram], *more: str) -> Json:
            found = family.find(*labels, *more)
            return {"counts": [], "sum": 0} if found is None else _counts(found)

        counters = {
            "padding": metrics.padding_rows,
            "failures": metrics.batch_failures,
            "restarts": metrics.worker_restarts,
        }
        refused, now = metrics.refusals.of_group(name), metrics.now(*labels)
        return {
            "waiting": now.waiting(),
            "running": now.running(),
            "gpu_memory": {str(device): size for device, size in now.on_devices().items()},
            "queue": read(metrics.queue_delay),
            "batch": read(metrics.batch_latency),
            "parts": {part: read(metrics.batch_parts, part) for part in PARTS},
            "rows": read(metrics.batch_rows),
            **{key: found.value if (found := family.find(*labels)) else 0 for key, family in counters.items()},
            "refusals": {reason: each.value for (_, own, reason), each in refused if own == str(number)},
            **{key: tell(name, number) for key, tell in self._shown.more.items()},
        }

    def _gpus(self) -> list[Json]:
        found: dict[tuple[str, ...], Json] = {}
        for name, gauges in self._shown.metrics.gpus.items():
            for labels, number in gauges.read():
                found.setdefault(labels, {"device": labels[0], "uuid": labels[1]})[name] = number
        return list(found.values())


def _described(servable: Servable) -> Json:
    """The data that do not change as long as a version is loaded."""
    options = servable.batching
    return {
        "runtime": servable.runtime,
        "signatures": [_signature(servable, name, each) for name, each in servable.signatures.items()],
        "batching": None if options is None else _batching(options),
    }


def _batching(options: Options) -> Json:
    # The queue's limit counts whole batches, all of which may be full.
    return {**asdict(options), "queue_rows": options.enqueued_limit * options.execution_limit}


def _signature(servable: Servable, name: str, signature: Signature) -> Json:
    verdict = servable.verdicts.get(name)
    return {
        "name": name,
        "method": signature.method_name,
        "inputs": _specs(signature.inputs),
        "optional": list(signature.optional),
        "outputs": _specs(signature.outputs),
        "batched": signature.batched and servable.batching is not None,
        "verdict": verdict.finding.value if verdict else "",
        "reason": verdict.reason if verdict else "",
        "advice": verdict.advice if verdict else "",
    }


def _specs(specs: Mapping[str, TensorSpec]) -> list[Json]:
    return [
        {
            "name": alias,
            "dtype": f"DT_{dtype_name(spec.dtype).upper()}",
            "shape": None if spec.any_rank else list(spec.shape),
            "text": str(spec),
        }
        for alias, spec in specs.items()
    ]


def _counts(histogram: Histogram) -> Json:
    """The number of values in each bucket, without empty buckets at the end, and the sum of all values."""
    counts, total = histogram.read()
    while counts and not counts[-1]:
        counts.pop()
    return {"counts": counts, "sum": total}
