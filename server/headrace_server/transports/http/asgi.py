"""The REST API as an ASGI application: limits bodies, sends answers in slices, and notices callers that disconnect."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from headrace_protos import Code
from headrace_server.errors import ServingError, status_of
from headrace_server.models.answers import MEMORY
from headrace_server.services.http import SMALL_BYTES, Body, HttpAnswer, HttpRequest
from headrace_server.tasks import end_all
from headrace_server.transports.budget import Budget, Held
from headrace_server.transports.http.refusals import refusal, too_large

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

T = TypeVar("T")

SLICE_BYTES = 256 << 10
"""The number of bytes of an answer per `send`. The part that a slow caller has not read yet is not copied."""

TOO_MANY_REQUESTS = 429
UNAVAILABLE = 503

AUTHORIZATION = b"authorization"

INTAKE_PAUSE = 0.001
"""Seconds between two chunks of large bodies, of all callers together: reading them must leave time for others."""


class _Left(Exception):
    """The caller has disconnected."""


class RestApplication:
    """An ASGI application.

    Args:
        answer: Returns the answer to a request; must not raise.
        max_body_bytes: The maximum size of a body as received, before it is decompressed; a larger one is refused.
        budget: The limit on bodies and answers of all callers.
    """

    def __init__(
        self, answer: Callable[[HttpRequest], Awaitable[HttpAnswer]], max_body_bytes: int, budget: Budget
    ) -> None:
        self._answer = answer
        self._budget = budget
        self._max_body_bytes = max_body_bytes
        self._intake = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        with self._budget.hold() as held:
            try:
                await self._exchange(scope, receive, send, held)
            except ServingError as error:
                status = UNAVAILABLE if error.code == Code.UNAVAILABLE else TOO_MANY_REQUESTS
                await _send(send, refusal(status, error.message))

    async def _exchange(self, scope: Scope, receive: Receive, send: Send, held: Held) -> None:
        headers = _by_name(scope["headers"])
        body = Body(is_gzip=b"gzip" in headers.get(b"content-encoding", b""))
        try:
            if b"content-length" in headers and b"transfer-encoding" in headers:
                # A proxy may have understood another end of this body; RFC 9112, 6.3.
                await _send(send, refusal(400, "a request must not have both Content-Length and Transfer-Encoding"))
                return
            if not self._is_announced_too_large(headers):
                await self._receive(receive, body, held)
            if self._is_announced_too_large(headers) or body.size > self._max_body_bytes:
                await _send(send, too_large(self._max_body_bytes))
                return
            MEMORY.set(held)
            answer = await _unless_left(self._answer(_request(scope, headers, body)), receive)
            held.settle(len(answer.body))
            if answer.chunks is None:
                await _send(send, answer)
            else:
                async with aclosing(answer.chunks) as chunks:
                    await _unless_left(_send_chunks(send, answer, chunks), receive)
        except _Left:
            return
        finally:
            body.close()

    def _is_announced_too_large(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a caller that waits for permission to send a body (100-continue) announces one that is too large."""
        waits = headers.get(b"expect", b"").lower() == b"100-continue"
        return waits and int(headers.get(b"content-length", b"0")) > self._max_body_bytes

    async def _receive(self, receive: Receive, body: Body, held: Held) -> None:
        """Reads a body, up to the chunk that makes it too large.

        Raises:
            ServingError: There is no memory or no descriptor for the body. The rest of it has been skipped, since a
                caller who is still sending would lose the answer with the connection.
        """
        more = True
        while more and body.size <= self._max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Left
            more, chunk = message["more_body"], message["body"]
            try:
                held.grow(len(chunk))
                await self._keep(body, chunk)
            except ServingError:
                await self._skip(receive, more=more)
                raise

    async def _skip(self, receive: Receive, *, more: bool) -> None:
        """Reads the rest of a body, up to the largest size of a body, if there is more of it."""
        skipped = 0
        while more and skipped <= self._max_body_bytes:
            message = await receive()
            more, skipped = message.get("more_body", False), skipped + len(message.get("body", b""))

    async def _keep(self, body: Body, chunk: bytes) -> None:
        if body.size + len(chunk) <= SMALL_BYTES:
            _add(body, chunk)
            return
        async with self._intake:
            _add(body, chunk)
            await asyncio.sleep(INTAKE_PAUSE)


def _add(body: Body, chunk: bytes) -> None:
    """Adds a chunk to a body.

    Raises:
        ServingError: The system has no descriptor or no memory for it.
    """
    try:
        body.add(chunk)
    except OSError as error:
        raise ServingError(*status_of(error)) from error


def _by_name(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name.

    If several headers have the same name, the last one counts. Several Authorization headers are joined into one value,
    which no way of authentication accepts.
    """
    headers = dict(pairs)
    shown = [value for name, value in pairs if name == AUTHORIZATION]
    return {**headers, AUTHORIZATION: b", ".join(shown)} if len(shown) > 1 else headers


def _request(scope: Scope, headers: Mapping[bytes, bytes], body: Body) -> HttpRequest:
    query = scope["query_string"]
    return HttpRequest(
        method=scope["method"],
        path=scope["raw_path"].decode("ascii"),
        query=f"?{query.decode('latin-1')}" if query else "",
        origin=headers.get(b"origin", b"").decode("latin-1"),
        body=body,
        headers=headers,
        peer=":".join(map(str, scope.get("client") or ())),
    )


async def _unless_left(answering: Awaitable[T], receive: Receive) -> T:
    """Awaits a computation; cancels it if the HTTP client disconnects first."""
    answer = asyncio.ensure_future(answering)
    leaving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise _Left
        return answer.result()
    finally:
        # Both must have ended before the calling function closes the objects that they use: a generator cannot be
        # closed while it runs.
        await end_all((answer, leaving))


async def _send_chunks(send: Send, answer: HttpAnswer, chunks: AsyncIterator[bytes]) -> None:
    """Sends an answer part by part; a caller that reads slowly delays the computation of the next part."""
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
