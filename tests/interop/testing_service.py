"""grpc.testing.TestService, which gRPC's interoperability clients call, registered like health and reflection."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet

PROTO = Path(__file__).with_name("testing.proto")
NAME = "grpc.testing.TestService"
ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def messages(scratch: Path) -> Mapping[str, Any]:
    """The message types of testing.proto, by name, in a separate descriptor pool.

    Args:
        scratch: An empty folder to write in.
    """
    described = scratch / "testing.pb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO.parent}", f"--descriptor_set_out={described}"]
    subprocess.run([*command, PROTO.name], check=True)
    (file,) = FileDescriptorSet.FromString(described.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    types = pool.FindFileByName(PROTO.name).message_types_by_name
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in types.items()}


class InteropService:
    """Answers as gRPC's description of its interoperability tests says; counts cancelled calls and sent messages.

    Args:
        types: The message types.
    """

    def __init__(self, types: Mapping[str, Any]) -> None:
        self._types = types
        self.cancelled = 0
        self.sent = 0

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server, as generated code does."""
        out, received = self._types["StreamingOutputCallRequest"], self._types["StreamingInputCallRequest"]
        handlers: dict[str, Any] = {
            "EmptyCall": _handler(grpc.unary_unary_rpc_method_handler, self._empty, self._types["Empty"]),
            "UnaryCall": _handler(grpc.unary_unary_rpc_method_handler, self._unary, self._types["SimpleRequest"]),
            "StreamingOutputCall": _handler(grpc.unary_stream_rpc_method_handler, self._output, out),
            "StreamingInputCall": _handler(grpc.stream_unary_rpc_method_handler, self._input, received),
            "FullDuplexCall": _handler(grpc.stream_stream_rpc_method_handler, self._duplex, out),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
        server.add_registered_method_handlers(NAME, handlers)

    async def _empty(self, request: Any, context: Any) -> Any:
        await _echo_metadata(context)
        return request

    async def _unary(self, request: Any, context: Any) -> Any:
        await _echo_metadata(context)
        await _echo_status(request, context)
        return self._types["SimpleResponse"](payload=self._payload(request.response_size))

    async def _output(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        async for response in self._responses(request):
            yield response

    async def _input(self, requests: AsyncIterator[Any], context: Any) -> Any:
        await _echo_metadata(context)
        size = 0
        with self._count_cancelled():
            async for request in requests:
                size += len(request.payload.body)
        return self._types["StreamingInputCallResponse"](aggregated_payload_size=size)

    async def _duplex(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        with self._count_cancelled():
            async for request in requests:
                await _echo_status(request, context)
                async for response in self._responses(request):
                    yield response

    @contextmanager
    def _count_cancelled(self) -> Iterator[None]:
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):  # GeneratorExit if a response was being sent
            self.cancelled += 1
            raise

    async def _responses(self, request: Any) -> AsyncIterator[Any]:
        for wanted in request.response_parameters:
            if wanted.interval_us:
                await asyncio.sleep(wanted.interval_us / 1e6)
            yield self._types["StreamingOutputCallResponse"](payload=self._payload(wanted.size))
            self.sent += 1

    def _payload(self, size: int) -> Any:
        return self._types["Payload"](body=bytes(size))


def _handler(kind: Any, answer: Any, request: Any) -> Any:
    return kind(answer, request_deserializer=request.FromString, response_serializer=_serialised)


def _serialised(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


async def _echo_metadata(context: Any) -> None:
    received = dict(context.invocation_metadata())
    if ECHO_INITIAL in received:
        await context.send_initial_metadata(((ECHO_INITIAL, received[ECHO_INITIAL]),))
    if ECHO_TRAILING in received:
        context.set_trailing_metadata(((ECHO_TRAILING, received[ECHO_TRAILING]),))


async def _echo_status(request: Any, context: Any) -> None:
    if request.HasField("response_status"):
        await context.abort(_CODES[request.response_status.code], request.response_status.message)
