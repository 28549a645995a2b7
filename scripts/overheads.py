"""Measures what watching a server costs: viewers of the live page, traces, and drift, each beside a server without it.

    python -m scripts.overheads [--groups=12] [--rounds=2] [--seconds=2] [--out=docs/benchmarks/overheads.md]

The costs of two processes of the same program differ by up to 3% for as long as they run. So there are several groups
of servers: each has a new server of every kind, and these take turns under one load. Servers that start later, or whose
turn comes later, are slower, so each group begins with another server, and every other round goes backwards. The first
turn of each server only warms it up. A group's costs are the medians over its rounds; the median over the groups
counts, and its standard error is the noise. The verdict is by CPU time per request, which varies less than requests per
second. Exits with status 1 if anything costs more than it may, by more than twice the noise.
"""

import argparse
import http.client
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from threading import Event, Thread

import grpc
import numpy as np

from headrace_client.bench.running import run
from headrace_client.bench.settings import Settings, Stage
from headrace_server.commands.profile import profile_of_requests
from headrace_server.monitoring.profiles import PROFILE_FILE
from scripts.bench.process import Server, free_port, running

GROUPS, ROUNDS, SECONDS = 12, 2, 2.0
VIEWERS = 10
CALLERS, CONNECTIONS = 64, 4
WARMUP_TURN = 0.5

_NORMAL_SPREAD, _MEDIANS_SPREAD = 1.48, 1.25
"""For a normal distribution: its standard deviation divided by the median distance from its median, and the standard
error of its median divided by that of its mean."""

_DIGITS = Path(__file__).parents[1] / "models" / "digits"
_COLLECTOR = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass(frozen=True, slots=True)
class Cost:
    """One turn of a server: requests per second, and the seconds of CPU time that it spent on each."""

    rate: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Variant:
    """A server that does something besides answering.

    Attributes:
        name: What the server does besides answering.
        limit: The share of the CPU time that this may cost.
        base: The base path of its model.
        flags: Its additional flags.
        viewers: How many browsers look at its page.
        costs: The results of its turns, by group.
    """

    name: str
    limit: float
    base: Path = _DIGITS
    flags: tuple[str, ...] = ()
    viewers: int = 0
    costs: list[list[Cost]] = field(default_factory=list)

    @contextmanager
    def started(self, log: Path) -> Iterator["Started"]:
        """Starts one."""
        program, rest = str(Path(sys.executable).with_name("headrace")), free_port() if self.viewers else 0

        def command(port: int) -> Sequence[str]:
            flags = [*self.flags, f"--rest_api_port={rest}"]
            return [program, "serve", str(self.base), "--model_name=digits", f"--port={port}", *flags]

        with running(command, log) as server:
            yield Started(self, server, rest)


@dataclass(frozen=True, slots=True)
class Started:
    """A running server of a variant, and its REST port."""

    variant: Variant
    server: Server
    rest: int

    def take_turn(self, seconds: float) -> Cost:
        """Puts the load on it."""
        stage = Stage("closed", CALLERS)
        settings = Settings(
            servers=(self.server.address,), models={"digits": 1.0}, stages=(stage,), seconds=seconds, warmup=0.0,
            connections=CONNECTIONS,
        )  # fmt: skip
        with _viewers(self.rest, self.variant.viewers):
            before = self.server.cpu_seconds()
            (point,) = run(settings, lambda *_: None)
            spent = self.server.cpu_seconds() - before
        if point.failures:
            raise SystemExit(f"calls of {self.variant.name} failed: {point.failures}")
        return Cost(point.rate, spent / point.calls)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=GROUPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, _collector() as collector:
        variants = plain, *others = _variants(Path(folder), collector.address)
        for number in range(told.groups):
            first = number % len(variants)
            _measure_group([*variants[first:], *variants[:first]], Path(folder), told.rounds, told.seconds)
            costs = ", ".join(f"{each.name} {_shares(plain, each, _cpu)[-1]:+.1%}" for each in others)
            print(f"group {number + 1} of {told.groups}: {costs}", file=sys.stderr, flush=True)
    text = _page(plain, others, told.rounds, told.seconds, collector.received)
    print(text)
    if told.out is not None:
        told.out.write_text(text)
    return int(any(_verdict(plain, each) == "no" for each in others))


def _measure_group(variants: Sequence[Variant], logs: Path, rounds: int, seconds: float) -> None:
    """Starts a server of each variant, and lets them take turns."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(variant.started(logs / f"{number}.log")) for number, variant in enumerate(variants)
        ]
        for server in servers:
            server.variant.costs.append([])
            server.take_turn(WARMUP_TURN)
        for number in range(rounds):
            for server in servers[:: -1 if number % 2 else 1]:
                server.variant.costs[-1].append(server.take_turn(seconds))


def _variants(folder: Path, collector: str) -> list[Variant]:
    """A server that only answers, and those that are compared with it."""
    profiled = folder / "profiled"
    copytree(_DIGITS / "1", profiled / "1")
    rows = np.random.default_rng(1).normal(size=(1000, 64)).astype(np.float32)
    (profiled / "1" / PROFILE_FILE).write_text(json.dumps(profile_of_requests([{"image": rows}])))
    to = f"--trace_endpoint={collector}"
    return [
        Variant("only answers", 0.0),
        Variant("nothing", 0.01),
        Variant(f"page, {VIEWERS} viewers", 0.01, viewers=VIEWERS),
        Variant("traces of 1%", 0.03, flags=(to, "--trace_rate=1000000")),
        Variant("traces of 1%, up to 100/s", 0.03, flags=(to,)),
        Variant("drift of 1%", 0.01, profiled),
    ]


@contextmanager
def _viewers(port: int, count: int) -> Iterator[None]:
    """Browsers that ask for the page's state once a second each, as the page does."""
    ended = Event()

    def look(first: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        ended.wait(first)
        while not ended.is_set():
            connection.request("GET", "/page/state?model=digits")
            if (answer := connection.getresponse()).status != http.HTTPStatus.OK:
                raise SystemExit(f"the page answered {answer.status}")
            answer.read()
            ended.wait(1.0)
        connection.close()

    threads = [Thread(target=look, args=(number / count,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


class Collector:
    """A collector that only counts the bytes that it gets, so that the server has the CPUs.

    Attributes:
        received: The number of these bytes.
    """

    def __init__(self) -> None:
        self.received = 0
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Export": grpc.unary_unary_rpc_method_handler(self._export)
        }
        handlers = [grpc.method_handlers_generic_handler(_COLLECTOR, methods)]
        self._server = grpc.server(ThreadPoolExecutor(1), handlers=handlers)
        self.address = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Ends it."""
        self._server.stop(0).wait()

    def _export(self, request: bytes, context: object) -> bytes:
        del context
        self.received += len(request)
        return b""


@contextmanager
def _collector() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


def _cpu(cost: Cost) -> float:
    return cost.cpu


def _time(cost: Cost) -> float:
    return 1 / cost.rate


def _shares(plain: Variant, variant: Variant, of: Callable[[Cost], float]) -> list[float]:
    """The share by which a figure exceeds that of the plain server, in each group."""
    return [
        statistics.median(of(cost) / of(reference) for cost, reference in zip(own, other, strict=True)) - 1
        for own, other in zip(variant.costs, plain.costs, strict=True)
    ]


def _middle(shares: Sequence[float]) -> tuple[float, float]:
    """The median, and its standard error: other work on the machine makes some of the shares very large."""
    middle = statistics.median(shares)
    spread = _NORMAL_SPREAD * statistics.median(abs(share - middle) for share in shares)
    error = _MEDIANS_SPREAD * spread / math.sqrt(len(shares)) if len(shares) > 1 else math.inf
    return middle, error


def _verdict(plain: Variant, variant: Variant) -> str:
    share, error = _middle(_shares(plain, variant, _cpu))
    if share <= variant.limit:
        return "yes"
    return "no" if share - 2 * error > variant.limit else "not shown"


def _row(plain: Variant, variant: Variant) -> str:
    costs = [cost for group in variant.costs for cost in group]
    rate = statistics.median(cost.rate for cost in costs)
    cpu = statistics.median(cost.cpu for cost in costs) * 1e6
    cells = [variant.name, f"{rate:,.0f}", f"{cpu:.2f} us"]
    if variant is not plain:
        slower, _ = _middle(_shares(plain, variant, _time))
        more, error = _middle(_shares(plain, variant, _cpu))
        cells += [f"{slower:+.1%}", f"{more:+.1%} ± {error:.1%}", f"{variant.limit:.0%}", _verdict(plain, variant)]
    return f"| {' | '.join(cells)} |"


def _page(plain: Variant, others: Sequence[Variant], rounds: int, seconds: float, received: int) -> str:
    rows = "\n".join(_row(plain, each) for each in (plain, *others))
    return f"""# What monitoring costs

Made by `python -m scripts.overheads` on {os.cpu_count()} CPUs, on {time.strftime("%Y-%m-%d")}: servers of the digits
model take turns of {seconds:g} s, each under {CALLERS} callers on {CONNECTIONS} connections, with the load generator on
the same machine. Each is compared with the server that only answers, over {rounds} rounds. Since two processes of the
same program differ, this is repeated with {len(plain.costs)} groups of new servers; their medians are shown, with the
standard error. The row "nothing" is a second server that only answers: its difference is noise. The collector got
{received / 1e6:,.1f} MB of spans.

| server | requests/s | CPU per request | more time per request | more CPU per request | limit | within the limit |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
