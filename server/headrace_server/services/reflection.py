"""grpc.reflection, v1 and v1alpha: clients such as grpcurl and ghz get the services' descriptions from the server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import aio

from headrace_protos import POOL
from headrace_server.tasks import end_all

_PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_SERVICE = "ServerReflection"


class ReflectionService:
    """Describes services, from the pool that headrace's messages are in.

    Args:
        names: Full names of the services, without reflection itself.
    """

    def __init__(self, names: Sequence[str]) -> None:
        for serialized in (health_pb2.DESCRIPTOR.serialized_pb, reflection_pb2.DESCRIPTOR.serialized_pb, _v1_file()):
            POOL.AddSerializedFile(serialized)
        own = [f"{package}.{_SERVICE}" for package in _PACKAGES]
        self._servicer = aio.ReflectionServicer([*names, *own], pool=_Symbols(POOL))
        self._draining = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server."""
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self, server)
        method = grpc.stream_stream_rpc_method_handler(
            self.ServerReflectionInfo,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        name, methods = f"{_PACKAGES[0]}.{_SERVICE}", {"ServerReflectionInfo": method}
        # Registered in both ways, as in generated code: a transport may know only one of them.
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
        server.add_registered_method_handlers(name, methods)

    def draining(self) -> None:
        """Ends the streams, which their clients keep open even when they have nothing to ask."""
        self._draining.set()

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Answers a stream of requests, until the server drains."""
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            async with aclosing(self._servicer.ServerReflectionInfo(requests, context)) as answers:
                while (answer := await _next(answers, draining)) is not None:
                    yield answer
        finally:
            draining.cancel()


async def _next(answers: AsyncIterator[Any], draining: "asyncio.Future[Any]") -> Any:
    """The next answer; None if there is none, or the server drains first."""
    answer = asyncio.ensure_future(anext(answers, None))
    try:
        await asyncio.wait((answer, draining), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        await end_all((answer,))  # the task uses the call, which may end with this function


def _v1_file() -> bytes:
    """The description of v1: that of v1alpha with other names, since the messages of the two are equal."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    v1, v1alpha = _PACKAGES
    text = text_format.MessageToString(file).replace(v1alpha, v1).replace("/v1alpha/", "/v1/")
    return text_format.Parse(text, FileDescriptorProto()).SerializeToString()


class _Symbols:
    """A pool that also finds files by the names of methods, as ghz requests; protobuf's own pool does not."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - protobuf's name
        service, _, method = symbol.rpartition(".")
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            found = self._pool.FindServiceByName(service)
            if method not in found.methods_by_name:
                raise
            return found.file
