"""Counts the CPU time that traces, drift and viewers of the live page take, each timed alone.

    python -m scripts.overheads_counted [--seconds=10] [--out=docs/benchmarks/overheads_counted.md]

Other work on the machine hardly changes these figures, while the differences that `scripts.overheads` measures need a
machine that does nothing else. Traces and drift are timed where they run, in a server of this process under load. The
viewers' figure is the CPU time of an idle server with them, minus that of the same server without them.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_client.bench.running import run
from headrace_client.bench.settings import Settings, Stage
from headrace_server import Config
from headrace_server.commands import process
from headrace_server.monitoring.drift import Watch
from headrace_server.monitoring.traces import Tracer
from scripts.bench.process import free_port
from scripts.overheads import CALLERS, CONNECTIONS
from scripts.watched_server import MODEL, VIEWERS, Collector, Viewers, Watched, serving, write_model

RATIO = 0.01


@dataclass(slots=True)
class Timed:
    """Calls of a function: how many there were, and the CPU seconds that their threads spent in them."""

    calls: int = 0
    seconds: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that does the same, and records its calls and their CPU time here."""

        def timed(*arguments: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.thread_time() - began
                self.calls += 1

        return timed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    options = parser.parse_args(arguments)
    seconds, rows = options.seconds, list[str]()
    with tempfile.TemporaryDirectory() as folder, closing(Collector()) as collector:
        with serving(Path(folder) / "idle") as watched, closing(Viewers(watched.rest)) as viewers:
            more = _idle(watched, viewers.look, seconds) - _idle(watched, _sleep, seconds)
            rows.append(_row("page", f"{VIEWERS} viewers of an idle server", more))
        write_model(Path(folder) / "busy")
        rows += _count_under_load(Path(folder) / "busy" / MODEL, collector.address, seconds)
    page = _page(rows)
    print(page)
    if options.out is not None:
        options.out.write_text(page)
    return 0


def _row(name: str, often: str, spent: float, more: str = "") -> str:
    return f"| {name} | {often} | {spent * 1e3:.1f} ms{more} | {spent / (os.cpu_count() or 1):.2%} |"


def _page(rows: Sequence[str]) -> str:
    table = "\n".join(rows)
    return f"""# CPU time of the monitoring code

Made by `python -m scripts.overheads_counted` on {os.cpu_count()} CPUs, on {time.strftime("%Y-%m-%d")}, with the load
generator on the same machine: the CPU time of the code itself, timed where it runs. Its effect on concurrent requests,
for example by filling the CPU's caches, is not counted; see [what monitoring costs](overheads.md)
for that. Traces include their messages to the collector, except for the work of gRPC's own threads.

| what | how often | CPU per second | of the machine's CPU time |
| --- | --- | ---: | ---: |
{table}
"""


def _sleep(until: float) -> None:
    time.sleep(max(0.0, until - time.monotonic()))


def _idle(watched: Watched, look: Callable[[float], None], seconds: float) -> float:
    """The CPU time per second of a server without requests, while viewers watch it for some seconds."""
    look(time.monotonic() + 1)
    began, before = time.monotonic(), watched.server.cpu_seconds()
    look(began + seconds)
    return (watched.server.cpu_seconds() - before) / (time.monotonic() - began)


def _count_under_load(model: Path, collector: str, seconds: float) -> list[str]:
    """The CPU time of traces and drift in a server that runs in this process, and that ends afterwards."""
    flush, take = Timed(), Timed()
    Tracer.flush = flush.around(Tracer.flush)  # type: ignore[method-assign]
    Watch.take = take.around(Watch.take)  # type: ignore[method-assign]
    port = free_port()
    config = Config(
        model_base_path=str(model), model_name="digits", port=port, trace_endpoint=collector, trace_ratio=RATIO,
        trace_rate=1e6, drift_ratio=RATIO,
    )  # fmt: skip

    loads: list[Future[list[str]]] = []
    with ThreadPoolExecutor(1) as pool:
        process.run(config, lambda _: loads.append(pool.submit(_load, port, seconds, flush, take)))
    return loads[0].result()


def _load(port: int, seconds: float, flush: Timed, take: Timed) -> list[str]:
    settings = Settings(
        servers=(f"127.0.0.1:{port}",), models={"digits": 1.0}, stages=(Stage("closed", CALLERS),), warmup=0.0,
        seconds=seconds, connections=CONNECTIONS,
    )  # fmt: skip
    try:
        (point,) = run(settings, lambda *_: None)
        if point.failures:
            raise SystemExit(f"calls failed: {point.failures}")
        often = f"{RATIO:.0%} of {point.rate:,.0f} requests/s"
        traced = point.rate * RATIO
        spent = flush.seconds / seconds
        return [
            _row("traces", often, spent, f", {spent / traced * 1e6:.1f} us each"),
            _row("drift", f"{often}, {take.calls / seconds:.0f} rows per second", take.seconds / seconds),
        ]
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
