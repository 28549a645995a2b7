"""The Transport protocol, between sockets and services."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grpc

from headrace_batching.contract import TaskQueue
from headrace_server.config.memory import available_memory
from headrace_server.config.run import Config
from headrace_server.metrics.calls import CountCalls
from headrace_server.metrics.counting import Tally
from headrace_server.models.servable import Servable
from headrace_server.models.trace import Spans, Trace
from headrace_server.security.gate import Gate
from headrace_server.services.open_inference.regions import Regions
from headrace_server.services.rpc import Service
from headrace_server.transports.budget import Budget

Register = Callable[[grpc.aio.Server], None]


class ObserveCall(Protocol):
    """Called for a call that has ended, with its model's name, the name of its status code, and the seconds it took."""

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """Counts one call. In the event loop."""

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Counts several calls with the same model and code. Any thread.

        Args:
            model: The model's name.
            code: The status code's name.
            tally: The number of calls in each bucket of `metrics.LATENCY`.
            total: The sum of the calls' durations in microseconds.
        """


ObserveMethod = Callable[[str, str], ObserveCall]
"""Returns, for a service and a method, the function to call for each of its calls."""


@dataclass(frozen=True, slots=True)
class CallerBounds:
    """The limits on what a transport keeps in memory for callers.

    Attributes:
        memory: The size of the memory for all callers together, in bytes.
        expanded: The size that a compressed request may expand to, in bytes.
        stall_seconds: Seconds after which a connection that stalls is closed; 0 means never.
    """

    memory: int = 1 << 30
    expanded: int = 256 << 20
    stall_seconds: float = 60.0

    @classmethod
    def of(cls, config: Config) -> "CallerBounds":
        """The limits that the flags set. By default, `memory` is a quarter of the memory that this process may use."""
        memory = config.request_memory_mb << 20 or available_memory() // 4
        return cls(memory, config.request_expanded_mb << 20, config.connection_stall_seconds)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A transport's addresses, and the services at these.

    Attributes:
        addresses: Host and port, or `unix:` and a path; at most one has a host and port.
        services: headrace's services, whose methods are functions from message to message.
        observe: Returns, for a service and a method, the function to call for each of its calls that has ended.
        servicers: grpcio's own (health, reflection), each as the function that registers it.
        queue: The queue of tasks, for a transport that fills it itself.
        arguments: gRPC channel arguments for the server, by name.
        as_content: Whether answers carry `tensor_content`, for a transport that encodes them itself.
        ssl_config_file: The SSLConfig that secures all addresses; empty means no TLS.
        alts: Whether Google's ALTS secures all addresses.
        threads: The number of threads that connections are spread over, if the transport has such threads.
        observe_rest: Returns, for a verb (predict, classify, regress or infer), the listener for the calls over REST
            that a transport answers itself; None if there is no REST API.
        regions: The registered shared memory, for a transport that reads it itself.
        tracing: Records traced requests; None if there are no traces.
        spans: Samples the calls of a transport that marks traced requests; returned by `selection.make_spans`.
        identified: Whether the ID of each call is recorded, for the access log.
        bounds: The limits on memory, for a transport that enforces them.
        gate: Decides which calls are allowed; None allows all.
    """

    addresses: Sequence[str]
    services: Sequence[Service]
    observe: ObserveMethod
    queue: TaskQueue
    servicers: Sequence[Register] = ()
    arguments: Sequence[tuple[str, int | str]] = ()
    as_content: bool = False
    ssl_config_file: str = ""
    alts: bool = False
    threads: int = 1
    observe_rest: Callable[[str], CountCalls] | None = None
    regions: Regions | None = None
    bounds: CallerBounds = CallerBounds()
    gate: Gate | None = None
    tracing: "Tracing | None" = None
    spans: Spans | None = None
    identified: bool = False


class Tracing(Protocol):
    """Records traced requests. In the event loop of the services."""

    def begin(self, parent: str, state: str, *, marked: bool) -> Trace | None:
        """Begins to record a request with this `traceparent` and `tracestate`, which its transport may have marked.

        Returns None if the request is not traced.
        """

    def end(self, trace: Trace) -> None:
        """Records that the request has been answered."""


class Transport(Protocol):
    """Connects sockets and services. Created, started and stopped in the event loop of its services."""

    async def start(self) -> int:
        """Listens, and returns the TCP port; 0 if there is none.

        Raises:
            ServingError: The transport cannot listen on an address.
        """

    def publish(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        """Sets for which versions of a model a transport may answer calls itself, from now on. Any thread.

        Args:
            name: The model's name.
            versions: The versions, by number.
            latest: The version for requests that name none. If it is not among `versions`, the transport does not
                answer these requests itself.
        """

    def assign_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Sets the version that each label of each model refers to, and forgets all earlier labels. Any thread."""

    def forget_answers(self) -> None:
        """Drops kept answers to lasting methods, since the server's state has changed. Any thread."""

    async def stop(self, grace: float) -> None:
        """Accepts no more calls, and returns when those in flight have ended, or after `grace` seconds."""


@dataclass(frozen=True, slots=True)
class HeldMemory:
    """The memory that a transport uses for callers now, in bytes.

    Attributes:
        by_kind: The bytes by kind of memory.
        limit: The limit for all kinds together.
        refusals: How many calls have been refused because too little memory was left.
    """

    by_kind: Mapping[str, int]
    limit: int
    refusals: int


@runtime_checkable
class BoundsMemory(Protocol):
    """A transport that limits the memory that it uses for callers."""

    @property
    def held(self) -> HeldMemory | None:
        """The memory in use; None before the transport has started. Any thread."""


@runtime_checkable
class SharesBudget(Protocol):
    """A transport whose memory budget also covers an HTTP transport."""

    budget: Budget


@runtime_checkable
class ServesHttp(Protocol):
    """A transport that serves HTTP on the threads of its gRPC connections."""

    def listen_http(self, address: str, endpoint: Any, ssl_config_file: str) -> int:
        """Serves a `headrace_native.HttpEndpoint` at an address after the transport has started; returns its port.

        The SSLConfig file secures it; an empty name means no TLS.

        Raises:
            OSError: The transport cannot listen on the address.
        """
