"""Channels of headrace-native: HTTP/2 in Rust, and conversion of a Predict's arrays outside the interpreter."""

# ASYNC109 prefers asyncio.timeout to a `timeout` parameter. But a `timeout` is also sent to the server as the call's
# deadline; asyncio.timeout would limit only the client.
# ruff: noqa: ASYNC109

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import grpc
import headrace_native as native

from headrace_client.channels.base import Metadata, Settings, some_at_a_time
from headrace_client.channels.misdirected import port_hint
from headrace_client.request import CLOSED, CODES, PREDICT, Call, ServerError

Answer = TypeVar("Answer")

_UNBOUNDED = sys.maxsize


class CallError(grpc.RpcError):
    """The failure of a call over headrace-native, with the methods of a grpc.Call.

    `tls_failed` says whether the call has failed because the TLS handshake did.
    """

    def __init__(
        self, code: grpc.StatusCode, details: str, metadata: Metadata = (), *, tls_failed: bool = False
    ) -> None:
        super().__init__(code, details)
        self.tls_failed = tls_failed
        self._code = code
        self._details = details
        self._metadata = metadata

    def code(self) -> grpc.StatusCode:
        """Returns the status code."""
        return self._code

    def details(self) -> str:
        """Returns the server's own message, or the client's."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Returns the trailing metadata: names and values, which are bytes if the name ends in `-bin`."""
        return self._metadata

    def __str__(self) -> str:
        return f"{self._code.name}: {self._details}"


class NativeChannel:
    """A channel of headrace-native whose calls block. It starts no thread: the calling threads drive the connection.

    A forked process opens a connection of its own with its first call.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._channel = _channel(settings)
        self._process = os.getpid()

    def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Makes a call and returns its answer; raises ServerError."""
        answer = _answer(call, self._own().call(_request(call), timeout))
        if isinstance(answer, ServerError):
            raise answer
        result: Answer = answer
        return result

    def call_many(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        """Makes calls, up to `in_flight` at a time; returns the result of each in order: an answer or a ServerError."""
        answers = self._own().call_many([_request(call) for call in calls], timeout, in_flight)
        return [_answer(call, answer) for call, answer in zip(calls, answers, strict=True)]

    def close(self) -> None:
        """Closes the connection and cancels the calls in flight."""
        self._own().close()

    def _own(self) -> native.ClientChannel:
        process = os.getpid()
        if process != self._process:
            self._channel = _channel(self._settings)
            self._process = process
        return self._channel


class AsyncNativeChannel:
    """A channel of headrace-native for an event loop.

    The first call starts a thread that drives the connection without the interpreter.
    """

    def __init__(self, settings: Settings) -> None:
        self._channel = _channel(settings)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Makes a call and returns its answer; raises ServerError."""
        answer = _answer(call, await self._send(_request(call), timeout))
        if isinstance(answer, ServerError):
            raise answer
        result: Answer = answer
        return result

    async def call_many(
        self,
        calls: Sequence[Call[Any]],
        timeout: float | None,
        in_flight: int,
    ) -> list[Any]:
        """Makes calls, up to `in_flight` at a time; returns the result of each in order: an answer or a ServerError."""
        requests = [_request(call) for call in calls]

        async def send(place: int) -> Any:
            return _answer(calls[place], await self._send(requests[place], timeout))

        return await some_at_a_time(send, len(calls), in_flight)

    async def _send(self, request: native.ClientRequest, timeout: float | None) -> Any:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._channel.fileno(), self._take)
        waiting = self._loop.create_future()
        number = self._channel.start(request, timeout)
        self._waiting[number] = waiting
        try:
            return await waiting
        finally:
            # A call that has ended is no longer in the dictionary: this one is being cancelled.
            if self._waiting.pop(number, None) is not None:
                self._channel.cancel(number)

    async def close(self) -> None:
        """Closes the connection and cancels the calls in flight."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(_failed(CallError(grpc.StatusCode.CANCELLED, CLOSED)))

    def _take(self) -> None:
        for number, answer in self._channel.take():
            waiting = self._waiting.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)


def _channel(settings: Settings) -> native.ClientChannel:
    bounds: dict[str, int] = dict(settings.options)
    limits: native.ClientLimits = {
        "attempts": settings.retry.attempts,
        "backoff": settings.retry.backoff,
        "max_backoff": settings.retry.max_backoff,
        "max_send": _bound(bounds.get("grpc.max_send_message_length", -1)),
        "max_receive": _bound(bounds.get("grpc.max_receive_message_length", -1)),
    }
    return native.ClientChannel(settings.target, list(settings.metadata), limits, settings.tls)


def _bound(given: int) -> int:
    return _UNBOUNDED if given < 0 else given


def _request(call: Call[Any]) -> native.ClientRequest:
    """Returns the request of a call; protobuf writes the inputs that the native code does not support."""
    arrays = call.path == PREDICT
    if call.inputs:
        try:
            return native.ClientRequest(call.path, call.head, call.arrays(), arrays)
        except (BufferError, TypeError, ValueError):
            pass  # strings, scalars, dtypes of ml_dtypes, or values that cannot be sent, which are reported below
    return native.ClientRequest(call.path, call.message(), None, arrays)


def _answer(call: Call[Any], answer: Any) -> Any:
    if isinstance(answer, native.Failure):
        return _failed(CallError(CODES[answer.code], answer.text, answer.metadata, tls_failed=answer.tls_failed))
    if isinstance(answer, bytes):
        return call.read(answer)
    return answer


def _failed(cause: CallError) -> ServerError:
    error = ServerError(cause.code(), cause.details(), port_hint(cause.details()))
    error.__cause__ = cause
    return error
