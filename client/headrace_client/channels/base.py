"""The protocols of channels, and their settings."""

# ASYNC109 prefers asyncio.timeout to a `timeout` parameter. But a `timeout` is also sent to the server as the call's
# deadline; asyncio.timeout would limit only the client.
# ruff: noqa: ASYNC109

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import grpc

from headrace_client.request import Call, Hedge, Retry, ServerError

Answer = TypeVar("Answer")

SERVER_NAME = "grpc.ssl_target_name_override"
"""gRPC's option with the name that a server's certificate must have, in place of the target's."""

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The target of a channel, and its settings.

    `tls` is what headrace-native makes of `credentials`: its keys and certificates, and the name that the server's
    certificate must have if it is not the target's. With `hedge`, calls are hedged instead of retried. `metadata` is
    sent with every call. `options` are gRPC's channel arguments, which take precedence over the defaults.
    """

    target: str
    credentials: grpc.ChannelCredentials | None = None
    tls: tuple[Any, str | None] | None = None
    retry: Retry = field(default_factory=Retry)
    hedge: Hedge | None = None
    metadata: Metadata = ()
    options: tuple[tuple[str, Any], ...] = ()


class Channel(Protocol):
    """A channel whose calls block. Any thread."""

    def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Makes a call and returns its answer; raises ServerError."""

    def call_many(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        """Makes calls, up to `in_flight` at a time; returns the result of each in order: an answer or a ServerError."""

    def close(self) -> None:
        """Closes the connection and cancels the calls in flight."""


class AsyncChannel(Protocol):
    """A channel for one event loop: the one in which the first call is made."""

    async def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Makes a call and returns its answer; raises ServerError."""

    async def call_many(
        self,
        calls: Sequence[Call[Any]],
        timeout: float | None,
        in_flight: int,
    ) -> list[Any]:
        """Makes calls, up to `in_flight` at a time; returns the result of each in order: an answer or a ServerError."""

    async def close(self) -> None:
        """Closes the connection and cancels the calls in flight."""


class Within:
    """The time that a call has left, of which each of its attempts takes a part."""

    def __init__(self, timeout: float | None) -> None:
        self._until = None if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> float | None:
        """The seconds until the call's deadline; None if it has none."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())


async def some_at_a_time(send: Callable[[int], Awaitable[Any]], count: int, in_flight: int) -> list[Any]:
    """Sends `count` calls, up to `in_flight` at a time; returns their results in order: answers or ServerErrors."""
    answers: list[Any] = [None] * count
    places = iter(range(count))

    async def send_some() -> None:
        for place in places:
            try:
                answers[place] = await send(place)
            except ServerError as error:
                answers[place] = error

    await asyncio.gather(*(send_some() for _ in range(min(in_flight, count))))
    return answers


def has_addresses(target: str) -> bool:
    """Returns whether a target may stand for several addresses: a name that gRPC resolves, or a list."""
    return target.startswith("dns:") or (target.startswith(("ipv4:", "ipv6:")) and "," in target)
