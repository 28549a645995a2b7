"""Computes how many servers a load needs and how long calls wait, as in docs/scale.md: python -m scripts.fleet."""

import heapq
import sys
from dataclasses import dataclass

import numpy as np

CPUS = 16
BUSY = 0.6
CALLS = 1_000_000
CALL_SECONDS = 6.6e-6
"""The CPU time of a call without the model: that of the smallest model in docs/benchmarks/README.md."""
MODELS = {"small": 4e-6, "medium": 100e-6, "large": 10e-3}
SIMULATED = 200_000


@dataclass(frozen=True, slots=True)
class Need:
    """The number of servers that a model needs.

    Attributes:
        seconds: The CPU time of a call.
        per_server: The calls per second of one server.
        servers: The number of servers for all calls.
    """

    seconds: float
    per_server: float
    servers: int


def need(model_seconds: float, calls: float = CALLS, cpus: int = CPUS, busy: float = BUSY) -> Need:
    """Computes the number of servers from the CPUs of a server, and the share of them that may be busy."""
    seconds = CALL_SECONDS + model_seconds
    per_server = cpus * busy / seconds
    return Need(seconds, per_server, int(np.ceil(calls / per_server)))


def waiting(busy: float, cpus: int = CPUS, count: int = SIMULATED, seed: int = 1) -> tuple[float, float]:
    """The mean and the 99th percentile of the wait for a CPU, in service times, of one server with this utilisation.

    Calls arrive at random, and each takes one service time: an M/D/c queue with c = cpus.
    """
    arrivals = np.random.default_rng(seed).exponential(1 / (cpus * busy), count).cumsum()
    free = [0.0] * cpus
    waits = np.empty(count)
    for number, arrival in enumerate(arrivals):
        begin = max(arrival, heapq.heappop(free))
        waits[number] = begin - arrival
        heapq.heappush(free, begin + 1)
    return float(waits.mean()), float(np.percentile(waits, 99))


def main() -> int:
    """Prints the tables."""
    print("| model | us a call | calls/s of a server | servers |\n| --- | ---: | ---: | ---: |")
    for name, seconds in MODELS.items():
        found = need(seconds)
        print(f"| {name} | {found.seconds * 1e6:.0f} | {found.per_server:,.0f} | {found.servers:,} |")
    print(f"\n| busy share of {CPUS} CPUs | mean wait | p99 wait |\n| ---: | ---: | ---: |")
    for busy in (0.4, 0.6, 0.8, 0.9, 0.95):
        mean, high = waiting(busy)
        print(f"| {busy} | {mean:.3f} | {high:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
