"""The Transport protocol: what carries calls to the services."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grpc

from headrace_batching.contract import TaskQueue
from headrace_server.config.memory import available_memory
from headrace_server.config.run import Config
from headrace_server.metrics.calls import CountCalls
from headrace_server.metrics.series import Tally
from headrace_server.models.servable import Servable
from headrace_server.models.trace import Trace
from headrace_server.security.gate import Gate
from headrace_server.services.open_inference.regions import Regions
from headrace_server.services.rpc import Service
from headrace_server.transports.budget import Budget

Register = Callable[[grpc.aio.Server], None]


class ObserveCall(Protocol):
    """Told of a call that has ended: its model's name, the name of its status code, and the seconds that it took."""

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """One call, in the event loop."""

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Calls of one model and one code, tallied by metrics.LATENCY; the total in microseconds. Any thread."""


ObserveMethod = Callable[[str, str], ObserveCall]
"""From the names of a service and a method to who is told of its calls."""


@dataclass(frozen=True, slots=True)
class CallerBounds:
    """What callers may make a transport hold.

    Attributes:
        memory: Bytes, of all callers together.
        expanded: Bytes that a compressed request may become.
        stall_seconds: After which a connection ends that does not go on with what it owes; 0 for never.
    """

    memory: int = 1 << 30
    expanded: int = 256 << 20
    stall_seconds: float = 60.0

    @classmethod
    def of(cls, config: Config) -> "CallerBounds":
        """Those that flags give: of memory by default a quarter of what the container has."""
        memory = config.request_memory_mb << 20 or available_memory() // 4
        return cls(memory, config.request_expanded_mb << 20, config.connection_stall_seconds)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a transport listens, and what it serves there.

    Attributes:
        addresses: Each a host and port, or `unix:` and a path, of which at most one is a host and port.
        services: Ours, each method a function from message to message.
        observe: Who is told of the calls of each method.
        servicers: grpcio's own (health, reflection), each as the function that registers it.
        queue: Where tasks wait, for a transport that puts them there itself.
        arguments: gRPC channel arguments for the server, by name.
        as_content: Whether answers carry `tensor_content`, for a transport that encodes them itself.
        ssl_config_file: The SSLConfig that secures all addresses; empty for none.
        alts: Whether Google's ALTS secures them.
        threads: How many a transport that has threads for connections spreads them over.
        observe_rest: Who is told of Predicts over REST that a transport answers itself.
        observe_rest_infer: The same for the Open Inference Protocol.
        regions: Shared memory, for a transport that reads it itself.
        tracing: Who takes note of traced requests; None for no traces.
        trace_ratio: Share of the requests without a traceparent that a transport marks which decides by itself.
        trace_rate: Requests a second that it marks at most.
        identified: Whether the id of each call is noted, for the access log.
        bounds: What callers may make a transport hold that bounds it.
        gate: Decides which calls may be made; None lets all be made.
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
    observe_rest: CountCalls | None = None
    observe_rest_infer: CountCalls | None = None
    regions: Regions | None = None
    bounds: CallerBounds = CallerBounds()
    gate: Gate | None = None
    tracing: "Tracing | None" = None
    trace_ratio: float = 0.0
    trace_rate: float = 0.0
    identified: bool = False


class Tracing(Protocol):
    """Who takes note of traced requests. In the event loop of the services."""

    def begin(self, header: str, *, marked: bool) -> Trace | None:
        """A request has come, with this `traceparent`, marked as traced by its transport or not; None for no trace."""

    def end(self, trace: Trace) -> None:
        """It has been answered."""


class Transport(Protocol):
    """Sockets on one side, services on the other. Made, started and stopped in the event loop of its services."""

    async def start(self) -> int:
        """Listens; the TCP port that it got, 0 where there is none.

        Raises:
            ServingError: It cannot listen there.
        """

    def publish(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        """Says which versions of a model a transport may answer for itself, from now on. Any thread.

        Args:
            name: The model's.
            versions: Those versions, by number.
            latest: The version of a request that names none; one that is not among them is not the transport's.
        """

    def forget_answers(self) -> None:
        """The server's state has changed: what was answered to a lasting method before may not hold. Any thread."""

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and returns when those in flight have ended, or after `grace` seconds."""


@dataclass(frozen=True, slots=True)
class HeldMemory:
    """What callers make a transport hold now, in bytes.

    Attributes:
        by_kind: For each kind of memory.
        limit: The most that all may be together.
        refusals: Calls for which there was too little left, ever.
    """

    by_kind: Mapping[str, int]
    limit: int
    refusals: int


@runtime_checkable
class BoundsMemory(Protocol):
    """A transport that bounds what callers make it hold."""

    @property
    def held(self) -> HeldMemory | None:
        """What it holds now; None before it has started. Any thread."""


@runtime_checkable
class SharesBudget(Protocol):
    """A transport whose budget counts for HTTP beside it, too."""

    budget: Budget


@runtime_checkable
class CarriesHttp(Protocol):
    """A transport that serves HTTP on the threads of its gRPC connections."""

    def listen_http(self, address: str, endpoint: Any, ssl_config_file: str) -> int:
        """Serves a `headrace_native.HttpEndpoint` at an address, once the transport has started; the port that it got.

        The SSLConfig file secures it; an empty name is for none.

        Raises:
            OSError: It cannot listen there.
        """
