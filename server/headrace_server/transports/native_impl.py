"""gRPC on headrace_native: its server, with our handlers and grpcio's own servicers in it."""

import asyncio
from collections.abc import Mapping, Sequence

import headrace_native as native

from headrace_batching import DeadlineExceeded, LoopDelivery, QueueFull
from headrace_batching.contract import TaskQueue
from headrace_protos import Code
from headrace_server.backends.signature import Signature
from headrace_server.errors import ServingError
from headrace_server.models.manager import Serving
from headrace_server.models.servable import Plain, Servable
from headrace_server.transports.base import MAX_MESSAGE_BYTES, Endpoint
from headrace_server.transports.handlers import rpc_handlers, status
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


def check_interface() -> None:
    """Compares the installed native package with what this one was written for.

    Raises:
        ServingError: FAILED_PRECONDITION, they do not fit.
    """
    if native.INTERFACE != INTERFACE:
        text = f"headrace-native speaks interface {native.INTERFACE}, this headrace {INTERFACE}: install one to match"
        raise ServingError(Code.FAILED_PRECONDITION, text)


def make_queue() -> TaskQueue:
    """A queue that holds tasks of both kinds: Python's, and those that were decoded outside the interpreter."""
    return native.Queue()


class NativeTransport:
    """One native server, its calls answered in the event loop.

    Args:
        endpoint: Where it listens, and what it serves.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._exchanges: Exchanges | None = None
        self._routes = native.Routes()

    async def start(self) -> int:
        """Listens; the port that it got.

        Raises:
            ServingError: UNKNOWN, the address is taken or no address at all. The text is TF Serving's.
        """
        methods = self._methods()
        paths = [(path, handler.request_streaming) for path, handler in methods.handlers.items()]
        server = native.Server(
            paths, native.Limits(**_limits(self._endpoint.arguments)), self._endpoint.queue, self._routes
        )
        try:
            port = server.start(self._endpoint.address)
        except OSError as error:
            text = f"Failed to BuildAndStart gRPC server: {self._endpoint.address}: {error}"
            raise ServingError(Code.UNKNOWN, text) from error
        self._exchanges = Exchanges(server, list(methods.handlers.values()))
        self._exchanges.start()
        return port

    def publish(self, serving: Serving) -> None:
        """Says which versions are ready: their plain requests are decoded and answered outside the interpreter."""
        self._routes.publish(
            {
                name: {version: _plain_routes(servable, self._endpoint.as_content) for version, servable in own.items()}
                for name, own in serving.items()
            }
        )

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


def _plain_routes(servable: Servable, as_content: bool) -> dict[str, native.Route]:
    """A route for each signature whose requests need no second look."""
    plain = {name: servable.plain(name) for name in servable.signatures}
    return {
        name: _route(servable, name, found, as_content)
        for name, found in plain.items()
        if found is not None and _is_numeric(found.signature)
    }


def _route(servable: Servable, name: str, plain: Plain, as_content: bool) -> native.Route:
    return native.Route(
        plain.lane,
        servable.name,
        servable.version,
        name,
        [(alias, spec.dtype, spec.shape[1:]) for alias, spec in plain.signature.inputs.items()],
        max_rows=plain.max_rows,
        as_content=as_content,
        status=status,
        full=status(QueueFull("{}")),
        expired=status(DeadlineExceeded()),
    )


def _is_numeric(signature: Signature) -> bool:
    specs = (*signature.inputs.values(), *signature.outputs.values())
    return all(spec.dtype in native.DTYPES for spec in specs)


def _limits(arguments: Sequence[tuple[str, int | str]]) -> dict[str, int]:
    """What the channel arguments say that means something here; -1 stands for no limit."""
    limits = dict(_ARGUMENTS)
    for name, value in arguments:
        short = name.removeprefix("grpc.")
        if short in limits and isinstance(value, int):
            limits[short] = value if value >= 0 else _ARGUMENTS[short]
    return limits
