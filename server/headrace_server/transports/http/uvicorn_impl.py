"""HTTP on uvicorn, in the event loop of the services, for servers without headrace_native."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from headrace_batching import LoopDelivery
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.router import HttpApi
from headrace_server.transports.budget import Budget
from headrace_server.transports.http.asgi import RestApplication
from headrace_server.transports.http.base import HttpOptions, failed_to_listen
from headrace_server.transports.http.stalling import WatchedProtocol, end_stalled

KEEP_ALIVE_SECONDS = 50
"""Seconds that a connection may be idle: longer than the pools of most clients keep one."""

MAX_HEAD_BYTES = 512 << 10
"""The maximum number of bytes of a request's head."""


HALF_SECONDS = 1.0
"""Seconds between two checks for incomplete requests while the server stops."""


class UvicornTransport:
    """A transport for HTTP on a port of its own.

    Args:
        options: The address and the limits.
        api: Answers the requests.
        budget: The limit on the memory that the server uses for callers.
    """

    def __init__(self, options: HttpOptions, api: HttpApi, budget: Budget) -> None:
        self._budget = budget
        self._options = options
        self._api = api
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens, and returns the port.

        Raises:
            ServingError: UNKNOWN if the port is taken.
        """
        delivery = LoopDelivery(asyncio.get_running_loop())

        async def answer(request: HttpRequest) -> HttpAnswer:
            return await self._api.answer(request, delivery)

        listener = _listener(self._options)
        self._server = _Server(_config(RestApplication(answer, self._options.max_body_bytes, self._budget)))
        self._serving = asyncio.create_task(self._server.serve([listener]))
        await self._server.listening.wait()
        if self._options.stall_seconds:
            watch = end_stalled(self._server.server_state.connections, self._options.stall_seconds)
            self._watching = asyncio.create_task(watch)
        port: int = listener.getsockname()[1]
        return port

    async def stop(self, grace: float) -> None:
        """Accepts no more requests, and returns when those in flight have ended, or after `grace` seconds."""
        if self._server is not None and self._serving is not None:
            self._server.config.timeout_graceful_shutdown = max(1, round(grace))
            self._server.should_exit = True
            ending = asyncio.ensure_future(self._server.end_halves())
            try:
                await self._serving
            finally:
                ending.cancel()
                if self._watching is not None:
                    self._watching.cancel()


class _Server(uvicorn.Server):
    """A uvicorn server that does not handle signals, and reports when it is listening."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does nothing: signals are handled by the process, not by this server."""
        yield

    async def end_halves(self) -> None:
        """Ends connections whose request is still incomplete at the second check: they have no call in flight."""
        known: set[object] = set()
        while True:
            await asyncio.sleep(HALF_SECONDS)
            halves = [
                c for c in self.server_state.connections if (cycle := getattr(c, "cycle", None)) and cycle.more_body
            ]
            for connection in halves:
                if connection in known:
                    connection.transport.abort()
            known.update(halves)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens."""
        await super().startup(sockets)
        self.listening.set()


def _config(application: RestApplication) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        interface="asgi3",
        http=WatchedProtocol,  # h11, which is uvicorn's only parser with a limit on the head
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


def _listener(options: HttpOptions) -> socket.socket:
    """The socket that listens at the named address, or else, as in TF Serving, at all addresses.

    These include IPv6 addresses if the system has IPv6.
    """
    both = not options.host and socket.has_dualstack_ipv6()
    host = options.host or ("::" if both else "0.0.0.0")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, options.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, dualstack_ipv6=both, backlog=1024)
    except OSError as error:
        raise failed_to_listen(options, error) from error
