"""What a client asks of a channel, and what a channel is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import grpc

from headrace_client.request import Call, Retry

Answer = TypeVar("Answer")

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a channel leads, and how.

    `metadata` goes with every call. `options` are gRPC's channel arguments, which take precedence over the defaults.
    """

    target: str
    credentials: grpc.ChannelCredentials | None = None
    retry: Retry = field(default_factory=Retry)
    metadata: Metadata = ()
    options: tuple[tuple[str, Any], ...] = ()


class Channel(Protocol):
    """Calls that block, from any thread."""

    def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Make a call and return its answer; raises ServerError."""

    def call_many(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        """Make calls, some `in_flight` at a time; return what came of each, in order: an answer or a ServerError."""

    def close(self) -> None:
        """End the connection and the calls under way."""


class AsyncChannel(Protocol):
    """Calls on the event loop that runs when the first of them is made."""

    async def call(self, call: Call[Answer], timeout: float | None) -> Answer:  # noqa: ASYNC109 - the server is told it
        """Make a call and return its answer; raises ServerError."""

    async def close(self) -> None:
        """End the connection and the calls under way."""
