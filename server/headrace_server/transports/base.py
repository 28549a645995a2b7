"""The Transport protocol: what carries calls to the services."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

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
        arguments: gRPC channel arguments for the server, by name.
    """

    address: str
    services: Sequence[Service]
    servicers: Sequence[Register] = ()
    arguments: Sequence[tuple[str, int | str]] = ()


class Transport(Protocol):
    """Sockets on one side, services on the other. Made, started and stopped in the event loop of its services."""

    async def start(self) -> int:
        """Listens; the port that it got.

        Raises:
            ServingError: It cannot listen there.
        """

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and returns when those in flight have ended, or after `grace` seconds."""
