"""gRPC on headrace_native: its server with headrace's handlers and grpcio's own servicers."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock

import headrace_native as native

from headrace_batching import LoopDelivery
from headrace_batching.contract import TaskQueue
from headrace_protos import Code, SSLConfig
from headrace_server.backends.signature import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD
from headrace_server.errors import ServingError, invalid
from headrace_server.models.servable import Servable
from headrace_server.models.trace import Spans
from headrace_server.services.rpc import MAX_CONCURRENT_STREAMS, MAX_MESSAGE_BYTES
from headrace_server.transports.grpc.endpoint import CallerBounds, Endpoint, HeldMemory
from headrace_server.transports.grpc.guard import guard_of
from headrace_server.transports.grpc.handlers import LOW_PRIORITY
from headrace_server.transports.grpc.native_calls import Exchanges, RpcHandler
from headrace_server.transports.grpc.native_routes import INFERENCE, PREDICTION, PlainRoutes
from headrace_server.transports.grpc.native_verdicts import NativeVerdicts
from headrace_server.transports.grpc.tls import Followed, read_ssl_config

log = logging.getLogger(__name__)

INTERFACE = 32

_NEVER = 2**31 - 1  # milliseconds, in gRPC's options

_ARGUMENTS = {
    "max_receive_message_length": MAX_MESSAGE_BYTES,
    "max_send_message_length": MAX_MESSAGE_BYTES,
    "max_concurrent_streams": MAX_CONCURRENT_STREAMS,  # clients hold back any calls beyond this
    "max_metadata_size": 16 * 1024,
    "keepalive_time_ms": 7_200_000,
    "keepalive_timeout_ms": 20_000,
    "keepalive_permit_without_calls": 0,
    "http2_max_ping_strikes": 2,
    "http2_min_ping_interval_without_data_ms": 300_000,
    "max_connection_age_ms": _NEVER,
    "max_connection_age_grace_ms": _NEVER,
    "max_connection_idle_ms": _NEVER,
    "default_compression_algorithm": 0,
}


def check_interface() -> None:
    """Checks that the installed native package is compatible with this one.

    Raises:
        ServingError: FAILED_PRECONDITION if it is not compatible.
    """
    if native.INTERFACE != INTERFACE:
        text = f"headrace-native has interface {native.INTERFACE}, headrace {INTERFACE}: install matching versions"
        raise ServingError(Code.FAILED_PRECONDITION, text)


def make_queue() -> TaskQueue:
    """A queue with two kinds of tasks: Python's, and those decoded outside the interpreter."""
    return native.Queue()


def make_spans(ratio: float, rate: float, kinds: object) -> Spans:
    """See `selection.make_spans`."""
    return native.Spans(ratio, rate, kinds)


class NativeTransport:
    """One native server whose calls are answered in the event loop.

    Args:
        endpoint: The addresses and services.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._limits = {**limits(endpoint.arguments), **_bounds(endpoint.bounds)}
        self._plain = PlainRoutes(endpoint, self._limits["max_send_message_length"])
        self._server: native.Server | None = None
        self._exchanges: Exchanges | None = None
        self._routes = native.Routes(DEFAULT_SIGNATURE)
        self._publishing = Lock()
        # The versions published before `start`, by model.
        self._published_early: dict[str, tuple[Mapping[int, Servable], int]] | None = {}
        self._regions = native.Regions()
        self._http: list[native.HttpEndpoint] = []
        if endpoint.regions is not None:
            endpoint.regions.mirror(self._regions)

    async def start(self) -> int:
        """Listens, and returns the TCP port; 0 if there is none.

        Raises:
            ServingError: INVALID_ARGUMENT if an address is taken or invalid. The text begins as TF Serving's.
        """
        methods = self._methods()
        paths = [(path, handler.request_streaming) for path, handler in methods.handlers.items()]
        server = native.Server(
            paths,
            self._limits,
            self._endpoint.queue,
            self._routes,
            {
                "predict": f"/{PREDICTION}/Predict",
                "infer": f"/{INFERENCE}/ModelInfer",
                "classify": f"/{PREDICTION}/Classify",
                "regress": f"/{PREDICTION}/Regress",
                "multi_inference": f"/{PREDICTION}/MultiInference",
                "classify_name": CLASSIFY_METHOD,
                "regress_name": REGRESS_METHOD,
                "low_priority": LOW_PRIORITY,
                "regions": self._regions,
                "verdicts": _verdicts(self._endpoint),
            },
        )
        if isinstance(self._endpoint.spans, native.Spans):
            server.sample_traces(self._endpoint.spans)
        self._publish_early()
        ports = [self._listen(server, address) for address in self._endpoint.addresses]
        server.start(self._endpoint.threads)
        self._server = server
        self._exchanges = Exchanges(server, list(methods.handlers.values()))
        self._exchanges.start()
        return max(ports)

    @property
    def held(self) -> HeldMemory | None:
        """The memory that the server uses for callers; None before it has started. Any thread."""
        if self._server is None:
            return None
        by_kind, limit, refusals = self._server.memory()
        return HeldMemory(dict(by_kind), limit, refusals)

    def listen_http(self, address: str, endpoint: native.HttpEndpoint, ssl_config_file: str) -> int:
        """See `endpoint.ServesHttp`."""
        assert self._server is not None  # the server has been started
        self._http.append(endpoint)
        port: int = self._server.listen_http(address, endpoint, _tls(ssl_config_file))
        return port

    def publish(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        """Sets which versions are ready: their plain requests are decoded and answered outside the interpreter.

        Routes are made when the first request can come. For thousands of models, that takes half as long as making each
        one between two loads, which evict the code for it from the CPU's caches.
        """
        with self._publishing:
            if self._published_early is not None:
                self._published_early[name] = (versions, latest)
            else:
                self._publish(name, versions, latest)

    def _publish(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        routes = {version: self._plain.of(servable) for version, servable in versions.items()}
        self._routes.publish(name, latest, routes)

    def _publish_early(self) -> None:
        """Publishes the routes of the versions that became ready before the start."""
        with self._publishing:
            early, self._published_early = self._published_early, None
            for name, (versions, latest) in (early or {}).items():
                try:
                    self._publish(name, versions, latest)
                except Exception:  # Python then answers the model's calls
                    log.exception("model %s gets no native route: Python answers all of its calls", name)

    def assign_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Sets the version that each label of each model refers to. Any thread."""
        self._routes.assign_labels(labels)

    def forget_answers(self) -> None:
        """Drops kept answers, since the server's state, which they report, has changed. Any thread."""
        for keeper in (self._server, *self._http):
            if keeper is not None:
                keeper.forget_answers()

    async def stop(self, grace: float) -> None:
        """Accepts no more calls, and returns when those in flight have ended, or after `grace` seconds."""
        if self._exchanges is not None:
            await self._exchanges.stop(grace)
            self._exchanges = None

    def _listen(self, server: native.Server, address: str) -> int:
        try:
            return server.listen(address, _tls(self._endpoint.ssl_config_file))
        except OSError as error:
            raise invalid(f"Failed to BuildAndStart gRPC server: {address}: {error}") from error

    def _methods(self) -> "_Methods":
        methods, guard = _Methods(), guard_of(self._endpoint)
        delivery = LoopDelivery(asyncio.get_running_loop())
        for service in self._endpoint.services:
            methods.add_registered_method_handlers(service.name, guard.handlers(service, delivery))
        for register in self._endpoint.servicers:
            own = _Methods()
            register(own)  # type: ignore[arg-type]  # it has all that generated code needs
            methods.handlers |= {path: guard.servicer(path, handler) for path, handler in own.handlers.items()}
        return methods


class _Methods:
    """The parts of `grpc.aio.Server` that generated code needs to register its handlers."""

    def __init__(self) -> None:
        self.handlers: dict[str, RpcHandler] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, RpcHandler]) -> None:
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """Does nothing: generated code also registers the same methods by name."""


def _verdicts(endpoint: Endpoint) -> "native.Verdicts | None":
    if endpoint.gate is None:
        return None
    assert isinstance(endpoint.gate.verdicts, NativeVerdicts)  # `selection.make_verdicts` has made them
    return endpoint.gate.verdicts.native


def check_tls(path: str) -> None:
    """Checks that an SSLConfig's key and certificates can be used.

    Raises:
        ServingError: INVALID_ARGUMENT if they cannot be used, such as an RSA key of 8192 bits.
    """
    _certificates(path, read_ssl_config(path))


def _tls(path: str) -> native.Tls | None:
    if not path:
        return None
    followed = Followed(path, partial(_certificates, path))
    return native.Tls(path, followed.first, followed.changed)


def _certificates(path: str, config: SSLConfig) -> native.Certificates:
    try:
        return native.Certificates(config.server_key, config.server_cert, config.custom_ca, config.client_verify)
    except ValueError as error:
        raise invalid(f"{path}: the native transport cannot use its key or certificates: {error}") from error


def _bounds(bounds: CallerBounds) -> dict[str, int]:
    return {
        "request_memory": bounds.memory,
        "max_expanded": bounds.expanded,
        "stall_ms": round(bounds.stall_seconds * 1e3),
    }


def limits(arguments: Sequence[tuple[str, int | str]]) -> dict[str, int]:
    """The channel arguments that have an effect here; a negative number means the default."""
    values = dict(_ARGUMENTS)
    for name, value in arguments:
        short = name.removeprefix("grpc.").replace(".", "_")
        if short in values and isinstance(value, int):
            values[short] = value if value >= 0 else _ARGUMENTS[short]
    return values
