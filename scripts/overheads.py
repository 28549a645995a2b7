"""Measures what watching a server costs: viewers of the live page, traces, and drift.

    python -m scripts.overheads [--seconds=380] [--out=FILE]

Two processes of the same program differ in their costs by up to 3% for as long as they run, and so do two loads on the
same process. So one load runs on a server without a break, and each activity is on for half a second at a time, in
random order: viewers ask for the page or do not, a thousand requests per second ask to be traced or do not, and the
server takes rows for drift or does not. Each half second is compared with those before and after it, in which the
server only answers, because the machine itself is faster or slower for seconds at a time. Exits with status 1 if
anything costs more than it may, by more than twice the standard error.

The load is a closed loop, because a server that has nothing to do looks for requests in a loop for a while: the CPU
time of any further work would replace that of this loop. Every request carries a `traceparent`, so looking for it is
not part of the measured cost of traces; docs/monitoring.md has the cost of that.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from headrace_client.bench.server import Server as BenchServer
from headrace_client.bench.server import native
from headrace_client.bench.settings import MOST_UNDER_WAY, Settings
from headrace_client.bench.workload import prepare
from scripts.overheads_page import ANSWERS, LIMITS, Row, Rows, is_too_much, page
from scripts.watched_server import MODEL, Collector, Viewers, Watched, serving

SECONDS = 380.0
SLICE = 0.5
"""How long each activity is on: as long as the page's state is reused, and as the server waits to send traces."""

LATE = 0.02
"""A slice that is shorter or longer by more than this does not count."""

WARM = 3.0
CALLERS, CONNECTIONS = 64, 4
TRACED = 1000
"""The number of requests per second that ask to be traced, or carry a `traceparent` that does not: about 1% of all."""

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


@dataclass(frozen=True, slots=True)
class Activity:
    """The work of a server in a slice.

    Attributes:
        name: The work besides answering.
        page: Whether browsers show the server's page.
        traces: Whether some of the requests ask to be traced.
        drift: Whether rows are taken for drift.
        lasts: Whether the work still takes CPU time in the next slice, so that only the second of two slices counts.
    """

    name: str
    page: bool = False
    traces: bool = False
    drift: bool = False
    lasts: bool = False


@dataclass(frozen=True, slots=True)
class Slice:
    """Half a second of a load: what is on, and whether it counts."""

    activity: Activity
    counts: bool = True


ONLY_ANSWERS = Activity(ANSWERS)
_NOTHING, _PAGE, _OFF, _TRACES, _DRIFT = LIMITS

WITHOUT_TRACING = (
    Activity(_NOTHING),
    Activity(_PAGE, page=True),
    Activity(_OFF, traces=True),
    Activity(_DRIFT, drift=True),
)
WITH_TRACING = (Activity(_TRACES, traces=True, lasts=True),)

Reading = tuple[float, float, int]
"""A time, the CPU seconds of the server, and the number of calls that have ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the loads last")
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    options = parser.parse_args(arguments)
    rows: Rows = {}
    share = options.seconds / (len(WITHOUT_TRACING) + 2 * len(WITH_TRACING))
    with tempfile.TemporaryDirectory() as folder, closing(Collector()) as collector:
        tracing = (f"--trace_endpoint={collector.address}", "--trace_ratio=0", "--trace_rate=1000000")
        plan = ((WITHOUT_TRACING, (), 1), (WITH_TRACING, tracing, 2))
        for number, (activities, flags, weight) in enumerate(plan):
            with serving(Path(folder) / str(number), *flags) as watched:
                slices = scheduled(activities, share * weight * len(activities))
                for name, row in compared(slices, measure(watched, slices)):
                    rows.setdefault(name, []).append(row)
        if collector.received == 0:
            raise SystemExit("the collector has received no traces")
    text = page(rows)
    print(text)
    if options.out is not None:
        options.out.write_text(text)
    return int(is_too_much(rows))


def scheduled(activities: Sequence[Activity], seconds: float) -> list[Slice]:
    """Slices for about this many seconds: the activities in random order, each between slices of only answers."""
    slices = [Slice(ONLY_ANSWERS, counts=False)] * int(WARM / SLICE) + [Slice(ONLY_ANSWERS)]
    end = seconds / SLICE
    while len(slices) < end:
        for activity in random.sample(activities, len(activities)):
            for each in (activity, ONLY_ANSWERS):
                slices += [Slice(each, counts=False)] * activity.lasts + [Slice(each)]
    return slices


def compared(slices: Sequence[Slice], readings: Sequence[Reading]) -> Iterator[tuple[str, Row]]:
    """The results of each slice that counts, by what was on."""
    results = [(own.activity, each) for own, each in zip(slices, _differences(readings), strict=True) if own.counts]
    for (_, before), (activity, own), (_, after) in zip(results, results[1:], results[2:], strict=False):
        if any(abs(seconds - SLICE) > LATE for seconds, _, _ in (before, own, after)):
            continue  # other work on the machine has kept this program from switching in time
        fewer = 1 - 2 * _rate(own) / (_rate(before) + _rate(after))
        more = 2 * _cpu(own) / (_cpu(before) + _cpu(after)) - 1
        yield activity.name, (_rate(own), _cpu(own), fewer, more)


def _rate(reading: Reading) -> float:
    seconds, _, calls = reading
    return calls / seconds


def _cpu(reading: Reading) -> float:
    _, cpu, calls = reading
    return cpu / calls


def _differences(readings: Iterable[Reading]) -> Iterator[Reading]:
    for before, after in pairwise(readings):
        yield after[0] - before[0], after[1] - before[1], after[2] - before[2]


def measure(watched: Watched, slices: Sequence[Slice]) -> list[Reading]:
    """Loads a server, switches activities on and off, and reads the server's figures at the end of each slice."""
    loads = [_load(watched, "00"), *(_asking(watched, slices, traced=traced) for traced in (False, True))]
    with ExitStack() as stack:
        viewers = stack.enter_context(closing(Viewers(watched.rest)))
        for load, metadata in loads:
            load.start(metadata)
            stack.callback(load.stop)
        began = time.monotonic()
        readings = [_read(watched, loads)]
        drifts = False
        for number, each in enumerate(slices):
            until = began + (number + 1) * SLICE
            if each.activity.drift != drifts:
                drifts = each.activity.drift
                watched.watch_drift(on=drifts)
            if each.activity.page:
                viewers.look(until)
            time.sleep(max(0.0, until - time.monotonic()))
            readings.append(_read(watched, loads))
        if failed := sum(load.progress()[3] for load, _ in loads):
            raise SystemExit(f"{failed} calls failed")
    return readings


def _read(watched: Watched, loads: Sequence[tuple[Any, Any]]) -> Reading:
    return time.monotonic(), watched.server.cpu_seconds(), sum(load.progress()[2] for load, _ in loads)


def _asking(watched: Watched, slices: Sequence[Slice], *, traced: bool) -> tuple[Any, Any]:
    """The requests that ask to be traced, in the slices with traces, or those that do not, in all others."""
    gap, each = 1 / TRACED, int(TRACED * SLICE)
    wanted = [number for number, own in enumerate(slices) if own.activity.traces == traced]
    times = [number * SLICE + turn * gap for number in wanted for turn in range(each)]
    return _load(watched, f"{traced:02}", times)


def _load(watched: Watched, flags: str, times: Sequence[float] = ()) -> tuple[Any, Any]:
    """A load, and its metadata: calls at these times, or a closed loop if there are none."""
    address, metadata = watched.server.address, (("traceparent", f"{_PARENT}{flags}"),)
    settings = Settings(servers=(address,), models={MODEL: 1.0})
    with closing(BenchServer(address, metadata, settings.timeout)) as server:
        kinds = [(kind.weight, kind.requests) for kind in prepare(server, settings).kinds]
    plan = {
        "threads": 1, "connections": CONNECTIONS, "concurrency": MOST_UNDER_WAY if times else CALLERS, "rate": 0.0,
        "poisson": False, "times": times, "order": [0] * len(times), "warmup": 0.0, "seconds": 3600.0,
        "timeout": settings.timeout, "seed": settings.seed,
    }  # fmt: skip
    return native().Load(address, kinds, plan), metadata


if __name__ == "__main__":
    sys.exit(main())
