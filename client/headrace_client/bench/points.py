"""The measurement of one point of a sweep, on one server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace_client.bench.latencies import Latencies, of_nanoseconds, together
from headrace_client.bench.server import code_name
from headrace_client.bench.settings import Stage

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)

BUSY = 0.85
"""If a thread of the load generator is busy for a larger share of its time than this, it may limit the load."""
LATE = 0.001
"""Late starts of calls are reported if their 99th percentile, in seconds, is larger than this."""


@dataclass(frozen=True, slots=True)
class KindPoint:
    """The calls of one kind: `failed_after` counts from when a call was sent."""

    name: str
    latencies: Latencies
    failed_after: Latencies
    codes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The measurements of a stage on a server.

    Attributes:
        server: The target of the load.
        stage: The stage that was measured.
        seconds: The duration for which calls counted.
        kinds: The calls by kind.
        lag: The times from the planned start of calls to the actual one.
        texts: The first error message with each code.
        cpu: The CPU seconds of the load generator's threads.
        busy: The share of the time in which the load generator's busiest thread computed.
        calls: The number of all calls, including those of the warm-up.
        limit: The seconds beyond which an answer does not count as good; None means any.
    """

    server: str
    stage: Stage
    seconds: float
    kinds: Sequence[KindPoint]
    lag: Latencies
    texts: Mapping[str, str]
    cpu: float
    busy: float
    calls: int
    limit: float | None

    @property
    def latencies(self) -> Latencies:
        """The latencies of all successful calls, from the planned start to the end."""
        return together(kind.latencies for kind in self.kinds)

    @property
    def failed_after(self) -> Latencies:
        """The time that failed calls took, from when they were sent: a refusal should come at once."""
        return together(kind.failed_after for kind in self.kinds)

    @property
    def ok(self) -> int:
        """The number of successful calls."""
        return sum(kind.codes.get("OK", 0) for kind in self.kinds)

    @property
    def failures(self) -> dict[str, int]:
        """The number of calls with each other code."""
        found: dict[str, int] = {}
        for kind in self.kinds:
            for code, count in kind.codes.items():
                if code != "OK":
                    found[code] = found.get(code, 0) + count
        return found

    @property
    def rate(self) -> float:
        """Successful calls per second."""
        return self.ok / self.seconds

    @property
    def goodput(self) -> float:
        """Successful calls per second within the limit."""
        return self.rate if self.limit is None else self.latencies.within(self.limit) / self.seconds

    @property
    def cpu_per_call(self) -> float:
        """The load generator's CPU seconds per call."""
        return self.cpu / self.calls if self.calls else 0.0

    def doubt(self) -> str:
        """Why the load generator itself may have limited the results; empty if it did not."""
        if self.busy > BUSY:
            return f"the load generator itself was busy {self.busy:.0%} of the time: use more --threads or machines"
        late = self.lag.percentile(99)
        if self.stage.kind != "closed" and late is not None and late > LATE:
            return (
                f"1 call in 100 began {late * 1e3:,.1f} ms late or later: this machine, or the server's "
                f"backlog, kept the load generator from sending in time (the latencies include this delay)"
            )
        return ""

    def as_json(self) -> dict[str, Any]:
        """All data as numbers; times are in seconds."""
        latencies = self.latencies
        return {
            "server": self.server,
            "load": self.stage.kind,
            "value": self.stage.value,
            "seconds": self.seconds,
            "ok": self.ok,
            "failures": self.failures,
            "texts": dict(self.texts),
            "calls_per_second": self.rate,
            "goodput_per_second": self.goodput,
            "latency_mean": latencies.mean(),
            "latency_percentiles": _percentiles(latencies),
            "latency_histogram": [[seconds, count] for seconds, count in latencies.pairs],
            "failed_after_percentiles": _percentiles(self.failed_after),
            "lag_p99": self.lag.percentile(99),
            "own_cpu_per_call": self.cpu_per_call,
            "own_busy": self.busy,
            "doubt": self.doubt(),
            "kinds": {kind.name: _kind_json(kind) for kind in self.kinds},
        }


def of_result(server: str, stage: Stage, names: Sequence[str], result: Mapping[str, Any], **values: Any) -> Point:
    """The point from the result of a `headrace_native.Load`.

    Args:
        server: The target of the load.
        stage: The stage of the load.
        names: The names of the kinds.
        result: What `result()` of the load returned.
        values: The values of `seconds`, `calls` and `limit`.
    """
    kinds = [
        KindPoint(
            name,
            of_nanoseconds(kind["latency"]),
            of_nanoseconds(kind["failures"]),
            {code_name(code): count for code, count in enumerate(kind["codes"]) if count},
        )
        for name, kind in zip(names, result["kinds"], strict=True)
    ]
    shares = [cpu / wall for cpu, wall in zip(result["cpu"], result["wall"], strict=True) if wall > 0]
    return Point(
        server=server,
        stage=stage,
        kinds=kinds,
        lag=of_nanoseconds(result["lag"]),
        texts={code_name(code): text for code, text in reversed(result["texts"])},
        cpu=sum(result["cpu"]),
        busy=max(shares, default=0.0),
        **values,
    )


def _kind_json(kind: KindPoint) -> dict[str, Any]:
    return {"codes": dict(kind.codes), "latency_percentiles": _percentiles(kind.latencies)}


def _percentiles(latencies: Latencies) -> dict[str, float | None]:
    return {f"{percent:g}": latencies.percentile(percent) for percent in PERCENTILES}
