"""Chooses the transport by its name: the one file that knows which there are."""

from importlib.util import find_spec
from types import ModuleType

from headrace_batching.contract import TaskQueue
from headrace_batching.queue import Queue
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
    if _is_native(name):
        native: Transport = _native().NativeTransport(endpoint)
        return native
    from headrace_server.transports.grpcio_impl import GrpcioTransport

    return GrpcioTransport(endpoint)


def make_queue(name: str) -> TaskQueue:
    """The queue that the transport of that name wants tasks to wait in.

    Raises:
        ServingError: As for `make_transport`.
    """
    queue: TaskQueue = _native().make_queue() if _is_native(name) else Queue()
    return queue


def _is_native(name: str) -> bool:
    if name not in ("auto", "grpcio", "native"):
        raise invalid(f"unknown transport {name!r}: expected auto, grpcio or native")
    return name == "native" or (name == "auto" and find_spec(NATIVE) is not None)


def _native() -> ModuleType:
    try:
        from headrace_server.transports import native_impl
    except ImportError as error:
        text = f"the native transport cannot be used: {error} (pip install headrace-native, or --transport=grpcio)"
        raise ServingError(Code.FAILED_PRECONDITION, text) from error
    native_impl.check_interface()
    return native_impl
