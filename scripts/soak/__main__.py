"""Soaks a server for ten minutes and writes what came of it: python -m scripts.soak [--seconds N] [--report FILE]."""

import argparse
import asyncio
import random
import socket
import sys
import tempfile
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import grpc.aio

from scripts.bench.machine import description
from scripts.bench.process import Server, running

from . import callers, hostile
from .report import Outcome, report
from .served import command, save
from .tally import Tally
from .watch import Watch

CHANNELS = 4
HOSTILE_EVERY = 0.05
"""Seconds between two calls of a hostile caller, so that most of the machine is left to the others."""
END_WITHIN = 30.0


def main() -> int:
    """Prints the table; 1 where something was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m scripts.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--report", type=Path, help="where to write it, too")
    options = parser.parse_args()
    random.seed(options.seed)
    machine = description()
    with tempfile.TemporaryDirectory(prefix="headrace-soak-") as name:
        folder = Path(name)
        save(folder)
        rest_port = _free_port()
        with running(partial(command, folder, rest_port), folder / "log") as server:
            outcome = asyncio.run(_soaked(server, rest_port, options.seconds))
        panics = [line for line in (folder / "log").read_text().splitlines() if "panicked" in line]
    text = report(machine, outcome, panics)
    if options.report:
        options.report.write_text(text)
    print(text)
    return 0 if outcome.good and not panics else 1


async def _soaked(server: Server, rest_port: int, seconds: float) -> Outcome:
    tally, watch = Tally(), Watch(server.process.pid, rest_port)
    async with AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=options))
            for _ in range(CHANNELS)
        ]
        good = callers.Target(channels, rest_port)
        await _reached(rest_port)
        # What is opened for the first call of all is there to stay.
        await callers.plain(good, tally)
        await callers.rest(good, tally)
        before = watch.look()
        bad = hostile.Target(server.port, callers.small_request(), callers.large_request())
        until = asyncio.get_running_loop().time() + seconds
        looking = asyncio.create_task(watch.look_often(max(0.2, seconds / 300)))
        async with asyncio.TaskGroup() as group:
            for caller in callers.CALLERS:
                group.create_task(_again(partial(caller, good, tally), 0, until))
            for enemy in hostile.CALLERS:
                group.create_task(_again(partial(enemy, bad, tally), HOSTILE_EVERY, until))
        looking.cancel()
    drained = await _drained(watch, before.files)
    return Outcome(seconds, tally, watch.readings, before, watch.look(), drained)


async def _again(call: "partial[Awaitable[None]]", pause: float, until: float) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        await call()
        await asyncio.sleep(pause)


async def _reached(port: int) -> None:
    """Waits until the REST API, which is started last, can be called.

    Raises:
        TimeoutError: It cannot.
    """
    async with asyncio.timeout(END_WITHIN):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def _drained(watch: Watch, files: int) -> bool:
    """Waits until nothing waits and no connection is left."""
    loop = asyncio.get_running_loop()
    until = loop.time() + END_WITHIN
    while loop.time() < until:
        if watch.look().files <= files and watch.waiting() == 0:
            return True
        await asyncio.sleep(0.1)
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
