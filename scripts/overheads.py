"""Measures what watching a server costs: viewers of the live page, traces, and drift.

    python -m scripts.overheads [--servers=2] [--rounds=6] [--seconds=1.5] [--out=FILE]

Two processes of the same program differ in their costs by up to 3% for as long as they run, and ten processes started
one after the other by up to 10%. So one server does all of it, and each thing is switched on and off for a second or
two at a time, always under the same load: viewers come and go, a thousand requests per second are traced by their
callers or are not, and the requests are for a model with a profile or for a copy of the model without one. The CPU time
per request of each slice is compared with that of the slices just before and after it, in which the server only
answers, because the machine itself is faster or slower for seconds at a time. The median over all rounds counts. This
is repeated with new servers. Exits with status 1 if anything costs more than it may, by more than twice the standard
error.

The load is a closed loop, because a server that has nothing to do looks for requests in a loop for a while: the CPU
time of any further work would replace that of this loop. Every request carries a `traceparent`, so looking for it is
not part of the cost of traces; docs/monitoring.md says what it is.
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
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from threading import Event

import grpc
import numpy as np

from headrace_client.bench.points import Point
from headrace_client.bench.running import run
from headrace_client.bench.settings import Settings, Stage
from headrace_server.commands.profile import profile_of_requests
from headrace_server.monitoring.profiles import PROFILE_FILE
from scripts.bench.process import Server, free_port, running

SERVERS, ROUNDS, SECONDS = 2, 6, 1.5
VIEWERS = 10
CALLERS, CONNECTIONS = 64, 4
TRACED = 1000.0
"""Requests per second that their callers may trace: about 1% of all."""

SETTLED = 0.6
"""Seconds after a load until all of its traces have been sent: half a second at most."""

_NORMAL_SPREAD, _MEDIANS_SPREAD = 1.48, 1.25
"""For a normal distribution: its standard deviation divided by the median distance from its median, and the standard
error of its median divided by that of its mean."""

_DIGITS = Path(__file__).parents[1] / "models" / "digits"
_COLLECTOR = "opentelemetry.proto.collector.trace.v1.TraceService"
_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"

_MODELS = ("digits", "twin", "profiled")
"""The same model three times; the last one has a profile."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a slice has shown: requests per second, and the seconds of CPU time that the server spent on each."""

    rate: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Variant:
    """What a server does in a slice.

    Attributes:
        name: What it does besides answering.
        limit: The share of the CPU time of a request that this may cost.
        model: The model that is called.
        viewers: How many browsers look at its page.
        traces: Whether some of the requests are traced.
        costs: The results of its slices.
        shares: The shares by which the CPU time of a request exceeded that of the slices before and after.
    """

    name: str
    limit: float = 0.0
    model: str = "digits"
    viewers: int = 0
    traces: bool = False
    costs: list[Cost] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """A running server.

    Attributes:
        server: Its process.
        rest: Its REST port.
        seconds: How long each slice lasts.
    """

    server: Server
    rest: int
    seconds: float

    def slice(self, variant: Variant) -> Cost:
        """The cost of requests while it does this."""
        before = self.server.cpu_seconds()
        with viewing(self.rest, variant.viewers), ThreadPoolExecutor(2) as pool:
            loads = [
                pool.submit(self._load, variant.model, Stage("closed", CALLERS), traces=False),
                pool.submit(self._load, variant.model, Stage("constant", TRACED), traces=variant.traces),
            ]
            points = [load.result() for load in loads]
        time.sleep(SETTLED)
        spent = self.server.cpu_seconds() - before
        if failures := [point.failures for point in points if point.failures]:
            raise SystemExit(f"calls failed ({variant.name}): {failures}")
        return Cost(sum(point.rate for point in points), spent / sum(point.calls for point in points))

    def _load(self, model: str, stage: Stage, *, traces: bool) -> Point:
        settings = Settings(
            servers=(self.server.address,), models={model: 1.0}, stages=(stage,), warmup=0.0, seconds=self.seconds,
            connections=CONNECTIONS, metadata=(("traceparent", f"{_PARENT}{traces:02}"),),
        )  # fmt: skip
        (point,) = run(settings, lambda *_: None)
        return point


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    told = parser.parse_args(arguments)
    variants = plain, *others = (
        Variant("only answers"),
        Variant("nothing", 0.01, model="twin"),
        Variant(f"page, {VIEWERS} viewers", 0.01, viewers=VIEWERS),
        Variant(f"{TRACED:,.0f} traces per second", 0.03, traces=True),
        Variant("drift of 1%", 0.01, model="profiled"),
    )
    with tempfile.TemporaryDirectory() as folder, collecting() as collector:
        for number in range(told.servers):
            with serving(Path(folder) / str(number), collector.address, told.seconds) as measured:
                for turn in range(told.rounds):
                    _measure_round(measured, variants, turn)
            costs = ", ".join(f"{each.name} {_middle(each.shares)[0]:+.2%}" for each in others)
            print(f"server {number + 1} of {told.servers}: {costs}", file=sys.stderr, flush=True)
    text = _page(plain, others, told, collector.received)
    print(text)
    if told.out is not None:
        told.out.write_text(text)
    return int(any(_verdict(each) == "no" for each in others))


def _measure_round(measured: Measured, variants: Sequence[Variant], turn: int) -> None:
    """Measures each variant once, each time between two slices in which the server only answers."""
    plain, *others = variants
    plain.costs.append(measured.slice(plain))
    for variant in others[:: -1 if turn % 2 else 1]:
        variant.costs.append(measured.slice(variant))
        plain.costs.append(measured.slice(plain))
        before, after = plain.costs[-2:]
        variant.shares.append(2 * variant.costs[-1].cpu / (before.cpu + after.cpu) - 1)


def write_models(folder: Path) -> None:
    """Writes the models into a folder."""
    for name in _MODELS:
        copytree(_DIGITS / "1", folder / name / "1")
    rows = np.random.default_rng(1).normal(size=(1000, 64)).astype(np.float32)
    (folder / _MODELS[-1] / "1" / PROFILE_FILE).write_text(json.dumps(profile_of_requests([{"image": rows}])))


@contextmanager
def serving(folder: Path, collector: str, seconds: float) -> Iterator[Measured]:
    """Starts a server of all models, which answers a first slice."""
    write_models(folder)
    program, rest = str(Path(sys.executable).with_name("headrace")), free_port()
    tracing = (f"--trace_endpoint={collector}", "--trace_ratio=0", "--trace_rate=1000000")

    def command(port: int) -> Sequence[str]:
        return [program, "serve", str(folder), f"--port={port}", f"--rest_api_port={rest}", *tracing]

    with running(command, folder.with_suffix(".log")) as server:
        measured = Measured(server, rest, seconds)
        for name in _MODELS:
            measured.slice(Variant("warming up", model=name))
        yield measured


@contextmanager
def viewing(port: int, count: int) -> Iterator[None]:
    """Browsers that ask for the page's state once a second each, as the page does."""
    ended = Event()

    def look(first: float) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            ended.wait(first)
            while not ended.is_set():
                connection.request("GET", "/page/state?model=digits")
                if (answer := connection.getresponse()).status != http.HTTPStatus.OK:
                    raise SystemExit(f"the page answered {answer.status}")
                answer.read()
                ended.wait(1.0)

    with ThreadPoolExecutor(max(1, count)) as pool:
        looking = [pool.submit(look, number / count) for number in range(count)]
        try:
            yield
        finally:
            ended.set()
        for viewer in looking:
            viewer.result()  # a thread's own exception would not end the program


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
def collecting() -> Iterator[Collector]:
    """Runs a collector."""
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The median, and its standard error: other work on the machine makes some of the values very large."""
    middle = statistics.median(values)
    spread = _NORMAL_SPREAD * statistics.median(abs(value - middle) for value in values)
    error = _MEDIANS_SPREAD * spread / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return middle, error


def _verdict(variant: Variant) -> str:
    share, error = _middle(variant.shares)
    if share + 2 * error <= variant.limit:
        return "yes"
    return "no" if share - 2 * error > variant.limit else "not shown"


def _row(plain: Variant, variant: Variant) -> str:
    rate = statistics.median(cost.rate for cost in variant.costs)
    cpu = statistics.median(cost.cpu for cost in variant.costs)
    cells = [variant.name, f"{rate:,.0f}", f"{cpu * 1e6:.2f} us"]
    if variant is not plain:
        share, error = _middle(variant.shares)
        cells += [f"{share:+.2%} ± {error:.2%}", f"{variant.limit:.0%}", _verdict(variant)]
    return f"| {' | '.join(cells)} |"


def _page(plain: Variant, others: Sequence[Variant], told: argparse.Namespace, received: int) -> str:
    rows = "\n".join(_row(plain, each) for each in (plain, *others))
    servers = "one server" if told.servers == 1 else f"each of {told.servers} servers, one after the other"
    return f"""# What monitoring costs

Made by `python -m scripts.overheads` on {os.cpu_count()} CPUs, on {time.strftime("%Y-%m-%d")}: a server of the digits
model under {CALLERS} callers on {CONNECTIONS} connections, with the load generator on the same machine. Each thing is
on for {told.seconds:g} s at a time, and compared with the slices just before and after, in which the server only
answers: {told.rounds} rounds on {servers}. The median over all rounds is shown, with its standard error. In the row
"nothing", the requests are for a copy of the model: its difference is noise. "Not shown" means that the noise is too
large to tell; [what monitoring itself takes](overheads_counted.md) is measured directly. The collector got
{received / 1e6:,.1f} MB of spans.

| the server | requests/s | CPU per request | more CPU per request | limit | within the limit |
| --- | ---: | ---: | ---: | ---: | --- |
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
