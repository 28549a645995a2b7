"""gRPC on grpc.aio: its server with headrace's handlers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

import grpc

from headrace_batching import LoopDelivery
from headrace_protos import SSLConfig
from headrace_server.errors import ServingError, invalid
from headrace_server.models.answers import MEMORY
from headrace_server.models.servable import Servable
from headrace_server.services.rpc import MAX_CONCURRENT_STREAMS, MAX_MESSAGE_BYTES
from headrace_server.transports.budget import COPIES, Budget
from headrace_server.transports.grpc.endpoint import Endpoint, HeldMemory
from headrace_server.transports.grpc.expansion import LEAVE_COMPRESSED, Expander, expanding_handler
from headrace_server.transports.grpc.guard import Guard, guard_of
from headrace_server.transports.grpc.handlers import STATUS, WrappedHandlers, truncated
from headrace_server.transports.grpc.tls import Followed

MAX_RECEIVED = "grpc.max_receive_message_length"

LET_GO = 0.5
"""Seconds between two checks of a stopping server.

The server ends after two checks without a call: by then, all answers have been sent.
"""


class GrpcioTransport:
    """One grpc.aio server.

    Args:
        endpoint: The addresses and services.

    Attributes:
        budget: The limit on the memory that the server uses for callers, including those of HTTP.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._server: grpc.aio.Server | None = None
        self.budget = Budget(endpoint.bounds.memory)
        self._expander = Expander(_most_expanded(endpoint), endpoint.threads)
        self._calls = _Calls(self.budget, self._expander)

    @property
    def held(self) -> HeldMemory:
        """The memory that calls use, over gRPC and HTTP. Any thread."""
        return HeldMemory({"received": self.budget.used}, self.budget.limit, self.budget.refusals)

    async def start(self) -> int:
        """Listens, and returns the TCP port; 0 if there is none.

        Raises:
            ServingError: INVALID_ARGUMENT if an address is taken or invalid. The text begins as TF Serving's.
        """
        self._server = server = grpc.aio.server(options=_options(self._endpoint))
        delivery = LoopDelivery(asyncio.get_running_loop())
        guard = guard_of(self._endpoint)
        for service in self._endpoint.services:
            handlers = guard.handlers(service, delivery)
            counted = {name: self._calls.counted(handler) for name, handler in handlers.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.name, counted),))
        for register in self._endpoint.servicers:
            register(_ByPath(server, guard))  # type: ignore[arg-type]  # it has all that generated code needs
        ports = [self._add(server, address) for address in self._endpoint.addresses]
        await server.start()
        return max(ports) if max(ports) > 1 else 0  # gRPC returns 1 for a UNIX socket

    def forget_answers(self) -> None:
        """Does nothing, since this transport keeps no answers."""

    async def stop(self, grace: float) -> None:
        """Accepts no more calls, and returns when those in flight have ended, or after `grace` seconds."""
        if self._server is None:
            return
        stopping = asyncio.ensure_future(self._server.stop(grace))
        rested = False
        while not stopping.done():
            await asyncio.wait((stopping,), timeout=LET_GO)
            if rested and not self._calls.count:
                # With a grace period, gRPC would wait until every client confirms the end, even one that hangs.
                await self._server.stop(0)
            rested = not self._calls.count
        await stopping
        self._expander.close()

    def publish(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        """Does nothing: every call goes to its service."""

    def assign_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Does nothing: every call goes to its service."""

    def _add(self, server: grpc.aio.Server, address: str) -> int:
        credentials = _credentials(self._endpoint)  # gRPC needs separate credentials for each address
        try:
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise invalid(f"Failed to BuildAndStart gRPC server: {address}: {error}") from error


class _Calls:
    """Counts the calls in flight and the memory that they use, and decompresses requests. In one event loop."""

    def __init__(self, budget: Budget, expander: Expander) -> None:
        self._budget = budget
        self._expander = expander
        self.count = 0

    def counted(self, handler: "grpc.RpcMethodHandler[bytes, bytes]") -> "grpc.RpcMethodHandler[bytes, bytes]":
        """A handler that counts the calls of the given one."""
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._counted(handler.unary_unary))
        return grpc.stream_stream_rpc_method_handler(self._counted_stream(handler.stream_stream))

    def _counted(self, handle: Any) -> Any:
        async def counted(data: bytes, context: Any) -> Any:
            self.count += 1
            try:
                held = self._budget.hold(COPIES * len(data))
                context.add_done_callback(held.release)  # called once the client has the answer, or has disconnected
                MEMORY.set(held)
                response = await handle(await self._expander.expanded(data, held), context)
                held.settle(len(response))
                held.count(len(response))  # gRPC sends a copy, and keeps the original until the client has read all
            except ServingError as error:
                await context.abort(STATUS[error.code], truncated(error.message))
            else:
                return response
            finally:
                self.count -= 1

        return counted

    def _counted_stream(self, handle: Any) -> Any:
        async def counted(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            self.count += 1
            try:
                with self._budget.hold() as held:
                    MEMORY.set(held)
                    async with aclosing(handle(self._held(requests), context)) as responses:
                        async for response in responses:
                            held.grow(len(response))
                            held.count(len(response))
                            yield response
                            held.shrink(COPIES * len(response))
            except ServingError as error:
                await context.abort(STATUS[error.code], truncated(error.message))
            finally:
                self.count -= 1

        return counted

    async def _held(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Passes on requests, each of which uses memory until the next one is requested."""
        async for data in requests:
            with self._budget.hold(COPIES * len(data)) as held:
                yield await self._expander.expanded(data, held)


def _credentials(endpoint: Endpoint) -> grpc.ServerCredentials | None:
    """The credentials of an address; None if it is not secured, as in TF Serving's server.cc."""
    if endpoint.alts:
        return grpc.alts_server_credentials()
    return tls_credentials(endpoint.ssl_config_file) if endpoint.ssl_config_file else None


def tls_credentials(path: str) -> grpc.ServerCredentials:
    """Credentials that follow an SSLConfig file: a client gets the certificate that is in the file when it connects.

    Raises:
        ServingError: As for `Followed`.
    """
    followed = Followed(path, _certificates)
    # The function may return None, despite grpcio's type stubs.
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", followed.changed)
    return grpc.dynamic_ssl_server_credentials(followed.first, fetch, followed.client_verify)


def _certificates(config: SSLConfig) -> grpc.ServerCertificateConfiguration:
    pair = (config.server_key.encode(), config.server_cert.encode())
    return grpc.ssl_server_certificate_configuration([pair], config.custom_ca.encode() or None)


class _ByPath:
    """A server in which generated code registers its methods only by their paths.

    grpc.aio waits separately for each method that is registered by name, and sets up all these waits again for every
    call. With the methods of health, reflection and the profiler, this takes an eighth of the CPU of a small Predict.
    """

    def __init__(self, server: grpc.aio.Server, guard: Guard) -> None:
        self._server = server
        self._guard = guard

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Adds handlers that are found by path, as the server's own method does."""
        guarded = map(self._guard.generic, handlers)
        self._server.add_generic_rpc_handlers(tuple(WrappedHandlers(each, expanding_handler) for each in guarded))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, object]) -> None:
        """Does nothing: generated code has registered the same methods by their paths."""


def _most_received(endpoint: Endpoint) -> int:
    """The size of a message, as it is sent, beyond which it would be refused for lack of memory in any case."""
    return min(MAX_MESSAGE_BYTES, endpoint.bounds.memory // (2 * COPIES))


def _most_expanded(endpoint: Endpoint) -> int:
    """The size that a compressed message may expand to."""
    received = dict(endpoint.arguments).get(MAX_RECEIVED, -1)
    most = endpoint.bounds.expanded
    return min(most, received) if isinstance(received, int) and received >= 0 else most


def _options(endpoint: Endpoint) -> list[tuple[str, int | str]]:
    ours: dict[str, int | str] = {
        MAX_RECEIVED: _most_received(endpoint),
        LEAVE_COMPRESSED: 0,
        "grpc.max_send_message_length": -1,
        "grpc.max_concurrent_streams": MAX_CONCURRENT_STREAMS,
        "grpc.so_reuseport": 0,  # a taken port must be an error; otherwise two servers would share its calls
    }
    return list((ours | dict(endpoint.arguments)).items())  # if two have the same name, gRPC uses the first
