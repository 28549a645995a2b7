"""Channels of grpcio."""

# ASYNC109 prefers asyncio.timeout to a `timeout` parameter. But a `timeout` is also sent to the server as the call's
# deadline; asyncio.timeout would limit only the client.
# ruff: noqa: ASYNC109

import json
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from headrace_client.channels.base import SERVER_NAME, Settings, has_addresses, some_at_a_time
from headrace_client.channels.misdirected import port_hint
from headrace_client.request import PATHS, Call, Retry, ServerError

Answer = TypeVar("Answer")


class GrpcioChannel:
    """A channel whose calls block, over a grpc.Channel."""

    def __init__(self, settings: Settings) -> None:
        arguments = channel_options(settings)
        self._metadata = settings.metadata or None
        self._channel = (
            grpc.insecure_channel(settings.target, arguments)
            if settings.credentials is None
            else grpc.secure_channel(settings.target, settings.credentials, arguments)
        )
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {
            path: self._channel.unary_unary(path) for path in PATHS
        }

    def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Makes a call and returns its answer; raises ServerError."""
        message = call.message()
        try:
            response = self._methods[call.path](message, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failed(error) from error.with_traceback(None)
        return call.read(response)

    def call_many(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        """Makes calls, up to `in_flight` at a time; returns the result of each in order: an answer or a ServerError."""
        answers: list[Any] = []
        waiting: deque[tuple[Call[Any], Any]] = deque()
        messages = [call.message() for call in calls]
        for call, message in zip(calls, messages, strict=True):
            if len(waiting) == in_flight:
                answers.append(_result(*waiting.popleft()))
            begun = self._methods[call.path].future(message, timeout=timeout, metadata=self._metadata)
            waiting.append((call, begun))
        return answers + [_result(call, begun) for call, begun in waiting]

    def close(self) -> None:
        """Closes the connection and cancels the calls in flight."""
        self._channel.close()


class AsyncGrpcioChannel:
    """A channel for an event loop, over a grpc.aio.Channel."""

    def __init__(self, settings: Settings) -> None:
        arguments = channel_options(settings)
        self._metadata = settings.metadata or None
        self._channel = (
            grpc.aio.insecure_channel(settings.target, arguments)
            if settings.credentials is None
            else grpc.aio.secure_channel(settings.target, settings.credentials, arguments)
        )
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {
            path: self._channel.unary_unary(path) for path in PATHS
        }

    async def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Makes a call and returns its answer; raises ServerError."""
        return call.read(await self._send(call.path, call.message(), timeout))

    async def call_many(
        self,
        calls: Sequence[Call[Any]],
        timeout: float | None,
        in_flight: int,
    ) -> list[Any]:
        """Makes calls, up to `in_flight` at a time; returns the result of each in order: an answer or a ServerError."""
        messages = [call.message() for call in calls]

        async def send(place: int) -> Any:
            call = calls[place]
            return call.read(await self._send(call.path, messages[place], timeout))

        return await some_at_a_time(send, len(calls), in_flight)

    async def _send(self, path: str, message: bytes, timeout: float | None) -> bytes:
        try:
            return await self._methods[path](message, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failed(error) from error.with_traceback(None)

    async def close(self) -> None:
        """Closes the connection and cancels the calls in flight."""
        await self._channel.close()


def channel_options(settings: Settings) -> list[tuple[str, Any]]:
    """Returns gRPC's channel arguments: the defaults of both clients, overridden by the user's `options`."""
    defaults = {
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
        "grpc.enable_retries": 1,
        "grpc.service_config": json.dumps(_balanced(settings.target) | _service_config(settings.retry)),
    }
    return list({**defaults, **_authority(settings), **dict(settings.options)}.items())


def _authority(settings: Settings) -> dict[str, Any]:
    """The first of a list of addresses as the authority. gRPC itself would send the list, which HTTP/2 forbids."""
    kind, _, addresses = settings.target.partition(":")
    if kind == "dns" or not has_addresses(settings.target) or SERVER_NAME in dict(settings.options):
        return {}
    return {"grpc.default_authority": addresses.partition(",")[0]}


def _balanced(target: str) -> dict[str, Any]:
    """The configuration for using several addresses in turn; by default, gRPC sends every call to the first."""
    return {"loadBalancingConfig": [{"round_robin": {}}]} if has_addresses(target) else {}


def _service_config(retry: Retry) -> dict[str, Any]:
    methods = [dict(zip(("service", "method"), path[1:].split("/"), strict=True)) for path in PATHS]
    if retry.attempts == 1:
        return {"methodConfig": [{"name": methods}]}
    policy = {
        "maxAttempts": retry.attempts,
        "initialBackoff": f"{retry.backoff:f}s",
        "maxBackoff": f"{retry.max_backoff:f}s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    # Retries pause once half of these tokens are gone: a failure costs one token, and a success returns a tenth of one.
    throttling = {"maxTokens": 100, "tokenRatio": 0.1}
    return {"methodConfig": [{"name": methods, "retryPolicy": policy}], "retryThrottling": throttling}


def _result(call: Call[Any], begun: Any) -> Any:
    try:
        response = begun.result()
    except grpc.RpcError as error:
        answer = failed(error)
        answer.__cause__ = error.with_traceback(None)
        return answer
    return call.read(response)


def failed(error: grpc.RpcError) -> ServerError:
    """The error that callers of the clients see.

    The cause is set without its traceback, which would show grpcio's own code first.
    """
    details = error.details() or ""
    return ServerError(error.code(), details, port_hint(details))
