"""Soaks a server and writes the result: python -m scripts.soak [--seconds N] [--over WAY] [--report FILE]."""

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from scripts.bench.machine import description
from scripts.bench.process import Server, free_port, running

from . import callers, hostile
from .pauses import Pauses
from .report import Outcome, report
from .route import OVER, Route, route
from .served import command, save
from .tally import Tally
from .watch import Watch

CHANNELS = 4
HOSTILE_EVERY = 0.05
"""Seconds between two calls of a hostile caller: enough to leave most of the machine to the other callers."""
END_WITHIN = 30.0


@dataclass(frozen=True)
class Load:
    """The duration of the load, and the pause of each caller between two calls, in seconds."""

    seconds: float
    pause: float


def main() -> int:
    """Prints the table; returns 1 if a requirement was not met."""
    parser = argparse.ArgumentParser(prog="python -m scripts.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--over", choices=OVER, default="tcp", help="the transport of the calls")
    parser.add_argument("--pause", type=float, default=0, help="minimum seconds between two calls of one caller")
    parser.add_argument(
        "--beside", default="nothing else", help="other programs that run on the machine, for the report"
    )
    parser.add_argument("--report", type=Path, help="also write the report to this file")
    options = parser.parse_args()
    random.seed(options.seed)
    machine = description()
    with tempfile.TemporaryDirectory(prefix="headrace-soak-") as name:
        folder = Path(name)
        save(folder)
        way, load = route(options.over, folder, free_port()), Load(options.seconds, options.pause)
        with running(partial(command, folder, way), folder / "log") as server:
            outcome = asyncio.run(_soaked(server, replace(way, port=server.port), load))
        panics = [line for line in (folder / "log").read_text().splitlines() if "panicked" in line]
    how = f"Over {options.over.upper()}; commit {_commit()}; also running on the machine: {options.beside}."
    text = report(options.over, [how, *machine], outcome, panics, options.pause)
    if options.report:
        options.report.write_text(text)
    print(text)
    return 0 if outcome.good and not panics else 1


async def _soaked(server: Server, way: Route, load: Load) -> Outcome:
    tally, watch = Tally(), Watch(server.process.pid, way)
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(way.channel()) for _ in range(CHANNELS)]
        good = callers.Target(channels, way)
        await _reached(way)
        # The first calls come before the first reading, since the server keeps the resources that they open.
        for first in (callers.plain, callers.rest, callers.streams):
            await first(good, tally)
        before = watch.look()
        bad = hostile.Target(way, callers.small_request(), callers.large_request())
        pauses = Pauses(watch, load.seconds)
        # If a reading fails, the callers must not wait for the end of a pause.
        async with asyncio.TaskGroup() as watching:
            every = max(0.2, load.seconds / 300)
            readings = [watching.create_task(each) for each in (pauses.look_often(every), pauses.take())]
            async with asyncio.TaskGroup() as group:
                for caller in callers.CALLERS:
                    group.create_task(_again(partial(caller, good, tally), load.pause, pauses))
                for enemy in hostile.CALLERS:
                    group.create_task(_again(partial(enemy, bad, tally), max(HOSTILE_EVERY, load.pause), pauses))
            for each in readings:
                each.cancel()
    drained = await _drained(watch, before.files)
    return Outcome(load.seconds, tally, pauses.loaded, before, watch.look(), drained, pauses.resting)


async def _again(call: "partial[Awaitable[None]]", pause: float, pauses: Pauses) -> None:
    while await pauses.over():
        with pauses.calling():
            await call()
        await asyncio.sleep(pause)


async def _reached(way: Route) -> None:
    """Waits until the REST API, which starts last, can be called.

    Raises:
        TimeoutError: The API cannot be called.
    """
    async with asyncio.timeout(END_WITHIN):
        while True:
            try:
                _, writer = await way.to_rest()
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def _drained(watch: Watch, files: int) -> bool:
    """Waits until no rows wait and no connections are left; returns whether that happened in time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + END_WITHIN
    while loop.time() < until:
        if watch.look().files <= files and watch.waiting() == 0:
            return True
        await asyncio.sleep(0.1)
    return False


def _commit() -> str:
    """A short name for the state of the checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
