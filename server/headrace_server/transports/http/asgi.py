"""The REST API as an ASGI application: bodies in bounds, answers in slices, callers who leave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol, TypeVar

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes.bodies import BodyProcess
from headrace_server.services.http import SMALL_BYTES, Body, HttpAnswer, HttpRequest
from headrace_server.services.tf_serving.rest.outputs import write_error
from headrace_server.services.tf_serving.rest.service import HTTP_STATUS

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answer = Callable[[HttpRequest], Awaitable[HttpAnswer]]

T = TypeVar("T")

SLICE_BYTES = 256 << 10
"""Of an answer, at a time: what a slow caller has not read yet is not copied."""

INTAKE_PAUSE = 0.001
"""Seconds between two chunks of large bodies, of all callers together: taking them in must leave the loop to others."""

BESIDE_BYTES = 1 << 20
"""A body that has more than so many bytes to come is taken in beside the server, if it says how many."""

LENDING = "headrace.lending"
"""The extension of the scope that is a `Lending`."""


class Lending(Protocol):
    """The connection of a request, of which another reads the rest of the body."""

    def lend(self) -> int:
        """Stops reading; a descriptor of the socket, for the caller to close.

        Raises:
            OSError: There is none left.
        """

    def whole(self) -> None:
        """All of the body has been read, and the next request may come."""


class _Left(Exception):
    """The caller is gone."""


class RestApplication:
    """An ASGI application.

    Args:
        answer: From a request to its answer; must not raise.
        max_body_bytes: A larger body, as it is sent, is refused.
        bodies: Takes in large ones.
    """

    def __init__(self, answer: Answer, max_body_bytes: int, bodies: BodyProcess) -> None:
        self._answer = answer
        self._max_body_bytes = max_body_bytes
        self._bodies = bodies
        self._intake = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        body = Body(is_gzip=b"gzip" in headers.get(b"content-encoding", b""))
        try:
            if not self._is_announced_too_large(headers):
                await self._receive(receive, body, _rest(scope, headers, self._max_body_bytes))
            if self._is_announced_too_large(headers) or body.size > self._max_body_bytes:
                await _send(send, _too_large(self._max_body_bytes))
                return
            answer = await _unless_left(self._answer(_request(scope, headers, body)), receive)
            if answer.chunks is None:
                await _send(send, answer)
            else:
                async with aclosing(answer.chunks) as chunks:
                    await _unless_left(_send_chunks(send, answer, chunks), receive)
        except _Left:
            return
        except ServingError as error:
            await _send(send, _refusal(HTTP_STATUS[error.code], error.message))
        finally:
            body.close()

    def _is_announced_too_large(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a caller waits to be told to send a body that it need not send: others may be in the midst of it."""
        waits = headers.get(b"expect", b"").lower() == b"100-continue"
        return waits and int(headers.get(b"content-length", b"0")) > self._max_body_bytes

    async def _receive(self, receive: Receive, body: Body, lent: "_Lent | None") -> None:
        """Takes in a body, up to the chunk that makes it too large.

        Raises:
            ServingError: A large one could not be taken in; what is left of it has not been read.
        """
        more = True
        while more and body.size <= self._max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Left
            more, chunk = message["more_body"], message["body"]
            if more and lent is not None and lent.size - body.size - len(chunk) > BESIDE_BYTES:
                await self._receive_beside(chunk, body, lent)
            elif body.size + len(chunk) <= SMALL_BYTES:
                body.add(chunk)
            else:
                async with self._intake:
                    body.add(chunk)
                    await asyncio.sleep(INTAKE_PAUSE)

    async def _receive_beside(self, chunk: bytes, body: Body, lent: "_Lent") -> None:
        try:
            body.add(chunk)
            file = body.file()
            connection = lent.lending.lend()  # nothing has been waited for since the chunk came: no more has
        except OSError as error:
            raise ServingError(Code.UNAVAILABLE, f"a large body cannot be taken in: {error}") from error
        if await self._bodies.receive(connection, file, body.size, lent.size):
            body.filled(lent.size)
            lent.lending.whole()


class _Lent(NamedTuple):
    """A connection that can be lent, and the bytes of the body that comes over it."""

    lending: Lending
    size: int


def _rest(scope: Scope, headers: Mapping[bytes, bytes], most: int) -> _Lent | None:
    """How to take a body in beside the server; None where its size is not told or too large, or nobody lends."""
    lending, size = scope.get("extensions", {}).get(LENDING), headers.get(b"content-length", b"")
    return _Lent(lending, int(size)) if lending is not None and size.isdigit() and int(size) <= most else None


def _request(scope: Scope, headers: Mapping[bytes, bytes], body: Body) -> HttpRequest:
    query = scope["query_string"]
    return HttpRequest(
        method=scope["method"],
        path=scope["raw_path"].decode("ascii"),
        query=f"?{query.decode('latin-1')}" if query else "",
        origin=headers.get(b"origin", b"").decode("latin-1"),
        body=body,
        headers=headers,
    )


async def _unless_left(answering: Awaitable[T], receive: Receive) -> T:
    """The result, unless nobody waits for it any more: then what it was to come from is cancelled."""
    answer = asyncio.ensure_future(answering)
    leaving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise _Left
        return answer.result()
    finally:
        answer.cancel()
        leaving.cancel()


async def _send_chunks(send: Send, answer: HttpAnswer, chunks: AsyncIterator[bytes]) -> None:
    """Sends an answer as its parts come; a caller who reads slowly holds them up."""
    await send({"type": "http.response.start", "status": answer.status, "headers": _encoded(answer.headers)})
    await send({"type": "http.response.body", "body": bytes(answer.body), "more_body": True})
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def _send(send: Send, answer: HttpAnswer) -> None:
    headers = {**answer.headers, "Content-Length": str(len(answer.body))}
    await send({"type": "http.response.start", "status": answer.status, "headers": _encoded(headers)})
    for start in range(0, len(answer.body), SLICE_BYTES):
        part = bytes(answer.body[start : start + SLICE_BYTES])
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _too_large(most: int) -> HttpAnswer:
    return _refusal(413, f"the body is larger than {most} bytes (--rest_api_max_body_mb)")


def _refusal(status: int, text: str) -> HttpAnswer:
    """Of a body that has not been read to its end."""
    return HttpAnswer(status, write_error(text), {"Content-Type": "application/json", "Connection": "close"})
