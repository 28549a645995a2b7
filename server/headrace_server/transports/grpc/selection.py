"""Chooses the transport by its name; the only file that knows which transports exist."""

import logging
from importlib.util import find_spec
from types import ModuleType

from headrace_batching.contract import TaskQueue
from headrace_batching.queue import Queue
from headrace_protos import Code
from headrace_server.errors import ServingError, invalid
from headrace_server.models.trace import Spans
from headrace_server.security.verdicts import NoVerdicts, Verdicts
from headrace_server.transports.grpc.endpoint import Endpoint, Transport

log = logging.getLogger(__name__)

PACKAGE = "headrace_native"


def choose(name: str, *, alts: bool = False, ssl_config_file: str = "") -> str:
    """The transport with a name: `grpcio` or `native`.

    Args:
        name: `auto` for the fastest installed transport that supports the options; or one of the two.
        alts: Whether Google's ALTS secures connections, which the native transport does not support.
        ssl_config_file: The SSLConfig that secures connections; the native transport cannot use every key that grpcio
            can.

    Raises:
        ServingError: INVALID_ARGUMENT if the native transport does not support the options.
    """
    if name == "native" and alts:
        raise invalid("the native transport does not support ALTS: use --transport=auto or --transport=grpcio")
    if name != "auto":
        return name
    if find_spec(PACKAGE) is None or alts:
        return "grpcio"
    return "native" if not ssl_config_file or _can_secure(ssl_config_file) else "grpcio"


def _can_secure(ssl_config_file: str) -> bool:
    """Whether the native transport can use a key and its certificates; if not, the log says why."""
    native = _native()
    try:
        native.check_tls(ssl_config_file)
    except ServingError as error:
        log.warning("gRPC is served by grpcio: %s", error.message)
        return False
    return True


def make_transport(name: str, endpoint: Endpoint) -> Transport:
    """The chosen transport.

    Raises:
        ServingError: FAILED_PRECONDITION if the native transport is missing, broken or has another version.
    """
    if name == "native":
        native: Transport = _native().NativeTransport(endpoint)
        return native
    from headrace_server.transports.grpc.grpcio_impl import GrpcioTransport

    return GrpcioTransport(endpoint)


def make_queue(name: str) -> TaskQueue:
    """The queue in which the transport's tasks wait.

    Raises:
        ServingError: As for `make_transport`.
    """
    queue: TaskQueue = _native().make_queue() if name == "native" else Queue()
    return queue


def make_spans(name: str, ratio: float, rate: float, kinds: object) -> Spans | None:
    """The object that samples the transport's calls and encodes the spans; None if the transport leaves that to Python.

    Args:
        name: The transport's name.
        ratio: The share of the requests without a traceparent that are traced.
        rate: The maximum number of requests per second that are traced.
        kinds: An `EncodedKinds` of `monitoring/span_kinds.py`.

    Raises:
        ServingError: As for `make_transport`.
    """
    if name != "native":
        return None
    spans: Spans = _native().make_spans(ratio, rate, kinds)
    return spans


def make_verdicts(name: str, *, audits: bool) -> Verdicts:
    """The store that keeps the gate's verdicts, so that the transport need not ask again.

    Args:
        name: The transport's name.
        audits: Whether there is an audit log.

    Raises:
        ServingError: As for `make_transport`.
    """
    if name != "native":
        return NoVerdicts()
    verdicts: Verdicts = _native().NativeVerdicts(audits=audits)
    return verdicts


def _native() -> ModuleType:
    try:
        from headrace_server.transports.grpc import native_impl
    except ImportError as error:
        text = f"the native transport cannot be used: {error} (pip install headrace-native, or --transport=grpcio)"
        raise ServingError(Code.FAILED_PRECONDITION, text) from error
    native_impl.check_interface()
    return native_impl
