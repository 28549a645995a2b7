"""gRPC on grpc.aio: bytes to messages, timeouts to deadlines, failures to status codes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from headrace_batching import LoopDelivery, Priority
from headrace_protos import Code
from headrace_server.errors import invalid, status_of
from headrace_server.models.servable import Call
from headrace_server.services.rpc import Method, Service
from headrace_server.transports.base import Endpoint, ObserveCall

Context = grpc.aio.ServicerContext[bytes, bytes]
Handle = Callable[[bytes, Context], Awaitable[bytes]]

PRIORITY_HEADER = "headrace-priority"
MAX_MESSAGE_BYTES = 2**31 - 1
MAX_TEXT_BYTES = 1024

_STATUS = {status.value[0]: status for status in grpc.StatusCode}
_NAMES = {code: name for name, code in Code.items()}


class GrpcioTransport:
    """One grpc.aio server.

    Args:
        endpoint: Where it listens, and what it serves.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listens; the TCP port that it got, 0 where there is none.

        Raises:
            ServingError: INVALID_ARGUMENT, an address is taken or no address at all. The text begins as TF Serving's.
        """
        self._server = server = grpc.aio.server(options=_options(self._endpoint))
        delivery = LoopDelivery(asyncio.get_running_loop())
        for service in self._endpoint.services:
            handlers = {method.name: self._handler(service, method, delivery) for method in service.methods}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.name, handlers),))
        for register in self._endpoint.servicers:
            register(server)
        ports = [self._add(server, address) for address in self._endpoint.addresses]
        await server.start()
        return max(ports) if max(ports) > 1 else 0  # gRPC says 1 for a UNIX socket

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and returns when those in flight have ended, or after `grace` seconds."""
        if self._server is not None:
            await self._server.stop(grace)

    def _handler(
        self, service: Service, method: Method, delivery: LoopDelivery
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        observe = self._endpoint.observe(service.name, method.name)
        # Without (de)serialisers grpcio hands over the bytes, and what cannot be parsed gets our answer, not its own.
        return grpc.unary_unary_rpc_method_handler(_handle(method, delivery, observe))

    def _add(self, server: grpc.aio.Server, address: str) -> int:
        credentials = self._endpoint.credentials
        try:
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials())
        except RuntimeError as error:
            raise invalid(f"Failed to BuildAndStart gRPC server: {address}: {error}") from error


def _options(endpoint: Endpoint) -> list[tuple[str, int | str]]:
    ours: dict[str, int | str] = {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": 0,  # a port that is taken is an error, not a share of its calls
    }
    return list((ours | dict(endpoint.arguments)).items())  # of two with one name, gRPC takes the first


def _handle(method: Method, delivery: LoopDelivery, observe: ObserveCall) -> Handle:
    parse, model_of, answer = method.request.FromString, _model_of(method), method.answer

    async def handle(data: bytes, context: Context) -> bytes:
        began = time.monotonic()
        model, code = "", Code.OK
        try:
            request = parse(data)
            model = model_of(request)
            response = await answer(request, _call(context, delivery, method.name))
            return response.SerializeToString()
        except DecodeError as error:
            code, text = Code.INTERNAL, f"Failed to parse {method.request.DESCRIPTOR.full_name}: {error}"
        except Exception as error:
            code, text = status_of(error)
        except asyncio.CancelledError:
            code = Code.DEADLINE_EXCEEDED if context.time_remaining() == 0 else Code.CANCELLED
            raise
        finally:
            observe(model, _NAMES[code], time.monotonic() - began)
        await context.abort(_STATUS[code], _truncated(text))
        raise AssertionError  # abort has raised

    return handle


def _model_of(method: Method) -> Callable[[Any], str]:
    """How to read a request's model; no name for a method that is not about one."""
    if "model_spec" not in method.request.DESCRIPTOR.fields_by_name:
        return lambda _: ""
    return lambda request: str(request.model_spec.name)


def _call(context: Context, delivery: LoopDelivery, api: str) -> Call:
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, whatever its stubs say
    deadline = None if remaining is None else time.monotonic() + remaining
    return Call(delivery, deadline, _priority(context), api)


def _priority(context: Context) -> Priority:
    # A tuple of pairs, whatever grpcio's type stubs say.
    metadata = cast("tuple[tuple[str, str | bytes], ...]", context.invocation_metadata())
    return Priority.LOW if (PRIORITY_HEADER, "low") in metadata else Priority.NORMAL


def _truncated(text: str) -> str:
    """TF Serving: grpc_status_util.cc."""
    raw = text.encode()
    if len(raw) <= MAX_TEXT_BYTES:
        return text
    return raw[:MAX_TEXT_BYTES].decode(errors="ignore") + "...TRUNCATED"
