"""gRPC on grpc.aio: its server, with our handlers in it."""

import asyncio

import grpc

from headrace_batching import LoopDelivery
from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.models.manager import Serving
from headrace_server.transports.base import MAX_MESSAGE_BYTES, Endpoint
from headrace_server.transports.handlers import rpc_handlers


class GrpcioTransport:
    """One grpc.aio server.

    Args:
        endpoint: Where it listens, and what it serves.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listens; the port that it got.

        Raises:
            ServingError: UNKNOWN, the address is taken or no address at all. The text is TF Serving's.
        """
        self._server = server = grpc.aio.server(options=_options(self._endpoint))
        delivery = LoopDelivery(asyncio.get_running_loop())
        for service in self._endpoint.services:
            handlers = rpc_handlers(service, delivery)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.name, handlers),))
        for register in self._endpoint.servicers:
            register(server)
        try:
            port = server.add_insecure_port(self._endpoint.address)
        except RuntimeError as error:
            text = f"Failed to BuildAndStart gRPC server: {self._endpoint.address}: {error}"
            raise ServingError(Code.UNKNOWN, text) from error
        await server.start()
        return port

    def publish(self, serving: Serving) -> None:
        """Nothing: every call goes to its service, which asks."""

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and returns when those in flight have ended, or after `grace` seconds."""
        if self._server is not None:
            await self._server.stop(grace)


def _options(endpoint: Endpoint) -> list[tuple[str, int | str]]:
    ours: dict[str, int | str] = {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": 0,  # a port that is taken is an error, not a share of its calls
    }
    return list((ours | dict(endpoint.arguments)).items())  # of two with one name, gRPC takes the first
