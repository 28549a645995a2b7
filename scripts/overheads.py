"""Measures what watching a server costs: viewers of the live page, traces, and drift.

    python -m scripts.overheads [--servers=3] [--rounds=5] [--seconds=1.2] [--rate=20000] [--out=FILE]

Two processes of the same program differ in their costs by up to 3% for as long as they run, and ten processes started
one after the other by up to 10%. So one server does all of it, and each thing is switched on and off for a second at a
time while requests arrive at a constant rate: viewers come and go, a hundredth of the callers trace their requests or
do not, and the requests are for a model with a profile or for the same model without one. The CPU time of each slice is
compared with that of the slices of the same round in which the server only answers. The median over all rounds counts.
This is repeated with new servers. Exits with status 1 if anything costs more than it may, by more than twice the
standard error.

Every request carries a `traceparent`, so looking for it is not part of the cost of traces; see docs/monitoring.md.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from threading import Event, Thread

import grpc
import numpy as np

from headrace_client.bench.points import Point
from headrace_client.bench.running import run
from headrace_client.bench.server import native
from headrace_client.bench.settings import Settings, Stage
from headrace_server.commands.profile import profile_of_requests
from headrace_server.monitoring.profiles import PROFILE_FILE
from scripts.bench.process import Server, free_port, running

SERVERS, ROUNDS, SECONDS, RATE = 3, 5, 1.2, 20_000.0
VIEWERS = 10
TRACED = 0.01
CONNECTIONS = 4

BEFORE, AFTER = 0.7, 0.3
"""Seconds of the same load before and after a slice: traces are sent up to half a second after their requests."""

_NORMAL_SPREAD, _MEDIANS_SPREAD = 1.48, 1.25
"""For a normal distribution: its standard deviation divided by the median distance from its median, and the standard
error of its median divided by that of its mean."""

_DIGITS = Path(__file__).parents[1] / "models" / "digits"
_COLLECTOR = "opentelemetry.proto.collector.trace.v1.TraceService"
_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"

_MODELS = ("digits", "twin", "profiled")
"""The same model three times; the last one has a profile."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What a server does in a slice.

    Attributes:
        name: What it does besides answering.
        limit: The share that it may cost: of the CPU time of a request, or of the machine's.
        model: The model that is called.
        viewers: How many browsers look at its page.
        traces: Whether a hundredth of the requests is traced.
        of_machine: Whether the cost does not depend on the requests, so that it is a share of the machine's CPU time.
        costs: The CPU time of its slices per second, by round.
    """

    name: str
    limit: float = 0.0
    model: str = "digits"
    viewers: int = 0
    traces: bool = False
    of_machine: bool = False
    costs: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """A running server.

    Attributes:
        server: Its process.
        rest: Its REST port.
        rate: The requests per second that are sent to it.
        seconds: How long each slice lasts.
    """

    server: Server
    rest: int
    rate: float
    seconds: float

    def slice(self, variant: Variant) -> float:
        """The CPU time per second while it does this."""
        with _viewers(self.rest, variant.viewers), ThreadPoolExecutor(2) as pool:
            loads = [
                pool.submit(self._load, variant.model, self.rate * (1 - TRACED), traces=False),
                pool.submit(self._load, variant.model, self.rate * TRACED, traces=variant.traces),
            ]
            time.sleep(BEFORE)
            began, before = time.monotonic(), self.server.cpu_seconds()
            time.sleep(self.seconds)
            spent, took = self.server.cpu_seconds() - before, time.monotonic() - began
            for load in loads:
                _check(load.result(), variant)
        return spent / took

    def _load(self, model: str, rate: float, *, traces: bool) -> Point:
        settings = Settings(
            servers=(self.server.address,), models={model: 1.0}, stages=(Stage("constant", rate),), warmup=0.0,
            seconds=BEFORE + self.seconds + AFTER, connections=CONNECTIONS,
            metadata=(("traceparent", f"{_PARENT}{traces:02}"),),
        )  # fmt: skip
        (point,) = run(settings, lambda *_: None)
        return point


def _check(point: Point, variant: Variant) -> None:
    """Ends the run if a load was not what it should have been."""
    if point.failures or point.rate < 0.98 * point.stage.value:
        raise SystemExit(f"{variant.name}: {point.rate:,.0f} of {point.stage} answered, {point.failures} failed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    told = parser.parse_args(arguments)
    native()  # by the main thread: its allocator fails if the thread that has loaded it ends, and another has its ID
    variants = plain, *others = (
        Variant("only answers"),
        Variant("nothing", 0.01, model="twin"),
        Variant(f"page, {VIEWERS} viewers", 0.01, viewers=VIEWERS, of_machine=True),
        Variant(f"traces of {TRACED:.0%}", 0.03, traces=True),
        Variant("drift of 1%", 0.01, model="profiled"),
    )
    with tempfile.TemporaryDirectory() as folder, _collector() as collector:
        for number in range(told.servers):
            with _server(Path(folder) / str(number), collector.address, told.rate, told.seconds) as measured:
                for turn in range(told.rounds):
                    _measure_round(measured, variants, turn)
            costs = ", ".join(f"{each.name} {_middle(_shares(plain, each))[0]:+.2%}" for each in others)
            print(f"server {number + 1} of {told.servers}: {costs}", file=sys.stderr, flush=True)
    text = _page(plain, others, told, collector.received)
    print(text)
    if told.out is not None:
        told.out.write_text(text)
    return int(any(_verdict(plain, each) == "no" for each in others))


def _measure_round(measured: Measured, variants: Sequence[Variant], turn: int) -> None:
    """Measures each variant once, between two slices in which the server only answers."""
    plain, *others = variants
    first = turn % len(others)
    before = measured.slice(plain)
    for variant in (*others[first:], *others[:first]):
        variant.costs.append(measured.slice(variant))
    plain.costs.append((before + measured.slice(plain)) / 2)


@contextmanager
def _server(folder: Path, collector: str, rate: float, seconds: float) -> Iterator[Measured]:
    """Starts a server of all models, which answers a first slice."""
    for name in _MODELS:
        copytree(_DIGITS / "1", folder / name / "1")
    rows = np.random.default_rng(1).normal(size=(1000, 64)).astype(np.float32)
    (folder / _MODELS[-1] / "1" / PROFILE_FILE).write_text(json.dumps(profile_of_requests([{"image": rows}])))
    program, rest = str(Path(sys.executable).with_name("headrace")), free_port()
    tracing = (f"--trace_endpoint={collector}", "--trace_ratio=0", "--trace_rate=1000000")

    def command(port: int) -> Sequence[str]:
        return [program, "serve", str(folder), f"--port={port}", f"--rest_api_port={rest}", *tracing]

    with running(command, folder.with_suffix(".log")) as server:
        measured = Measured(server, rest, rate, seconds)
        for name in _MODELS:
            measured.slice(Variant("warming up", model=name))
        yield measured


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


def _shares(plain: Variant, variant: Variant) -> list[float]:
    """The share by which a variant exceeds the plain server, in each round."""
    return [own / other - 1 for own, other in zip(variant.costs, plain.costs, strict=True)]


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The median, and its standard error: other work on the machine makes some of the values very large."""
    middle = statistics.median(values)
    spread = _NORMAL_SPREAD * statistics.median(abs(value - middle) for value in values)
    error = _MEDIANS_SPREAD * spread / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return middle, error


def _cost(plain: Variant, variant: Variant) -> tuple[float, float]:
    """The share that a variant costs, and its standard error."""
    if variant.of_machine:
        added = [own - other for own, other in zip(variant.costs, plain.costs, strict=True)]
        middle, error = _middle(added)
        cpus = os.cpu_count() or 1
        return middle / cpus, error / cpus
    return _middle(_shares(plain, variant))


def _verdict(plain: Variant, variant: Variant) -> str:
    share, error = _cost(plain, variant)
    if share + 2 * error <= variant.limit:
        return "yes"
    return "no" if share - 2 * error > variant.limit else "not shown"


def _row(plain: Variant, variant: Variant, rate: float) -> str:
    spent = statistics.median(variant.costs)
    cells = [variant.name, f"{spent * 1e3:,.1f} ms", f"{spent / rate * 1e6:.2f} us"]
    if variant is not plain:
        added, error = _middle([own - other for own, other in zip(variant.costs, plain.costs, strict=True)])
        share, share_error = _cost(plain, variant)
        of = "the machine" if variant.of_machine else "a request"
        cells += [
            f"{added * 1e3:+.1f} ± {error * 1e3:.1f} ms", f"{share:+.2%} ± {share_error:.2%} of {of}",
            f"{variant.limit:.0%}", _verdict(plain, variant),
        ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _page(plain: Variant, others: Sequence[Variant], told: argparse.Namespace, received: int) -> str:
    rows = "\n".join(_row(plain, each, told.rate) for each in (plain, *others))
    return f"""# What monitoring costs

Made by `python -m scripts.overheads` on {os.cpu_count()} CPUs, on {time.strftime("%Y-%m-%d")}: a server of the digits
model gets {told.rate:,.0f} requests per second at a constant rate, with the load generator on the same machine. Each
thing is on for {told.seconds:g} s at a time, and compared with the slices of the same round in which the server only
answers: {told.rounds} rounds on each of {told.servers} servers, one after the other. The median over all rounds is
shown, with its standard error. In the row "nothing", the requests are for a copy of the model: its difference is noise.
Since viewers cost the same whatever the number of requests, their cost is a share of the CPU time of the whole machine;
the others' is a share of the CPU time of a request. The collector got {received / 1e6:,.1f} MB of spans.

| the server | CPU time per second | CPU time per request | more per second | costs | may cost | kept |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
