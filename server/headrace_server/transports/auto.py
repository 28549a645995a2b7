"""Chooses the transport by its name: the one file that knows which there are."""

from importlib.util import find_spec

from headrace_protos import Code
from headrace_server.errors import ServingError, invalid
from headrace_server.transports.base import Endpoint, Transport

NATIVE = "headrace_native"


def make_transport(name: str, endpoint: Endpoint) -> Transport:
    """The transport of that name.

    Args:
        name: `auto` for the fastest that is installed, `grpcio`, or `native`.
        endpoint: Where it listens, and what it serves.

    Raises:
        ServingError: There is no such transport, or the native one is broken, or named and not installed.
    """
    if name not in ("auto", "grpcio", "native"):
        raise invalid(f"unknown transport {name!r}: expected auto, grpcio or native")
    if name == "native" or (name == "auto" and find_spec(NATIVE) is not None):
        return _native(endpoint)
    from headrace_server.transports.grpcio_impl import GrpcioTransport

    return GrpcioTransport(endpoint)


def _native(endpoint: Endpoint) -> Transport:
    try:
        from headrace_server.transports.native_impl import NativeTransport
    except ImportError as error:
        text = f"the native transport cannot be used: {error} (pip install headrace-native, or --transport=grpcio)"
        raise ServingError(Code.FAILED_PRECONDITION, text) from error
    return NativeTransport(endpoint)
