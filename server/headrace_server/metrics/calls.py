"""Counts calls that have ended, in Python or in Rust: each method over gRPC, and each verb over REST."""

from collections.abc import Callable, Collection
from typing import Protocol

from headrace_server.metrics.counting import Histogram, Tally
from headrace_server.metrics.names import Families
from headrace_server.metrics.series import Labels

COUNTED = ("Predict", "Classify", "Regress")
"""The methods that TF Serving counts."""

Tallied = tuple[Tally, float]
"""The number of answered calls in each bucket of LATENCY, and the sum of their durations in microseconds."""


class CountCalls(Protocol):
    """Counts the calls of one method."""

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """See `GrpcMethod.several`."""


class GrpcMethod:
    """Counts the calls of one method. In one event loop.

    A call costs one look-up and one value in a histogram: all other counts of calls are derived from that histogram.
    """

    def __init__(self, families: Families, label: Callable[[str], str], service: str, method: str) -> None:
        self._families = families
        self._label = label
        self._name = f"{service}/{method}"
        self._method = method
        self._latencies: dict[Labels, Histogram] = {}
        self._codes: set[str] = set()

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """Counts a call that has ended, by its model's name and the name of its status code."""
        latency = self._latencies.get((model, code)) or self._find(model, code)
        latency.observe(seconds * 1e6)

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Counts several calls with the same model and code. Any thread.

        Args:
            model: The model's name.
            code: The status code's name.
            tally: The number of calls in each bucket of LATENCY.
            total: The sum of the calls' durations in microseconds.
        """
        latency = self._latencies.get((model, code)) or self._find(model, code)
        latency.add(tally, total)

    def keep(self, models: Collection[str]) -> None:
        """Forgets the histograms of all models but these: the series of all others have been dropped. Any thread."""
        self._latencies = {labels: own for labels, own in list(self._latencies.items()) if labels[0] in models}

    def forget(self, model: str) -> None:
        """Forgets the histograms of a model whose series have been dropped. Any thread."""
        for code in list(self._codes):
            self._latencies.pop((model, code), None)

    def _find(self, named: str, code: str) -> Histogram:
        model = self._label(named)
        families, labels = self._families, (self._name, model, code)
        latency = families.grpc_latency.of(*labels)
        families.grpc_calls.of(*labels).follow(latency)
        if self._method in COUNTED:
            families.request_count.of(model, code).follow(latency)
            if code == "OK":
                families.request_latency.share(latency, model, self._method, "GRPC")
        if model == named:
            self._codes.add(code)
            self._latencies[(model, code)] = latency
        return latency


class RestCalls:
    """Counts calls of one verb over REST. Any thread.

    A call costs one look-up and one value in a histogram, as over gRPC.

    Args:
        families: The families in which calls are counted.
        label: Maps a model's name to its label.
        verb: The verb, such as `predict` or `infer`; empty for calls that run no model.
    """

    def __init__(self, families: Families, label: Callable[[str], str], verb: str) -> None:
        self._families = families
        self._label = label
        self._verb = verb

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """Counts a call that has ended, by its model's name and the name of its status code."""
        self._latency(self._label(model), code).observe(seconds * 1e6)

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Like `GrpcMethod.several`, but ignores calls whose callers have disconnected: see `Metrics.rest_call`."""
        if code != "CANCELLED":
            self._latency(self._label(model), code).add(tally, total)

    def _latency(self, model: str, code: str) -> Histogram:
        families, labels = self._families, (self._verb, model, code)
        latency = families.rest_latency.of(*labels)
        if families.rest_calls.of(*labels).follow(latency):
            families.request_count.of(model, code).follow(latency)
            if code == "OK":
                families.request_latency.share(latency, model, self._verb, "REST")
        return latency
