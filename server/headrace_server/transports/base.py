"""The Transport protocol: what carries calls to the services."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from headrace_batching.contract import TaskQueue
from headrace_server.models.manager import Serving
from headrace_server.services.rpc import Service

Register = Callable[[grpc.aio.Server], None]

MAX_MESSAGE_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a transport listens, and what it serves there.

    Attributes:
        address: Host and port.
        services: Ours, each method a function from message to message.
        servicers: grpcio's own (health, reflection), each as the function that registers it.
        queue: Where tasks wait, for a transport that puts them there itself.
        arguments: gRPC channel arguments for the server, by name.
        as_content: Whether answers carry `tensor_content`, for a transport that encodes them itself.
    """

    address: str
    services: Sequence[Service]
    queue: TaskQueue
    servicers: Sequence[Register] = ()
    arguments: Sequence[tuple[str, int | str]] = ()
    as_content: bool = False


class Transport(Protocol):
    """Sockets on one side, services on the other. Made, started and stopped in the event loop of its services."""

    async def start(self) -> int:
        """Listens; the port that it got.

        Raises:
            ServingError: It cannot listen there.
        """

    def publish(self, serving: Serving) -> None:
        """Says which versions are ready, by model; a transport may answer for them itself. Any thread."""

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and returns when those in flight have ended, or after `grace` seconds."""
