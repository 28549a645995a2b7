"""gRPC on headrace_native: its server, with our handlers and grpcio's own servicers in it."""

import asyncio
from collections.abc import Mapping, Sequence

import headrace_native as native

from headrace_batching import LoopDelivery
from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.transports.base import MAX_MESSAGE_BYTES, Endpoint
from headrace_server.transports.handlers import rpc_handlers
from headrace_server.transports.native_calls import Exchanges, RpcHandler

INTERFACE = 1

_ARGUMENTS = {
    "max_receive_message_length": MAX_MESSAGE_BYTES,
    "max_concurrent_streams": 2**31 - 1,
    "max_metadata_size": 16 * 1024,
    "keepalive_time_ms": 7_200_000,
    "keepalive_timeout_ms": 20_000,
    "default_compression_algorithm": 0,
}


class NativeTransport:
    """One native server, its calls answered in the event loop.

    Args:
        endpoint: Where it listens, and what it serves.

    Raises:
        ServingError: FAILED_PRECONDITION, the native package is of another version than this one.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        if native.INTERFACE != INTERFACE:
            text = (
                f"headrace-native speaks interface {native.INTERFACE}, this headrace {INTERFACE}: install one to match"
            )
            raise ServingError(Code.FAILED_PRECONDITION, text)
        self._endpoint = endpoint
        self._exchanges: Exchanges | None = None

    async def start(self) -> int:
        """Listens; the port that it got.

        Raises:
            ServingError: UNKNOWN, the address is taken or no address at all. The text is TF Serving's.
        """
        methods = self._methods()
        paths = [(path, handler.request_streaming) for path, handler in methods.handlers.items()]
        server = native.Server(paths, native.Limits(**_limits(self._endpoint.arguments)))
        try:
            port = server.start(self._endpoint.address)
        except OSError as error:
            text = f"Failed to BuildAndStart gRPC server: {self._endpoint.address}: {error}"
            raise ServingError(Code.UNKNOWN, text) from error
        self._exchanges = Exchanges(server, list(methods.handlers.values()))
        self._exchanges.start()
        return port

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and returns when those in flight have ended, or after `grace` seconds."""
        if self._exchanges is not None:
            await self._exchanges.stop(grace)
            self._exchanges = None

    def _methods(self) -> "_Methods":
        methods = _Methods()
        delivery = LoopDelivery(asyncio.get_running_loop())
        for service in self._endpoint.services:
            methods.add_registered_method_handlers(service.name, rpc_handlers(service, delivery))
        for register in self._endpoint.servicers:
            register(methods)  # type: ignore[arg-type]  # it is as much of a server as generated code asks for
        return methods


class _Methods:
    """As much of a `grpc.aio.Server` as generated code registers its handlers with."""

    def __init__(self) -> None:
        self.handlers: dict[str, RpcHandler] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, RpcHandler]) -> None:
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """Nothing: generated code registers the same methods by name, too."""


def _limits(arguments: Sequence[tuple[str, int | str]]) -> dict[str, int]:
    """What the channel arguments say that means something here; -1 stands for no limit."""
    limits = dict(_ARGUMENTS)
    for name, value in arguments:
        short = name.removeprefix("grpc.")
        if short in limits and isinstance(value, int):
            limits[short] = value if value >= 0 else _ARGUMENTS[short]
    return limits
