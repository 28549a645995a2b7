"""The pages that Prometheus may scrape, and the metrics that only the whole server knows."""

import logging
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from headrace_protos import MonitoringConfig
from headrace_server.config.files import read_text_proto
from headrace_server.config.run import Config
from headrace_server.metrics.catalogue import Metrics
from headrace_server.metrics.exposition import Metric
from headrace_server.metrics.own import Numbers, gauge, info
from headrace_server.metrics.series import Gauges, Labels
from headrace_server.models.manager import Manager
from headrace_server.models.version_policy import State
from headrace_server.transports.grpc.endpoint import BoundsMemory, HeldMemory

log = logging.getLogger(__name__)

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
OWN_PATH = "/metrics"

MANY = 100
"""Up to this number of models, each has lines of its own on the page, regardless of its state."""

Page = Callable[[], bytes]


def metric_pages(config: Config, metrics: Metrics, own: Page) -> dict[str, Page]:
    """The pages that the REST port serves for Prometheus, by path, as in TF Serving's server.cc and http_server.cc.

    Args:
        config: The server's configuration.
        metrics: Returns the page with TF Serving's names.
        own: Returns the page with headrace's own names.

    Raises:
        ServingError: The monitoring file cannot be read or parsed.
    """
    if config.monitoring_config_file and not config.rest_api_port:
        log.warning("--monitoring_config_file is ignored: metrics are served on the REST port, which is off")
    if not config.rest_api_port:
        return {}
    pages = {OWN_PATH: own, PROMETHEUS_PATH: metrics.page} if config.enable_metrics else {}
    if config.monitoring_config_file:
        pages.pop(PROMETHEUS_PATH, None)
        prometheus = read_text_proto(config.monitoring_config_file, MonitoringConfig()).prometheus_config
        path = prometheus.path or PROMETHEUS_PATH
        if prometheus.enable and not path.startswith("/"):
            text = "%s: no request can reach the metrics: prometheus_config.path must begin with /; was %r"
            log.warning(text, config.monitoring_config_file, path)
        if prometheus.enable and path in pages:
            pages[path] = lambda: metrics.page() + own()
        elif prometheus.enable:
            pages[path] = metrics.page
    return pages


def model_states(manager: Manager) -> Metric:
    """The state of every version that has not ended normally; with many models, only of unavailable versions."""

    def read() -> list[tuple[Labels, float]]:
        names = manager.names()
        lines: list[tuple[Labels, float]] = []
        for name in names:
            known = [status for status in manager.statuses(name) if not status.has_ended_well]
            if len(names) <= MANY or any(status.state is not State.AVAILABLE for status in known):
                lines += [((name, str(status.version), status.state.name.lower()), 1.0) for status in known]
        return lines

    explanation = "Always 1; the label `state` is the state of a version, where `end` means that it failed to load"
    return gauge("headrace_model_state", explanation, read, ("model", "version", "state"))


def build_info(transport: str) -> Metric:
    """The versions of the software that serves, and the name of the transport."""
    facts = {"version": version("headrace"), "python": platform.python_version(), "transport": transport}
    return info("headrace_build_info", "Always 1; the labels describe this server", facts)


def memory_gauges(transport: BoundsMemory) -> tuple[Gauges, ...]:
    """How much memory a transport uses for callers, the limit, and how often too little was left."""
    kinds, limit, refusals = _held(transport)
    return (
        Gauges("/headrace/request_memory_bytes", ("kind",), kinds),
        Gauges("/headrace/request_memory_limit_bytes", (), limit),
        Gauges("/headrace/request_memory_refusals", (), refusals),
    )


def memory_metrics(transport: BoundsMemory) -> tuple[Metric, ...]:
    """The memory that a transport uses for callers, under the names of headrace's own metrics."""
    kinds, limit, refusals = _held(transport)
    return (
        gauge("headrace_request_memory_bytes", "Memory that the server uses for callers, by kind", kinds, ("kind",)),
        gauge("headrace_request_memory_limit_bytes", "Limit on the memory used for callers, all kinds together", limit),
        gauge(
            "headrace_request_memory_refusals_total",
            "Calls that were refused because too little of this memory was left",
            refusals,
            kind="counter",
        ),
    )


def held_memory(transport: object) -> dict[str, Any] | None:
    """The memory that a transport uses for callers, for the live page; None if the transport does not count it."""
    held = transport.held if isinstance(transport, BoundsMemory) else None
    return None if held is None else {"kinds": dict(held.by_kind), "limit": held.limit, "refusals": held.refusals}


def _held(transport: BoundsMemory) -> tuple[Numbers, Numbers, Numbers]:
    def held() -> HeldMemory:
        return transport.held or HeldMemory({}, 0, 0)

    return (
        lambda: [((kind,), size) for kind, size in held().by_kind.items()],
        lambda: [((), held().limit)],
        lambda: [((), held().refusals)],
    )
