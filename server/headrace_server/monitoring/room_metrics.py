"""The metrics of versions in memory on `/metrics`, if not all versions may be in memory."""

from collections.abc import Callable

from headrace_server.metrics.catalogue import Metrics
from headrace_server.metrics.exposition import Metric, Source
from headrace_server.metrics.own import MICROSECONDS, gauge
from headrace_server.metrics.series import Labels
from headrace_server.models.manager import Manager
from headrace_server.models.room import Rooms


def room_metrics(manager: Manager, rooms: Rooms, metrics: Metrics) -> tuple[Metric, ...]:
    """The metrics of versions in memory.

    Args:
        manager: The manager of the versions.
        rooms: The versions in memory.
        metrics: Counts calls that waited and versions that were evicted.
    """

    def sizes() -> list[tuple[Labels, float]]:
        return [((name, str(version)), size) for (name, version), size in manager.sizes()]

    def memory() -> int:
        return rooms.bounds.memory

    def count() -> int:
        return rooms.bounds.versions

    return (
        Metric(
            "headrace_model_load_wait_seconds",
            "histogram",
            "Time that a call waited until its version was in memory, for calls that had to wait",
            [Source(metrics.model_load_wait, ("model",), scale=MICROSECONDS)],
        ),
        Metric(
            "headrace_model_evictions_total",
            "counter",
            "Versions that were unloaded to make room for others",
            [Source(metrics.model_evictions, ("model",))],
        ),
        gauge("headrace_model_memory_bytes", "Estimated memory of a version in memory", sizes, ("model", "version")),
        _number(
            "headrace_model_memory_limit_bytes", "Limit on the memory of all versions together; 0 means none", memory
        ),
        _number("headrace_models_loaded_limit", "The maximum number of versions in memory; 0 means any number", count),
        _number(
            "headrace_models_at_rest",
            "The number of versions that are not in memory, and are loaded when they are called",
            manager.at_rest,
        ),
    )


def _number(name: str, explanation: str, read: Callable[[], int]) -> Metric:
    return gauge(name, explanation, lambda: [((), read())])
