"""HTTP on the native server, on gRPC's connection threads; all requests except plain ones are answered here."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import headrace_native as native

from headrace_batching import LoopDelivery
from headrace_protos import Code
from headrace_server.errors import status_of, timed_out
from headrace_server.services.http import Body, HttpAnswer, HttpRequest
from headrace_server.services.open_inference.rest.service import HTTP_STATUS as INFER_STATUS
from headrace_server.services.open_inference.rest.service import OpenInferenceRest
from headrace_server.services.router import HttpApi
from headrace_server.services.tf_serving.rest.outputs import OTHER_ROWS, SCALAR
from headrace_server.services.tf_serving.rest.service import HTTP_STATUS
from headrace_server.transports.exchange_tasks import ExchangeTasks
from headrace_server.transports.grpc.addresses import address_of
from headrace_server.transports.http.base import HttpOptions, PlainApis, failed_to_listen
from headrace_server.transports.http.refusals import refusal, too_large

Listen = Callable[[str, native.HttpEndpoint, str], int]
"""See `grpc.endpoint.ServesHttp.listen_http`."""


class NativeHttpTransport:
    """A transport for HTTP on a port of the native server. The native server outlives this object.

    Args:
        options: The address and the limits.
        plain: How plain requests are answered.
        api: Answers all other requests.
        listen: The native server's function that begins to listen.
    """

    def __init__(self, options: HttpOptions, plain: PlainApis, api: HttpApi, listen: Listen) -> None:
        self._options = options
        self._api = api
        self._listen = listen
        self._endpoint = _endpoint(options, plain)
        self._exchanges: _Exchanges | None = None

    async def start(self) -> int:
        """Listens, and returns the port.

        Raises:
            ServingError: UNKNOWN if the port is taken.
        """
        options = self._options
        try:
            port = self._listen(address_of(options.host, options.port), self._endpoint, options.ssl_config_file)
        except OSError as error:
            raise failed_to_listen(self._options, error) from error
        self._exchanges = _Exchanges(self._endpoint, self._api)
        self._exchanges.start()
        return port

    async def stop(self, grace: float) -> None:
        """Returns when the native server has drained; the caller must stop that server at the same time."""
        del grace
        if self._exchanges is not None:
            await self._exchanges.drained()


class _Exchanges:
    """The requests that Python code answers, each a task of the running event loop."""

    def __init__(self, endpoint: native.HttpEndpoint, api: HttpApi) -> None:
        self._endpoint = endpoint
        self._api = api
        self._loop = asyncio.get_running_loop()
        self._delivery = LoopDelivery(self._loop)
        self._tasks = ExchangeTasks()
        self._drained = asyncio.Event()

    def start(self) -> None:
        """Takes requests as they arrive: in each iteration of the loop, all waiting requests."""
        self._loop.add_reader(self._endpoint.fileno(), self._take)

    async def drained(self) -> None:
        """Returns when no request is left and none will come."""
        await self._drained.wait()
        self._loop.remove_reader(self._endpoint.fileno())
        await self._tasks.end()

    def _take(self) -> None:
        for kind, request in self._endpoint.take():
            if request is None:
                self._drained.set()
            elif kind == native.BEGIN:
                self._begin(request)
            elif request.owner is not None:
                exchange: _Exchange = request.owner
                if kind == native.SENT:
                    exchange.sent.set()
                else:
                    exchange.cancel()

    def _begin(self, request: native.HttpRequest) -> None:
        request.owner = exchange = _Exchange(request, self._api)
        self._tasks.begin(exchange, exchange.run(self._delivery))


class _Exchange:
    """One request that an API answers.

    Args:
        request: The native side of the request.
        api: Answers the request.
    """

    def __init__(self, request: native.HttpRequest, api: HttpApi) -> None:
        self.task: asyncio.Task[None] | None = None
        self.sent = asyncio.Event()
        self._request = request
        self._api = api

    def cancel(self) -> None:
        """Cancels the request, because nothing waits for the answer."""
        self._request.owner = None
        if self.task is not None:
            self.task.cancel()

    async def run(self, delivery: LoopDelivery) -> None:
        """Gets the answer and sends it."""
        body = Body(is_gzip=self._request.is_gzip)
        try:
            body = _filled(body, self._request)  # fails if there is no memory, or no descriptor for a large body
            answer = await self._api.answer(_read(self._request, body), delivery)
            if answer.chunks is None:
                self._send(answer)  # fails if there is no memory for a copy of the body
                return
        except Exception as error:
            code, text = status_of(error)  # this also logs unexpected exceptions
            self._send(refusal(HTTP_STATUS.get(code, 500), text))
            return
        finally:
            body.close()
        await self._send_pieces(answer, answer.chunks)

    def _send(self, answer: HttpAnswer) -> None:
        headers = list(answer.headers.items())
        self._request.answer(answer.status, headers, bytes(answer.body), answer.keep, answer.fresh)

    async def _send_pieces(self, answer: HttpAnswer, chunks: AsyncGenerator[bytes, None]) -> None:
        self._request.begin(answer.status, list(answer.headers.items()))
        try:
            async with aclosing(chunks):
                await self._send_piece(bytes(answer.body))
                async for chunk in chunks:
                    await self._send_piece(chunk)
        finally:
            self._request.finish()

    async def _send_piece(self, piece: bytes) -> None:
        """Sends a piece, and returns when it has been sent: a caller that reads slowly delays what follows."""
        if piece:
            self.sent.clear()
            self._request.send(piece)
            await self.sent.wait()


def _filled(empty: Body, request: native.HttpRequest) -> Body:
    """The body of a request: `empty`, filled, or another one if it is in a file."""
    taken = request.take_body()
    if isinstance(taken, int):
        return Body.in_file(taken, request.size, is_gzip=request.is_gzip)
    empty.add(taken)
    return empty


def _read(request: native.HttpRequest, body: Body) -> HttpRequest:
    headers = request.headers
    origin = headers.get(b"origin", b"").decode("latin-1")
    return HttpRequest(
        request.method, request.path, request.query, origin, body, headers, certificate=request.certificate
    )


def _endpoint(options: HttpOptions, plain: PlainApis) -> native.HttpEndpoint:
    rest = plain.predict
    return native.HttpEndpoint(
        max_body=options.max_body_bytes,
        timeout=options.timeout,
        statuses=_by_code(HTTP_STATUS),
        headers=list(rest.headers.items()),
        too_large=_prepared(too_large(options.max_body_bytes)),
        late=_prepared(rest.refusal(timed_out())),
        scalar=(int(Code.INVALID_ARGUMENT), SCALAR),
        other_rows=(int(Code.INVALID_ARGUMENT), OTHER_ROWS),
        infer=_infer_answers(plain.infer),
    )


def _infer_answers(infer: OpenInferenceRest) -> "native.InferAnswers":
    return {
        "statuses": _by_code(INFER_STATUS),
        "headers": list(infer.headers.items()),
        "late": _prepared(infer.refusal(timed_out())),
    }


def _by_code(statuses: Mapping[Code, int]) -> list[int]:
    """HTTP statuses by gRPC code; any other code is 500."""
    by_number = {int(code): status for code, status in statuses.items()}
    return [by_number.get(number, 500) for number in range(max(by_number) + 1)]


def _prepared(answer: HttpAnswer) -> tuple[int, list[tuple[str, str]], bytes]:
    return answer.status, list(answer.headers.items()), bytes(answer.body)
