"""The native transport's calls in the event loop, in the form that grpcio's handlers expect."""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NoReturn

import grpc
import headrace_native as native

from headrace_server.services.kept import Count
from headrace_server.transports.exchange_tasks import ExchangeTasks

log = logging.getLogger(__name__)

Metadata = Sequence[tuple[str, str | bytes]]
RpcHandler = Any  # grpc.RpcMethodHandler, whose fields its type stubs omit


class Exchanges:
    """The calls that Python code answers, each a task of the running event loop.

    Args:
        server: The source of calls.
        handlers: The handlers by the number of their method.
    """

    def __init__(self, server: native.Server, handlers: Sequence[RpcHandler]) -> None:
        self._server = server
        self._handlers = handlers
        self._loop = asyncio.get_running_loop()
        self._tasks = ExchangeTasks()
        self._drained = asyncio.Event()

    def start(self) -> None:
        """Takes calls as they arrive: in each iteration of the loop, all waiting calls."""
        self._loop.add_reader(self._server.fileno(), self._take)

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and returns when those in flight have ended, or after `grace` seconds."""
        self._server.stop(grace)
        await self._drained.wait()
        self._loop.remove_reader(self._server.fileno())
        await asyncio.to_thread(self._server.join)
        await self._tasks.end()

    def _take(self) -> None:
        for kind, call, payload in self._server.take():
            self._receive(kind, call, payload)

    def _receive(self, kind: int, call: native.Call | None, payload: bytes | None) -> None:
        if kind == native.BEGIN:
            assert call is not None
            self._begin(call, payload)
        elif kind == native.DRAINED:
            self._drained.set()
        elif call is not None and call.owner is not None:
            exchange: Exchange = call.owner
            if kind == native.CANCELLED:
                exchange.cancel()
            elif kind == native.MESSAGE:
                exchange.received(payload)
            else:
                exchange.sent()

    def _begin(self, call: native.Call, message: bytes | None) -> None:
        handler = self._handlers[call.method]
        exchange = Exchange(call)
        call.owner = exchange
        self._tasks.begin(exchange, _answer(handler, exchange, message))


class Exchange:
    """One call, with the parts of a `grpc.aio.ServicerContext` that grpcio's handlers and servicers use.

    Args:
        call: The native side of the call.
    """

    def __init__(self, call: native.Call) -> None:
        self.task: asyncio.Task[None] | None = None
        self._call = call
        self._code = 0
        self._text = ""
        self._trailers: Metadata = ()
        self._keep: Count | None = None
        # One task of a handler may read while another writes.
        self._reading: asyncio.Future[bytes | None] | None = None
        self._writing: asyncio.Future[None] | None = None

    def cancel(self) -> None:
        """Cancels the handler, because nothing waits for its answer."""
        self._call.owner = None
        if self.task is not None:
            self.task.cancel()

    def received(self, message: bytes | None) -> None:
        """Wakes the reader, with the next message; None at the end."""
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(message)

    def sent(self) -> None:
        """Wakes the writer, whose message has been sent."""
        if self._writing is not None and not self._writing.done():
            self._writing.set_result(None)

    def succeed(self, message: bytes | None) -> None:
        """Ends the call with the handler's last message and the status that it has set, OK if it set none."""
        keep = None if self._trailers else self._keep
        self._call.finish(message if self._code == 0 else None, self._code, self._text, list(self._trailers), keep)

    def keep(self, count: Count) -> None:
        """See `services.kept.KeepsAnswers`."""
        self._keep = count

    def fail(self, code: int, text: str) -> None:
        """Ends the call with only a status."""
        self._call.finish(None, code, text, list(self._trailers))

    async def read_bytes(self) -> bytes | None:
        """Waits for the next message; None at the end."""
        self._reading = asyncio.get_running_loop().create_future()
        self._call.read()
        return await self._reading

    async def write_bytes(self, message: bytes) -> None:
        """Sends a message, and returns when it has been sent."""
        self._writing = asyncio.get_running_loop().create_future()
        self._call.send(message)
        await self._writing

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata of the call."""
        return self._call.metadata

    def time_remaining(self) -> float | None:
        """The seconds that the caller still waits; None means forever."""
        return self._call.time_remaining()

    def peer(self) -> str:
        """The caller's address."""
        return self._call.peer

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        """The client's certificate in PEM, as in grpcio; empty if the client has shown none."""
        certificate = self._call.certificate
        return {"x509_pem_cert": (ssl.DER_cert_to_PEM_cert(certificate).encode(),)} if certificate else {}

    def set_code(self, code: grpc.StatusCode) -> None:
        """Sets the code that the call will end with."""
        self._code = code.value[0]

    def set_details(self, details: str) -> None:
        """Sets the text that the call will end with."""
        self._text = details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Sets the trailing metadata."""
        self._trailers = metadata

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Sends the initial metadata."""
        self._call.send_metadata(list(metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call with a status, and the handler with an exception."""
        self.set_code(code)
        self.set_details(details)
        self._trailers = trailing_metadata or self._trailers
        raise grpc.aio.AbortError


async def _answer(handler: RpcHandler, exchange: Exchange, message: bytes | None) -> None:
    """Runs a handler to its end, which ends the call."""
    try:
        await _run(handler, exchange, message)
    except grpc.aio.AbortError:
        exchange.succeed(None)
    except Exception as error:
        log.exception("a handler failed")
        exchange.fail(grpc.StatusCode.UNKNOWN.value[0], f"Unexpected {type(error)}: {error}")


async def _run(handler: RpcHandler, exchange: Exchange, message: bytes | None) -> None:
    parse = handler.request_deserializer or _same
    serialise = handler.response_serializer or _same
    request = _requests(exchange, parse) if handler.request_streaming else parse(message)
    if not handler.response_streaming:
        answer: Callable[..., Awaitable[Any]] = handler.stream_unary or handler.unary_unary
        exchange.succeed(serialise(await answer(request, exchange)))
        return
    stream: Callable[..., AsyncIterator[Any]] = handler.stream_stream or handler.unary_stream
    responses = stream(request, exchange)
    try:
        async for response in responses:
            await exchange.write_bytes(serialise(response))
    finally:
        # A caller may disconnect between two responses: the handler's cleanup must not be left to the garbage
        # collector.
        if isinstance(responses, AsyncGenerator):
            await responses.aclose()
    exchange.succeed(None)


async def _requests(exchange: Exchange, parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    while (message := await exchange.read_bytes()) is not None:
        yield parse(message)


def _same(message: Any) -> Any:
    return message
