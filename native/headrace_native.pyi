"""The native transport: serves gRPC and HTTP on threads of its own, and passes calls to the event loop as events."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, Protocol, TypedDict

from headrace_batching import BatchReport, Options, Task
from headrace_batching.contract import Clock, Execute, TaskBatch, TaskFormed, TaskLane, TaskQueue
from headrace_batching.latency.target import Target
from headrace_batching.queue import Turn
from headrace_batching.task import Array, Arrays

_Answered = Callable[[tuple[list[tuple[int, int]], float]], None]
_Failed = Callable[[Exception, list[tuple[int, int]], float], tuple[int, str]]

_Declared = tuple[str, int, Sequence[int | str | None]]

INTERFACE: int
"""The interface version, which must be the one that `headrace` expects."""

DTYPES: frozenset[int]
"""The element types of plain tensors: their numbers in types.proto."""

BEGIN: int
MESSAGE: int
SENT: int
CANCELLED: int
DRAINED: int
LAPSED: int

CLIENT_INTERFACE: int
"""The interface version, which must be the one that `headrace_client` expects."""

class ClientLimits(TypedDict):
    """The settings of a channel for retries and limits; times are in seconds, sizes in bytes."""

    attempts: int
    backoff: float
    max_backoff: float
    max_send: int
    max_receive: int

class ClientRequest:
    """A request, which may be sent several times. Any thread.

    Args:
        path: The path of the method, `/package.Service/Method`.
        message: The message, or a PredictRequest without its inputs.
        inputs: The inputs as arrays, by name. Large ones are not copied, and must not change before the call has ended.
        arrays: Whether the answer is a PredictResponse whose outputs are wanted as arrays.

    Raises:
        BufferError: An array cannot be encoded here: it is a scalar, is not contiguous, or has an unsupported dtype.
        ValueError: The path is invalid, or numpy does not share the memory of arrays with such a dtype.
    """

    def __init__(
        self, path: str, message: bytes, inputs: Mapping[str, Any] | None = None, arrays: bool = False
    ) -> None: ...
    def __len__(self) -> int:
        """The size of the message in bytes."""

class Failure:
    """How a call failed: gRPC's code, the text, the trailing metadata, and whether TLS's handshake failed."""

    code: int
    text: str
    metadata: tuple[tuple[str, str | bytes], ...]
    tls_failed: bool

class ClientTls:
    """The authorities that a client trusts, and the certificate that it shows: TLS 1.2 or 1.3, with HTTP/2 by ALPN.

    Args:
        authorities: The certificates of the trusted authorities, in PEM.
        pair: A key and its certificate chain, in PEM, for servers that ask for one.

    Raises:
        ValueError: A text cannot be parsed, its kind is not supported, or the key is not the certificate's.
    """

    def __init__(self, authorities: bytes, pair: tuple[bytes, bytes] | None = None) -> None: ...
    @staticmethod
    def knows(target: str, name: str | None = None) -> bool:
        """Whether the certificate of a target's server can be checked for a name; None means the target's."""

class ClientChannel:
    """Calls to one server, over a connection that is opened when it is needed, and then kept. Any thread.

    The result of a call is a `Failure` or the bytes of the answer. If the request wants arrays, it is a dictionary of
    arrays, unless the answer has a form that only Python can decode.

    Args:
        target: A target in gRPC's syntax.
        metadata: Metadata that is sent with every call.
        limits: The limits on retries and sizes.
        tls: The settings for calls over TLS, with the name that the server's certificate must have; None means the
            target's.

    Raises:
        ValueError: The target or the name is not supported.
    """

    def __init__(
        self,
        target: str,
        metadata: Sequence[tuple[str, str | bytes]],
        limits: ClientLimits,
        tls: tuple[ClientTls, str | None] | None = None,
    ) -> None: ...
    @staticmethod
    def knows(target: str) -> bool:
        """Whether a target is supported."""

    def call(self, request: ClientRequest, seconds: float | None) -> Any:
        """Makes a call and waits, without the interpreter lock. The thread drives the connection itself."""

    def call_many(self, requests: Sequence[ClientRequest], seconds: float | None, in_flight: int) -> list[Any]:
        """Makes many calls, up to `in_flight` at a time, and waits for all."""

    def start(self, request: ClientRequest, seconds: float | None) -> int:
        """Begins a call, which the channel's own thread drives; returns its number."""

    def cancel(self, number: int) -> None:
        """Cancels a call that was started."""

    def fileno(self) -> int:
        """The descriptor of a socket that is readable when started calls have ended."""

    def take(self) -> list[tuple[int, Any]]:
        """Removes the started calls that have ended, and returns their numbers and results."""

    def close(self) -> None:
        """Ends the calls in flight with CANCELLED, and closes the connection."""

class LoadPlan(TypedDict):
    """The settings of a load; times are in seconds. A closed loop has a rate of 0 and no times."""

    threads: int
    connections: int
    concurrency: int
    """The number of calls in flight in a closed loop, and the maximum in an open one."""
    rate: float
    poisson: bool
    times: Sequence[float]
    order: Sequence[int]
    """The kind of the call at each of the times."""
    warmup: float
    seconds: float
    timeout: float
    seed: int

class LoadOutcomes(TypedDict):
    """The results of the calls of one kind."""

    latency: list[tuple[int, int]]
    """The latencies of successful calls: nanoseconds from the due time to the end, and how many calls took so long."""
    failures: list[tuple[int, int]]
    """The same for failed calls, with times counted from when the calls were sent."""
    codes: list[int]
    """The number of calls that ended with each gRPC code."""
    bytes: int
    """The number of bytes of the answers to successful calls."""

class LoadResult(TypedDict):
    """The results of a load."""

    kinds: list[LoadOutcomes]
    lag: list[tuple[int, int]]
    """Nanoseconds from when a call was due until it began, and how many calls waited that long."""
    texts: list[tuple[int, str]]
    """The first error text of each code with which calls failed."""
    cpu: list[float]
    wall: list[float]
    """The seconds of wall time of each thread; `cpu` has those of CPU time."""

class Load:
    """A load on one server, which runs on threads of its own, without the interpreter.

    Args:
        target: A target in gRPC's syntax.
        kinds: The kinds of calls: each has a weight, and requests that are sent in turn.
        plan: The settings.
        tls: The settings for calls over TLS; the server's certificate must have the target's name.

    Raises:
        ValueError: A kind has no requests, or a number is 0.
    """

    def __init__(
        self,
        target: str,
        kinds: Sequence[tuple[float, Sequence[ClientRequest]]],
        plan: LoadPlan,
        tls: ClientTls | None = None,
    ) -> None: ...
    def start(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Starts the load, which is possible only once; the metadata are sent with every call."""

    def progress(self) -> tuple[float, int, int, int]:
        """The seconds since the start, and the numbers of calls that have begun, ended, and failed."""

    def wait(self, seconds: float) -> bool:
        """Waits for at most this many seconds; returns whether the load has ended."""

    def stop(self) -> None:
        """Ends the load early."""

    def result(self) -> LoadResult:
        """The results, once the load has ended.

        Raises:
            ConnectionError: The load could not connect to the server.
        """

class Certificates:
    """A key and certificates as PEM texts, and whether clients must send a certificate.

    Args:
        key: The server's key, not encrypted.
        certificate: The server's certificate chain.
        authority: The authorities that may have signed clients' certificates. If this is empty and clients must send a
            certificate, no client can connect.
        client_verify: Whether clients must send a certificate.

    Raises:
        ValueError: A text cannot be parsed, or has a kind of key or certificate that is not supported.
    """

    def __init__(self, key: str, certificate: str, authority: str, client_verify: bool) -> None: ...

class Tls:
    """The TLS settings of an address: the certificates that a file names.

    Args:
        path: The file.
        certificates: The certificates that the file names now.
        changed: Called when the file has changed: returns new certificates, or None to keep the old ones. Any thread.
    """

    def __init__(self, path: str, certificates: Certificates, changed: Callable[[], Certificates | None]) -> None: ...

class PlainFields(TypedDict):
    """The fields by which plain calls are identified and allowed."""

    predict: str
    """The full path of Predict."""

    infer: str
    """The full path of ModelInfer."""

    classify: str
    """The full path of Classify."""

    regress: str
    """The full path of Regress."""

    multi_inference: str
    """The full path of MultiInference."""

    classify_name: str
    """The method name of a classification in a MultiInference."""

    regress_name: str
    """The method name of a regression in a MultiInference."""

    low_priority: tuple[str, str]
    """The name and the value of the metadata that marks a call of low priority."""

    regions: Regions
    """The regions of shared memory that plain requests may name."""

    verdicts: Verdicts | None
    """The verdicts by which plain calls need no check by Python; None if no call needs a check."""

class Account:
    """The limits of one caller; see `headrace_server.security.account.Account`. Any thread."""

    def __init__(self, calls_per_second: float, rows_per_second: float, concurrent_calls: int) -> None: ...
    def admit(self) -> float | None: ...
    def charge(self, rows: int) -> None: ...
    def release(self) -> None: ...

class AuditLines:
    """Lines of the audit log about calls that ended without Python. Any thread."""

    def __init__(self) -> None: ...
    def take(self) -> bytes | None:
        """Waits for lines, and returns all, with their line feeds; None once this is closed and all lines are taken."""

    def close(self) -> None:
        """Ends all waits for lines."""

class Verdicts:
    """Which callers may run which models without a check by Python, until all verdicts are forgotten. Any thread.

    Args:
        lines: Receives the audit log's lines about these calls; None if there is no audit log.
    """

    def __init__(self, lines: AuditLines | None) -> None: ...
    @property
    def generation(self) -> int:
        """How often verdicts were forgotten. Must be read before the facts that a verdict is based on."""

    def put(
        self,
        generation: int,
        credentials: tuple[bytes, bytes],
        model: str,
        *,
        seconds: float | None,
        account: Account | None,
        low: bool,
        exhausted: str,
        names: tuple[str, str],
    ) -> None:
        """Allows calls to run a model, unless all verdicts have been forgotten since that generation.

        Args:
            generation: The generation before the verdict was reached.
            credentials: The client's certificate in DER and its authorization header; each may be empty.
            model: The model's name.
            seconds: How long the credentials are valid; None means forever.
            account: The limits of the caller; None means no limits.
            low: Whether the caller's calls let other calls go first.
            exhausted: The text of the refusal if the account admits no call.
            names: The names of the caller and the model in the audit log, as JSON.
        """

    def clear(self) -> None:
        """Forgets all verdicts."""

class Regions:
    """The regions of system shared memory that plain requests may name. Any thread."""

    def __init__(self) -> None: ...
    def put(self, name: str, descriptor: int, offset: int, size: int) -> None:
        """Adds a region: its name, a descriptor of its object, which is opened again, and its offset and size in bytes.

        Raises:
            OSError: The object cannot be opened again.
        """

    def remove(self, name: str) -> None:
        """Forgets a region, if it exists; waiting requests can still read it."""

    def clear(self) -> None:
        """Forgets all regions."""

class Spans:
    """Samples the calls of a server, and encodes the spans of all traced ones. One thread.

    Args:
        ratio: The share of the requests without a traceparent that are traced.
        rate: The maximum number of requests per second that are traced.
        kinds: A `headrace_server.monitoring.span_kinds.EncodedKinds`.
    """

    def __init__(self, ratio: float, rate: float, kinds: object) -> None: ...
    def encode(
        self,
        traces: Sequence[object],
        reports: Iterable[tuple[tuple[str, ...], BatchReport]],
        oldest: float,
        oldest_batch: float,
    ) -> tuple[list[tuple[bytes, int]], int]:
        """See `headrace_server.models.trace.Spans`; `traces` are those of the requests that Python has answered.

        The requests that the server has answered without Python are added to them.
        """

class _Place(Protocol):
    """A place for a run: a `headrace_server.processes.keeper.Place`."""

    @property
    def exchange(self) -> Exchange | None:
        """The exchange of the place's slot."""

class Exchange:
    """What is known about the messages of one slot. Used by the thread that has taken the slot's place.

    A run is repeated without the interpreter if both its message and its answer are known.

    Args:
        link: The server's side of the slot's link.
    """

    def __init__(self, link: Link) -> None: ...
    def take_owed(self) -> Sequence[int]:
        """Removes and returns the numbers of the answers that the next message must return to the worker process."""

    def lent(self) -> None:
        """Records that Python has taken an answer, so that `WorkerFields.collect` is called before the next run."""

    def learn(self, number: int, outputs: Mapping[str, Array], /) -> None:
        """Learns the content of the last answer that was not known, if all of its outputs are arrays of numbers.

        Args:
            number: The number under which the worker process has lent the arrays.
            outputs: The arrays by alias, in the memory of the worker process.

        Raises:
            BufferError: An array is not contiguous.
        """

    def forget(self) -> None:
        """Forgets all messages, since they keep arrays that are no longer used."""

class FreePlaces:
    """The places in worker processes that no run has taken. Any thread.

    Attributes:
        watched: Whether `WorkerFields.settle` must be called whenever a place has been put back.
    """

    watched: bool

    def __init__(self) -> None: ...
    def append(self, place: Any, /) -> None:
        """Adds a place, whose `exchange` must not be None."""

    def pop(self) -> Any:
        """Takes the place that was added last.

        Raises:
            IndexError: No place is free.
        """

    def remove(self, place: Any, /) -> None:
        """Takes this place.

        Raises:
            ValueError: The place is not free.
        """

    def __iter__(self) -> Iterator[Any]:
        """The places that are free at this moment."""

class Link:
    """One side of the link between the server and a worker process. One thread sends and receives; any may end it.

    Args:
        descriptor: A file in memory of `SIZE` bytes that cannot shrink. The link never closes it, and the caller may
            close it.
        is_server: Whether this is the server's side.

    Raises:
        OSError: The file cannot be mapped.
    """

    SIZE: int
    """The size of the link's file in bytes."""

    ROOM: int
    """The largest message, in bytes."""

    def __init__(self, descriptor: int, is_server: bool) -> None: ...
    def send(self, message: bytes) -> bool:
        """Sends a message; False if it is too long, or the other side has not taken the last one."""

    def send_elsewhere(self) -> None:
        """Announces a message that has been sent over a socket instead, and wakes the other side."""

    def receive(self, timeout: float | None = None) -> bytes | None:
        """Waits for the next message without the interpreter lock; None if it is in the socket.

        Raises:
            ConnectionResetError: The link has ended.
            TimeoutError: No message came within this many seconds.
        """

    @property
    def all_taken(self) -> bool:
        """Whether the other side has taken every message."""

    def end(self) -> None:
        """Ends the link: no more messages come, on either side."""

class Server:
    """A server: its addresses, its connections, and the threads that serve them.

    Args:
        methods: The full path of each method, and whether its requests are streamed.
        limits: The limits on callers: gRPC's channel arguments, without their first word and with `_` for every dot;
            `request_memory` and `max_expanded` in bytes; and `stall_ms`, where 0 means never.
        queue: The `Queue` in which the tasks of plain calls wait.
        routes: Decide which calls are plain; every other call goes to its handler.
        plain: The fields by which plain calls are identified.
    """

    def __init__(
        self,
        methods: Sequence[tuple[str, bool]],
        limits: Mapping[str, int],
        queue: TaskQueue,
        routes: Routes,
        plain: PlainFields,
    ) -> None: ...
    def listen(self, address: str, tls: Tls | None = None) -> int:
        """Listens at an address, a host and port or `unix:` and a path; returns the port, 0 for a UNIX socket.

        Raises:
            OSError: The address is taken or invalid.
        """

    def listen_http(self, address: str, endpoint: HttpEndpoint, tls: Tls | None = None) -> int:
        """Listens at an address for HTTP/1.1 and HTTP/2; returns the port."""

    def sample_traces(self, spans: Spans) -> None:
        """Traces the requests that `spans` samples. Called once, before the server starts.

        Traced requests that Python has to answer are marked with the header `headrace-traced`.
        """

    def start(self, threads: int) -> None:
        """Accepts connections, and serves them on this many threads."""

    def fileno(self) -> int:
        """The descriptor of a socket that is readable when there are events."""

    def take(self) -> list[tuple[int, Call | None, bytes | None]]:
        """Removes and returns all events: each with its kind, its call, and a message for BEGIN and MESSAGE."""

    def memory(self) -> tuple[list[tuple[str, int]], int, int]:
        """The memory used for callers: bytes by kind, the limit, and how often memory was refused."""

    def forget_answers(self) -> None:
        """Forgets the answers that were kept until the server's state changes, because it has changed. Any thread."""

    def stop(self, grace: float) -> None:
        """Accepts no more calls; DRAINED follows when those in flight have ended, or after `grace` seconds."""

    def join(self) -> None:
        """Waits for the threads to end, without the interpreter lock."""

class Call:
    """A call that Python answers, in the event loop."""

    owner: Any
    """Any object that Python needs when an event refers to the call; None once the call has ended."""

    @property
    def method(self) -> int:
        """The position of the call's method in the server's list."""

    @property
    def peer(self) -> str:
        """The caller's address, as gRPC writes it."""

    @property
    def certificate(self) -> bytes:
        """The client's certificate in DER; empty if the client has sent none."""

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata of the request; values of names that end in -bin are bytes."""

    def time_remaining(self) -> float | None:
        """The seconds until the call's deadline; None if it has none."""

    def read(self) -> None:
        """Asks for the next message of a stream of requests: a MESSAGE event follows, without a message at the end."""

    def send(self, message: bytes) -> None:
        """Sends a message of a stream of responses: a SENT event follows when it has been sent."""

    def send_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Sends the head of the response."""

    def finish(
        self,
        message: bytes | None,
        code: int = 0,
        text: str = "",
        trailers: Sequence[tuple[str, str | bytes]] = (),
        keep: Callable[[list[float]], None] | None = None,
    ) -> None:
        """Ends the call, with a last message if there is one.

        With `keep`, the message also answers every call of the same method with an equal request, until the server's
        state changes. `keep` is called from time to time with the seconds that each of these calls took.
        """

class InferAnswers(TypedDict):
    """How plain calls of the Open Inference Protocol over REST are answered."""

    statuses: Sequence[int]
    """The HTTP status for each gRPC code, for calls that fail."""

    headers: Sequence[tuple[str, str]]
    """The headers of answers in JSON."""

    late: tuple[int, Sequence[tuple[str, str]], bytes]
    """The answer to a call whose model takes too long: a status, headers, and a body."""

class HttpEndpoint:
    """An HTTP port: its limits and answers, and the requests that Python answers.

    Args:
        max_body: The maximum number of bytes of a body, as it is sent.
        timeout: Seconds that a model may take for a plain call; None means no limit.
        statuses: The HTTP status for each gRPC code, for plain calls that fail.
        headers: The headers of the answers to plain calls.
        too_large: The answer to a larger body: a status, headers, and a body.
        late: The answer to a plain call whose model takes too long.
        scalar: The error of a row-by-row answer if an output has no rows: its code, and its text with `{}` for the
            alias.
        other_rows: The error of a row-by-row answer if an output has another number of rows than those before it: its
            code, and its text with `{}` for the alias, the number of rows and the expected number.
        infer: How plain calls of the Open Inference Protocol are answered.

    Raises:
        ValueError: A status or a header is not valid in HTTP.
    """

    def __init__(
        self,
        *,
        max_body: int,
        timeout: float | None,
        statuses: Sequence[int],
        headers: Sequence[tuple[str, str]],
        too_large: tuple[int, Sequence[tuple[str, str]], bytes],
        late: tuple[int, Sequence[tuple[str, str]], bytes],
        scalar: tuple[int, str],
        other_rows: tuple[int, str],
        infer: InferAnswers,
    ) -> None: ...
    def fileno(self) -> int:
        """The descriptor of a socket that is readable when there are events."""

    def forget_answers(self) -> None:
        """See `Server.forget_answers`."""

    def take(self) -> list[tuple[int, HttpRequest | None]]:
        """Removes and returns all events: BEGIN, SENT or CANCELLED with a request, or DRAINED."""

class HttpRequest:
    """A request that Python answers, in the event loop."""

    owner: Any
    """Any object that Python needs when an event refers to the request; None once the request has been answered."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str:
        """The path as it was sent, without the query."""

    @property
    def query(self) -> str:
        """The query with its question mark; empty if there is none."""

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers by name, in lower case; the last one of several with the same name."""

    @property
    def certificate(self) -> bytes:
        """The client's certificate in DER; empty if the client has sent none."""

    @property
    def size(self) -> int:
        """The size of the body in bytes, as it was sent."""

    @property
    def is_gzip(self) -> bool:
        """Whether the headers say that the body is compressed."""

    def take_body(self) -> bytes | int:
        """Takes the body: its bytes, or the descriptor of a file with them, which the calling function closes.

        Raises:
            RuntimeError: The body has already been taken.
        """

    def answer(
        self,
        status: int,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        keep: Callable[[list[float]], None] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Answers the request, which is possible only once.

        `keep` is as for `Call.finish`, for GETs with the same path and query. With `seconds`, the answer is also kept
        no longer than this.

        Raises:
            ValueError: A status or a header is not valid in HTTP, or `seconds` is not a duration; the request waits for
                another answer.
        """

    def begin(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Begins an answer whose body is sent in pieces.

        Raises:
            ValueError: As for `answer`.
        """

    def send(self, piece: bytes) -> None:
        """Sends the next piece of the body: a SENT event follows when it has been sent."""

    def finish(self) -> None:
        """Ends the body."""

class Queue:
    """A `headrace_batching.contract.TaskQueue` in which tasks decoded outside the interpreter also wait.

    Args:
        clock: The clock of deadlines; the monotonic clock if none is given.
    """

    def __init__(self, clock: Clock | None = None) -> None: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def lock(self) -> Lock: ...
    @property
    def idle(self) -> int:
        """The number of threads that wait for a batch."""
    def lane(self, options: Options, execute: Execute, *, batched: bool = True, steady: bool = False) -> Lane: ...
    def wake(self) -> None: ...
    def take(self) -> TaskFormed | None: ...
    def turn(self, now: float) -> Turn:
        """Looks at the queue once, at time `now`."""

    def close(self) -> None: ...

class Lane:
    """A `headrace_batching.contract.TaskLane`."""

    @property
    def options(self) -> Options: ...
    @property
    def execute(self) -> Execute: ...
    @property
    def batched(self) -> bool: ...
    @property
    def rows(self) -> int:
        """The number of waiting rows."""

    @property
    def idle(self) -> bool:
        """Whether no task of the lane waits or runs."""

    @property
    def closed(self) -> bool:
        """Whether the lane accepts no more tasks."""

    @property
    def shed(self) -> int:
        """The number of tasks refused because they could not be answered in time."""

    def put(self, task: Task) -> bool: ...
    def steer(self, target: Target) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...
    def run_natively(self, fields: SessionFields | WorkerFields) -> None:
        """Runs the lane's later batches without the interpreter, except those that need Python.

        A batch needs Python if one of its tasks came from Python, or is traced; if tasks that differ in length are
        padded; or if its inputs have more than 1 MiB. If a run in an ONNX session fails, or an answer cannot be made
        from its outputs, Python runs the batch again; a run in a worker process is completed by Python. In worker
        processes, a batch also needs Python if it has no batch axis, or its tasks want only some outputs.
        """

    def count_native_runs(self) -> None:
        """Reports the runs that have not been reported yet to `tell`, and counts their calls."""

    @property
    def native_running(self) -> int:
        """The number of batches that are running without the interpreter."""

    @property
    def native_ended(self) -> float:
        """When the last run without the interpreter ended, in seconds on the queue's clock; 0 before the first."""

class SessionFields(TypedDict):
    """How headrace_native runs a signature's batches in an ONNX session."""

    session: OnnxSession
    """The model."""

    inputs: Sequence[str]
    """The name in the model of each of the signature's inputs, in the signature's order."""

    outputs: Sequence[tuple[str, str]]
    """The alias of each output, and its name in the model."""

    tell: Callable[[bytes, bytes, bytes, bytes, bytes], None]
    """Called with the successful runs that have not been reported, if there are many, and by `count_native_runs`.

    The arguments are columns of 8-byte numbers. First, four floats for each run: when it began, when its inputs had
    been joined, when its outputs had been computed, and when it ended, in seconds on the queue's clock. Then integers:
    the number of tasks of each run, and then its number of rows, padding included. Then, for each task, when it
    arrived (floats), and its number of rows (integers).
    """

    grown: Callable[[Sequence[Sequence[int]]], None]
    """Called after a run with a large output, with the shapes of the run's inputs. Python runs the next batch."""

    large: int
    """The minimum size of a large output in bytes."""

class OnnxOpening:
    """Sessions that are opened on a thread of their own, in the order of their models. Any thread.

    Once nothing refers to the object, no further session is begun.

    Args:
        options: An `onnxruntime.SessionOptions`, which is copied.
        models: The models' files, or their contents.
        seconds: Seconds after which no further session is begun.

    Raises:
        RuntimeError: The thread cannot be started, or ONNX Runtime's C API cannot be used.
    """

    def __init__(self, options: Any, models: Sequence[str | bytes], seconds: float) -> None: ...
    def take(self, index: int) -> OnnxSession | None:
        """Waits for the session of a model, which the caller now owns; None if it is not opened, or has been taken."""

class WorkerFields(TypedDict):
    """How headrace_native runs a signature's batches in worker processes. Each function may be called on any thread."""

    places: FreePlaces
    """The places for runs. If there is none, Python runs the batch, and waits for one."""

    signature: int
    """The signature's number, which tells it from the other ones that use these places."""

    seconds: float | None
    """The seconds that a run may take; None means no limit."""

    collect: Callable[[_Place], Sequence[int]]
    """Removes and returns the numbers of the answers that Python has taken and no longer uses."""

    prepare: Callable[[_Place, int, Sequence[int]], tuple[bytes, Sequence[Array]]]
    """Given a number of rows, and of answers to return, returns the message that asks for a run, and an array for each
    input, in the signature's order, whose first rows are the run's. If it raises, Python runs the batch."""

    complete: Callable[[TaskBatch, float, float, _Place, float | None], None]
    """Receives the result of a run in a place, and answers its batch. The other arguments are when the batch began and
    when it had been joined, on the queue's clock, and the seconds that are left until the time limit, if any."""

    tell: Callable[[bytes, bytes, bytes, bytes, bytes], None]
    """As in `SessionFields`."""

    settle: Callable[[], None]
    """Called when a place has been put back and the places are `watched`, or its process has ended."""

class OnnxRunOptions:
    """Options of one run: a subset of `onnxruntime.RunOptions`. Any thread."""

    terminate: bool
    """Whether the run must end before its next operator."""

    log_severity_level: int
    """The lowest severity at which the run's messages are logged."""

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Sets an option by its name."""

class OnnxSession:
    """A model in ONNX Runtime, on the CPU. Any thread.

    Args:
        options: An `onnxruntime.SessionOptions`.
        model: The model's file, or its content.

    Raises:
        RuntimeError: ONNX Runtime cannot open the model; the text is that of `onnxruntime`'s exception.
    """

    def __init__(self, options: Any, model: str | bytes) -> None: ...
    def declared(self) -> tuple[Sequence[_Declared], Sequence[_Declared], Sequence[_Declared]] | None:
        """The inputs, the outputs, and the initializers that requests may replace.

        Each has a name, the number of its dtype in types.proto, and a shape. None if one of them is not a tensor of
        numbers, or if an output is also an input: that output would be in the input's memory, which may be freed
        earlier.
        """

    def metadata(self, key: str) -> str | None:
        """The value of a key in the model's metadata; None if there is none."""

    def run_options(self) -> OnnxRunOptions:
        """New options for a run."""

    def run(
        self,
        names: Sequence[str],
        inputs: Sequence[tuple[str, Array, bool]],
        options: OnnxRunOptions | None = None,
    ) -> Sequence[OnnxValue]:
        """Computes some of the outputs.

        Args:
            names: The names of these outputs.
            inputs: For each input, its name, a contiguous array of at least one dimension, and whether it is a scalar.
            options: Options of the run.

        Raises:
            RuntimeError: The run failed; the text is that of `onnxruntime`'s exception.
        """

class OnnxValue:
    """A tensor in ONNX Runtime's memory, which numpy can use as an array without copying it."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

class RouteFields(TypedDict):
    """The properties of one signature of one version that the transport needs for plain requests."""

    model: str
    """The model's name."""

    version: int
    """The version's number."""

    signature: str
    """The signature's name."""

    inputs: Sequence[tuple[str, int, Sequence[int | None]]]
    """The alias, the dtype (one of DTYPES) and the dimensions of each input, without axis 0 if that is the batch. A
    dimension that varies is None."""

    outputs: Sequence[str]
    """The aliases of all outputs."""

    batched: bool
    """Whether axis 0 is the batch; otherwise each request runs alone."""

    max_rows: int
    """The maximum number of rows of a batch, if axis 0 is the batch."""

    larger_alone: bool
    """Whether a Predict with more rows is a batch of its own; otherwise it is not plain. The other methods have no
    plain requests with more rows."""

    max_send: int
    """The maximum number of bytes of an answer."""

    as_content: bool
    """Whether answers have their values in `tensor_content`."""

    full: tuple[int, str]
    """The code and the text of the error for a full queue; in the text, `{}` stands for the reason."""

    bounds: Sequence[float]
    """The largest latency of each bucket except the last, in microseconds."""

    answered: _Answered
    """Called for calls that the model has answered, with the number of latencies in each bucket and their sum in
    microseconds. It must not raise, and must return quickly, since the answers are sent after it."""

    failed: _Failed
    """Called for calls that have failed, with their error and the same numbers; returns their code and text."""

    rest: tuple[_Answered, _Failed] | None
    """`answered` and `failed` for calls over REST; None if the server has no REST port, or if JSON cannot express
    values of the signature's types."""

    infer: InferFields | None
    """How a ModelInfer is answered; None if Python must see it."""

    padding: PaddingFields | None
    """How requests whose inputs differ in length share batches; None if they do not."""

    bound: float | None
    """Requests with a floating-point number that is larger, NaN or infinite are left to Python; None means no bound."""

    examples: ExamplesFields | None
    """How requests with tf.Examples are answered; None if Python must see them."""

class PaddingFields(TypedDict):
    """A `headrace_batching.padding.Padding`."""

    inputs: Sequence[tuple[Sequence[int | None], bytes, bool]]
    """For each input of the signature, in order: the indices of the lengths of its axes beyond 0, the bytes of its pad
    value, and whether a task is not padded if a row of this input contains only pad values."""

    outputs: Mapping[str, Sequence[int | None]]
    """For each output: the indices of the lengths of its axes beyond 0."""

    limits: Sequence[int]
    """Increasing limits; inputs whose lengths lie between the same two share a batch."""

    shortest: int
    """The smallest length in tasks that are padded; a task with a smaller length is not."""

class InferFields(TypedDict):
    """The properties of a signature that the transport needs for plain requests of the Open Inference Protocol."""

    outputs: Sequence[tuple[str, int]]
    """All outputs, each with the number of its element type."""

    full: tuple[int, str]
    """The code and the text of the error for a full queue; in the text, `{}` stands for the request's ID."""

    answered: _Answered
    failed: _Failed

    rest: tuple[_Answered, _Failed] | None
    """`answered` and `failed` for calls over REST; None if the server has no REST port."""

class InferenceFields(TypedDict):
    """How Classify or Regress uses a signature's outputs."""

    classes: str | None
    """The alias of the output with the classes; None if there is none."""

    values: str | None
    """The alias of the output with the scores or the values; None if there is none."""

    labels: Sequence[str]
    """The classes of the scores, by index; empty if they have no names. Not used if the model returns classes."""

    check: Callable[[Arrays, int], object]
    """Called with outputs by alias and the number of Examples; raises an error if no answer can be made from them."""

    answered: _Answered
    failed: _Failed

    rest: tuple[_Answered, _Failed] | None
    """`answered` and `failed` for calls over REST; None if the server has no REST port."""

class ExamplesFields(TypedDict):
    """The properties of a signature that the transport needs for plain requests with tf.Examples."""

    classify: InferenceFields | None
    regress: InferenceFields | None

    multi: tuple[_Answered, _Failed, Callable[[list[int]], None]]
    """Called for the MultiInferences that this signature runs: `answered`, `failed`, and a function that gets the
    number of Examples of each that was answered."""

    tensors: Sequence[str]
    """The name that each output has in the model, in the order of the outputs."""

    serialized: bool
    """Whether the single input takes serialized Examples; otherwise the inputs are their features."""

    inputs: int
    """A number that is equal for signatures of a version with the same inputs."""

class Route:
    """One signature of one version, and the lane in which its tasks wait.

    Args:
        lane: A lane of a native queue.
        fields: The properties of the signature that the transport needs.
    """

    def __init__(self, lane: TaskLane, fields: RouteFields) -> None: ...

class Routes:
    """All routes, by model, version and signature.

    Args:
        default_signature: The name of the signature for requests that name none.
    """

    def __init__(self, default_signature: str) -> None: ...
    def publish(self, name: str, latest: int, versions: Mapping[int, Mapping[str, Route]]) -> None:
        """Replaces a model's routes, by version and signature. Versions without a plain signature have an empty map."""

    def assign_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replaces the labels of all models: the version of each label of each model."""
