"""A process that runs one server: its event loop, and its life until a signal ends it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from headrace_server.commands.collecting import fewer_collections
from headrace_server.commands.drain import Ending
from headrace_server.config.run import Config
from headrace_server.metrics.heap import bound_arenas
from headrace_server.server import Server

log = logging.getLogger(__name__)

REPORT_SECONDS = 10.0
"""Seconds between two log lines that say what a server is waiting for before it can serve."""


def run(config: Config, started: Callable[[Server], None] = lambda _: None) -> None:
    """Runs a server until SIGTERM or SIGINT, then drains it; a second signal cuts the drain short.

    Args:
        config: The server's configuration.
        started: Called with the server once it serves.

    Raises:
        ServingError: The server cannot start.
    """
    bound_arenas()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(config, started))


def check(config: Config) -> dict[str, list[int]]:
    """Starts a server, which loads, tests and warms up its models, and stops it immediately.

    Args:
        config: The server's configuration; free ports are used instead of its ports.

    Returns:
        The versions that were ready, by the name of their model, both sorted.

    Raises:
        ServingError: The server cannot start.
    """
    config = replace(config, port=0, rest_api_port=0, grpc_socket_path="", preload_models=(*config.preload_models, "*"))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_check(config))


async def _check(config: Config) -> dict[str, list[int]]:
    server = Server(config)
    try:
        await server.start()
        return {name: sorted(versions) for name, versions in sorted(server.serving.items())}
    finally:
        await server.stop()


def loop_factory() -> Any:
    """The event loop of uvloop if it is installed; it saves about a seventh of the CPU time of a call."""
    if find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


async def _serve(config: Config, started: Callable[[Server], None]) -> None:
    ending = Ending(config.lame_duck_seconds + config.drain_seconds)
    server = Server(config)
    with fewer_collections():
        serves = await _started(server, ending.stop)
    if serves:
        started(server)
        await ending.stop.wait()
        if config.lame_duck_seconds:
            log.info("the server is no longer ready, but accepts calls for another %g s", config.lame_duck_seconds)
            server.turn_away()
            await ending.pause(config.lame_duck_seconds)
        log.info("the server drains: it accepts no new calls")
    await ending.end(server.stop(), server.drained)


async def _started(server: Server, stop: asyncio.Event) -> bool:
    """Whether the server started before a signal stopped it.

    Raises:
        ServingError: The server cannot start.
    """
    starting = asyncio.ensure_future(server.start())
    reporting = asyncio.ensure_future(_report_awaited(server))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    for future in (starting, stopping, reporting):
        future.cancel()
    with suppress(asyncio.CancelledError):
        await starting
        return True
    return False


async def _report_awaited(server: Server) -> None:
    """Logs regularly which models the server waits for: nothing else would explain why it does not answer yet."""
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        for model in server.awaited():
            log.warning(
                "nothing is served yet: the server waits for a version of %s, that is, for a folder such as %s/1",
                model.name,
                model.where,
            )
