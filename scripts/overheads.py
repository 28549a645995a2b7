"""Measures what watching a server costs: viewers of the live page, traces, and drift, each beside a server without it.

    python -m scripts.overheads [--rounds=12] [--seconds=3] [--out=docs/benchmarks/overheads.md]

The servers take turns under one load, in another order each round, and the medians over the rounds are compared. The
verdict is by CPU time per request, which two equal servers differ in by less than in requests per second: the row
"nothing" compares two such servers, and shows the noise. Ends with 1 if anything costs more than it should.
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
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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

ROUNDS, SECONDS = 12, 3.0
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
        server: The running server.
        watched: What observes it during its turn.
        costs: The results of its turns.
    """

    name: str
    limit: float
    server: Server
    watched: Callable[[], AbstractContextManager[None]] = nullcontext
    costs: list[Cost] = field(default_factory=list)

    def take_turn(self, seconds: float) -> None:
        """Puts the load on it."""
        stage = Stage("closed", CALLERS)
        settings = Settings(
            servers=(self.server.address,), models={"digits": 1.0}, stages=(stage,), seconds=seconds, warmup=WARMUP,
            connections=CONNECTIONS,
        )  # fmt: skip
        with self.watched():
            before = self.server.cpu_seconds()
            (point,) = run(settings, lambda *_: None)
            spent = self.server.cpu_seconds() - before
        if point.failures:
            raise SystemExit(f"calls of {self.name} failed: {point.failures}")
        self.costs.append(Cost(point.rate, spent / point.calls))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    told = parser.parse_args(arguments)
    with _variants() as (plain, others):
        for number in range(told.rounds):
            every = [plain, *others]
            turn = number % len(every)
            for variant in [*every[turn:], *every[:turn]]:
                variant.take_turn(told.seconds)
            print(f"round {number + 1} of {told.rounds}", file=sys.stderr, flush=True)
    text = _page(plain, others, told.rounds, told.seconds)
    print(text)
    if told.out is not None:
        told.out.write_text(text)
    return int(any(_share(plain, each) > each.limit for each in others))


@contextmanager
def _variants() -> Iterator[tuple[Variant, list[Variant]]]:
    """A server that only answers, and those that are compared with it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        collector = stack.enter_context(_collector())
        rest = free_port()
        profiled = folder / "profiled"
        copytree(_DIGITS / "1", profiled / "1")
        rows = np.random.default_rng(1).normal(size=(1000, 64)).astype(np.float32)
        (profiled / "1" / PROFILE_FILE).write_text(json.dumps(profile_of_requests([{"image": rows}])))

        def started(name: str, base: Path, *flags: str) -> Server:
            program = str(Path(sys.executable).with_name("headrace"))

            def command(port: int) -> Sequence[str]:
                return [program, "serve", str(base), "--model_name=digits", f"--port={port}", *flags]

            return stack.enter_context(running(command, folder / f"{name}.log"))

        to = f"--trace_endpoint={collector}"
        page = started("page", _DIGITS, f"--rest_api_port={rest}")
        yield (
            Variant("only answers", 0.0, started("plain", _DIGITS)),
            [
                Variant("nothing", 0.01, started("again", _DIGITS)),
                Variant(f"page, {VIEWERS} viewers", 0.01, page, lambda: _viewers(rest)),
                Variant("traces of 1%", 0.03, started("traces", _DIGITS, to, "--trace_rate=1000000")),
                Variant("traces of 1%, up to 100/s", 0.03, started("limited", _DIGITS, to)),
                Variant("drift of 1%", 0.01, started("drift", profiled)),
            ],
        )


@contextmanager
def _viewers(port: int) -> Iterator[None]:
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

    threads = [Thread(target=look, args=(number / VIEWERS,)) for number in range(VIEWERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextmanager
def _collector() -> Iterator[str]:
    """The address of a collector that drops the spans that it gets."""

    def export(request: bytes, context: object) -> bytes:
        del request, context
        return b""

    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    server = grpc.server(ThreadPoolExecutor(1), handlers=[grpc.method_handlers_generic_handler(_COLLECTOR, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


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


def _page(plain: Variant, others: Sequence[Variant], rounds: int, seconds: float) -> str:
    rows = "\n".join(_row(plain, each) for each in (plain, *others))
    return f"""# What watching costs

Made by `python -m scripts.overheads` on {os.cpu_count()} CPUs, on {time.strftime("%Y-%m-%d")}: servers of the digits
model take turns of {seconds:g} s in {rounds} rounds, each under {CALLERS} callers on {CONNECTIONS} connections, with
the load generator on the same machine. Each is compared with the server that only answers, round by round, and the
medians count. The row "nothing" is a second server that only answers: what it differs by is noise.

| server | requests/s | CPU per request | fewer requests/s | more CPU per request | may cost | kept |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
