"""grpc.reflection.v1alpha: clients such as grpcurl and ghz learn the services from the server itself."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import aio

from headrace_protos import POOL

_NAME = "grpc.reflection.v1alpha.ServerReflection"


class ReflectionService:
    """Describes services, from the pool that headrace's messages are in.

    Args:
        names: Full names of the services, without reflection itself.
    """

    def __init__(self, names: Sequence[str]) -> None:
        for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            POOL.AddSerializedFile(file.serialized_pb)
        self._servicer = aio.ReflectionServicer([*names, _NAME], pool=_Symbols(POOL))

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server."""
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self._servicer, server)


class _Symbols:
    """A pool that finds the files of methods, too, which protobuf's does not: ghz asks for them."""

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
