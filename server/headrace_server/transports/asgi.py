"""The REST API as an ASGI application: bodies in bounds, answers in slices, callers who leave."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from headrace_server.services.http_messages import SMALL_BYTES, Body, HttpAnswer, HttpRequest
from headrace_server.services.json_outputs import write_error

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answer = Callable[[HttpRequest], Awaitable[HttpAnswer]]

SLICE_BYTES = 256 << 10
"""Of an answer, at a time: what a slow caller has not read yet is not copied."""


INTAKE_PAUSE = 0.001
"""Seconds between two chunks of large bodies, of all callers together: taking them in must leave the loop to others."""


class _Left(Exception):
    """The caller is gone."""


class RestApplication:
    """An ASGI application.

    Args:
        answer: From a request to its answer; must not raise.
        max_body_bytes: A larger body, as it is sent, is refused.
    """

    def __init__(self, answer: Answer, max_body_bytes: int) -> None:
        self._answer = answer
        self._max_body_bytes = max_body_bytes
        self._intake = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        body = Body(is_gzip=b"gzip" in headers.get(b"content-encoding", b""))
        try:
            if not self._is_announced_too_large(headers):
                await self._receive(receive, body)
            if self._is_announced_too_large(headers) or body.size > self._max_body_bytes:
                await _send(send, _too_large(self._max_body_bytes))
                return
            answer = await _unless_left(self._answer(_request(scope, headers, body)), receive)
            await _send(send, answer)
        except _Left:
            return
        finally:
            body.close()

    def _is_announced_too_large(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a caller waits to be told to send a body that it need not send: others may be in the midst of it."""
        waits = headers.get(b"expect", b"").lower() == b"100-continue"
        return waits and int(headers.get(b"content-length", b"0")) > self._max_body_bytes

    async def _receive(self, receive: Receive, body: Body) -> None:
        """Takes in a body, up to the chunk that makes it too large."""
        more = True
        while more and body.size <= self._max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Left
            more = message["more_body"]
            if body.size + len(message["body"]) <= SMALL_BYTES:
                body.add(message["body"])
                continue
            async with self._intake:
                body.add(message["body"])
                await asyncio.sleep(INTAKE_PAUSE)


def _request(scope: Scope, headers: Mapping[bytes, bytes], body: Body) -> HttpRequest:
    query = scope["query_string"]
    return HttpRequest(
        method=scope["method"],
        path=scope["raw_path"].decode("ascii"),
        query=f"?{query.decode('latin-1')}" if query else "",
        origin=headers.get(b"origin", b"").decode("latin-1"),
        body=body,
    )


async def _unless_left(answering: Awaitable[HttpAnswer], receive: Receive) -> HttpAnswer:
    """The answer, unless nobody waits for it any more: then what it was to come from is cancelled."""
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


async def _send(send: Send, answer: HttpAnswer) -> None:
    headers = {**answer.headers, "Content-Length": str(len(answer.body))}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    for start in range(0, len(answer.body), SLICE_BYTES):
        part = bytes(answer.body[start : start + SLICE_BYTES])
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _too_large(most: int) -> HttpAnswer:
    text = f"the body is larger than {most} bytes (--rest_api_max_body_mb)"
    return HttpAnswer(413, write_error(text), {"Content-Type": "application/json", "Connection": "close"})
