"""HTTP on uvicorn: the socket, the protocol, and the end of both, in the event loop of the services."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace_batching import LoopDelivery
from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes.bodies import BodyProcess
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.router import HttpApi
from headrace_server.transports.http.asgi import LENDING, RestApplication

KEEP_ALIVE_SECONDS = 50
"""That a connection may be idle: longer than the pools of most clients keep one."""


MAX_HEAD_BYTES = 512 << 10
"""Of a request's head, or of what follows its body, at least: more than one read of a socket takes in."""

_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class UvicornTransport:
    """The REST API on a port.

    Args:
        port: On all interfaces; 0 takes a free one.
        api: Answers the requests.
        max_body_bytes: A larger body is refused.
    """

    def __init__(self, port: int, api: HttpApi, max_body_bytes: int) -> None:
        self._port = port
        self._api = api
        self._max_body_bytes = max_body_bytes
        self._bodies = BodyProcess()
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens; the port that it got.

        Raises:
            ServingError: UNKNOWN, the port is taken.
        """
        delivery = LoopDelivery(asyncio.get_running_loop())

        async def answer(request: HttpRequest) -> HttpAnswer:
            return await self._api.answer(request, delivery)

        listener = _listener(self._port)
        application = RestApplication(answer, self._max_body_bytes, self._bodies)
        self._server = _Server(_config(application))
        self._serving = asyncio.create_task(self._server.serve([listener]))
        await self._server.listening.wait()
        port: int = listener.getsockname()[1]
        return port

    async def stop(self, grace: float) -> None:
        """Takes no more requests, and returns when those in flight have ended, or after `grace` seconds."""
        if self._server is not None and self._serving is not None:
            self._server.config.timeout_graceful_shutdown = max(1, round(grace))
            self._server.should_exit = True
            await self._serving
        self._bodies.close()


class _Server(uvicorn.Server):
    """One that leaves signals alone and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does nothing: the process decides what a signal means."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens."""
        await super().startup(sockets)
        self.listening.set()


class _Protocol(HttpToolsProtocol):
    """Uvicorn's, which alone takes in a head without end, in time that grows with the square of its length."""

    _untold = 0  # bytes since the last end of a head, or piece of a body

    def data_received(self, data: bytes) -> None:
        """Takes in what has come, and gives up on a caller that never comes to the end of a head."""
        self._untold += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._untold > MAX_HEAD_BYTES and not self.transport.is_closing():
            # Its type does not say that there is no cycle before the first request.
            if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
                self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._asks_for_another():
                # TF Serving speaks nothing else, and goes on: so does this, as if nobody had asked.
                head = self._head_without_upgrade()
                self._begin_anew()
                self._parse(head + data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _asks_for_another(self) -> bool:
        """Whether a request asks for another protocol beside what it asks for."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [word for word in value.split(b",") if word.strip().lower() in (b"close", b"keep-alive")]
                lines += [b"connection: " + b",".join(kept)] if kept else []
            elif name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join((*lines, b"", b""))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._untold = 0
        if self._asks_for_another():
            return  # it comes once more
        self.scope["extensions"] = {LENDING: self}  # type: ignore[dict-item]  # to ASGI's types it is a dict
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole."""
        if not self._asks_for_another():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body is here."""
        self._untold = 0
        super().on_body(body)

    def lend(self) -> int:
        """As `asgi.Lending`."""
        self.flow.pause_reading()
        descriptor: int = os.dup(self.transport.get_extra_info("socket").fileno())
        return descriptor

    def whole(self) -> None:
        """As `asgi.Lending`; the parser that there is waits for bytes that it will never see."""
        self._begin_anew()
        self.on_message_complete()

    def _begin_anew(self) -> None:
        """Reads what comes next as the beginning of a request."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does


def _config(application: RestApplication) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        interface="asgi3",
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


def _listener(port: int) -> socket.socket:
    """TF Serving: on both families where there is IPv6, else on IPv4 alone."""
    has_ipv6 = socket.has_dualstack_ipv6()
    family, host = (socket.AF_INET6, "::") if has_ipv6 else (socket.AF_INET, "0.0.0.0")
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=has_ipv6, backlog=1024)
    except OSError as error:
        raise ServingError(Code.UNKNOWN, f"Failed to start HTTP Server at localhost:{port}: {error}") from error
