"""Measures what watching a server costs: viewers of the live page, traces, and drift, each beside a server without it.

    python -m scripts.overheads [--rounds=24] [--seconds=2] [--out=docs/benchmarks/overheads.md]

Each round starts all servers anew, and they take turns under one load, in another order each round: two processes of
the same program differ by up to 3% as long as they live. The medians over the rounds are compared. The verdict is by
CPU time per request, which two equal servers differ in by less than in requests per second: the row "nothing" compares
two such servers, and shows the noise. Ends with 1 if anything costs more than it should.
"""

import argparse
import http.client
import json
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
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from headrace_client.bench.running import run
from headrace_client.bench.settings import Settings, Stage
from headrace_server.commands.profile import profile_of_requests
from headrace_server.monitoring.profiles import PROFILE_FILE
from scripts.bench.process import Server, free_port, running

ROUNDS, SECONDS = 24, 2.0
VIEWERS = 10
CALLERS, CONNECTIONS = 64, 4
WARMUP = 0.2

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
        name: What it does.
        limit: The share of the CPU time that it may cost.
        base: The base path of its model.
        flags: What it is told besides.
        viewers: How many browsers look at its page.
        costs: The results of its turns.
    """

    name: str
    limit: float
    base: Path = _DIGITS
    flags: tuple[str, ...] = ()
    viewers: int = 0
    costs: list[Cost] = field(default_factory=list)

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

    def take_turn(self, seconds: float) -> None:
        """Puts the load on it."""
        stage = Stage("closed", CALLERS)
        settings = Settings(
            servers=(self.server.address,), models={"digits": 1.0}, stages=(stage,), seconds=seconds, warmup=WARMUP,
            connections=CONNECTIONS,
        )  # fmt: skip
        with _viewers(self.rest, self.variant.viewers):
            before = self.server.cpu_seconds()
            (point,) = run(settings, lambda *_: None)
            spent = self.server.cpu_seconds() - before
        if point.failures:
            raise SystemExit(f"calls of {self.variant.name} failed: {point.failures}")
        self.variant.costs.append(Cost(point.rate, spent / point.calls))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, _collector() as collector:
        variants = plain, *others = _variants(Path(folder), collector.address)
        for number in range(told.rounds):
            turn = number % len(variants)
            with ExitStack() as stack:
                log = Path(folder, "log")
                servers = [stack.enter_context(variant.started(log)) for variant in variants]
                for server in [*servers[turn:], *servers[:turn]]:
                    server.take_turn(told.seconds)
            print(f"round {number + 1} of {told.rounds}", file=sys.stderr, flush=True)
        spans = collector.spans
    text = _page(plain, others, told.rounds, told.seconds, spans)
    print(text)
    if told.out is not None:
        told.out.write_text(text)
    return int(any(_share(plain, each) > each.limit for each in others))


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
    """A collector that counts the spans that it gets.

    Attributes:
        spans: How many they were.
    """

    def __init__(self) -> None:
        self.spans = 0
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
        for resource in ExportTraceServiceRequest.FromString(request).resource_spans:
            self.spans += sum(len(scope.spans) for scope in resource.scope_spans)
        return b""


@contextmanager
def _collector() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


def _ratio(plain: Variant, variant: Variant, of: Callable[[Cost], float]) -> float:
    """The median over the rounds of a figure, divided by the plain server's figure in the same round."""
    pairs = zip(variant.costs, plain.costs, strict=True)
    return statistics.median(of(cost) / of(reference) for cost, reference in pairs)


def _share(plain: Variant, variant: Variant) -> float:
    """The share of the plain server's CPU time per request that a variant costs in addition."""
    return _ratio(plain, variant, lambda cost: cost.cpu) - 1


def _row(plain: Variant, variant: Variant) -> str:
    rate = statistics.median(cost.rate for cost in variant.costs)
    cpu = statistics.median(cost.cpu for cost in variant.costs) * 1e6
    cells = [variant.name, f"{rate:,.0f}", f"{cpu:.2f} us"]
    if variant is not plain:
        less = 1 - _ratio(plain, variant, lambda cost: cost.rate)
        cells += [f"{less:+.1%}", f"{_share(plain, variant):+.1%}", f"{variant.limit:.0%}"]
        cells.append("yes" if _share(plain, variant) <= variant.limit else "no")
    return f"| {' | '.join(cells)} |"


def _page(plain: Variant, others: Sequence[Variant], rounds: int, seconds: float, spans: int) -> str:
    rows = "\n".join(_row(plain, each) for each in (plain, *others))
    return f"""# What watching costs

Made by `python -m scripts.overheads` on {os.cpu_count()} CPUs, on {time.strftime("%Y-%m-%d")}: servers of the digits
model take turns of {seconds:g} s in {rounds} rounds, each under {CALLERS} callers on {CONNECTIONS} connections, with
the load generator on the same machine. Each round starts them anew. Each is compared with the server that only
answers, round by round, and the medians count. The row "nothing" is a second server that only answers: what it differs
by is noise. The collector got {spans:,} spans.

| server | requests/s | CPU per request | fewer requests/s | more CPU per request | may cost | kept |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
