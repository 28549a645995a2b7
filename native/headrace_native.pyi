"""The native transport: HTTP/2 on threads of its own, and calls as events for the event loop."""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, TypedDict

from headrace_batching import Options, Task
from headrace_batching.contract import Clock, Execute, TaskFormed, TaskLane, TaskQueue
from headrace_batching.latency.target import Target
from headrace_batching.queue import Turn
from headrace_batching.task import Arrays

_Answered = Callable[[tuple[list[tuple[int, int]], float]], None]
_Failed = Callable[[Exception, list[tuple[int, int]], float], tuple[int, str]]
_TraceRecord = tuple[tuple[bytes, bytes, str], tuple[bool, str, str, int | None], tuple[float, float, float | None]]
"""A `headrace_server.models.trace.TraceRecord`."""

INTERFACE: int
"""Which headrace this fits."""

DTYPES: frozenset[int]
"""The element types of a plain tensor, by their numbers in types.proto."""

BEGIN: int
MESSAGE: int
SENT: int
CANCELLED: int
DRAINED: int
LAPSED: int

CLIENT_INTERFACE: int
"""Which headrace_client this fits."""

class ClientLimits(TypedDict):
    """What a channel is told of retries and bounds; times in seconds, sizes in bytes."""

    attempts: int
    backoff: float
    max_backoff: float
    max_send: int
    max_receive: int

class ClientRequest:
    """A request, which may be sent several times. Any thread.

    Args:
        path: Of the method, `/package.Service/Method`.
        message: The message, or all of a PredictRequest but its inputs.
        inputs: Those, arrays by name. A large one is not copied: it must not change before the call has ended.
        arrays: Whether the answer is a PredictResponse, and wanted as arrays.

    Raises:
        BufferError: An array that cannot be written here: a scalar, one that is not contiguous or of another dtype.
        ValueError: The path is none, or numpy lends no memory of such a dtype.
    """

    def __init__(
        self, path: str, message: bytes, inputs: Mapping[str, Any] | None = None, arrays: bool = False
    ) -> None: ...
    def __len__(self) -> int:
        """Bytes of the message."""

class Failure:
    """How a call failed: gRPC's code, the text, and the trailing metadata."""

    code: int
    text: str
    metadata: tuple[tuple[str, str | bytes], ...]

class ClientChannel:
    """Calls to one server, over a connection that is made when it is needed and kept. Any thread.

    What comes of a call is a `Failure`; else the answer's bytes or, where the request wants arrays, a dictionary of
    them, unless the answer has a form that is left to Python.

    Args:
        target: gRPC's.
        metadata: Sent with every call.
        limits: On retries and sizes.

    Raises:
        ValueError: The target is not understood.
    """

    def __init__(self, target: str, metadata: Sequence[tuple[str, str | bytes]], limits: ClientLimits) -> None: ...
    @staticmethod
    def knows(target: str) -> bool:
        """Whether a target is understood."""

    def call(self, request: ClientRequest, seconds: float | None) -> Any:
        """Calls, and waits without the interpreter lock. The thread drives the connection itself."""

    def call_many(self, requests: Sequence[ClientRequest], seconds: float | None, in_flight: int) -> list[Any]:
        """Makes many calls, some at a time, and waits for all."""

    def start(self, request: ClientRequest, seconds: float | None) -> int:
        """Begins a call, which a thread of the channel's own drives; its number."""

    def cancel(self, number: int) -> None:
        """Gives up a call that was started."""

    def fileno(self) -> int:
        """A socket that is readable when calls have ended that were started."""

    def take(self) -> list[tuple[int, Any]]:
        """The numbers of those calls since the last time, each with what came of it."""

    def close(self) -> None:
        """Ends the calls under way, CANCELLED, and the connection."""

class LoadPlan(TypedDict):
    """What a load is; times in seconds. A closed loop has a rate of 0 and no times."""

    threads: int
    connections: int
    concurrency: int
    """Calls under way: in a closed loop this many, in an open one no more."""
    rate: float
    poisson: bool
    times: Sequence[float]
    order: Sequence[int]
    """Of which kind the call of each time is."""
    warmup: float
    seconds: float
    timeout: float
    seed: int

class LoadOutcomes(TypedDict):
    """What became of the calls of one kind."""

    latency: list[tuple[int, int]]
    """Nanoseconds from when a call was to begin to its end, and how many took so long; of those that went well."""
    failures: list[tuple[int, int]]
    """Nanoseconds from when a call was sent to its end, and how many took so long; of those that failed."""
    codes: list[int]
    """How many ended with each of gRPC's codes."""
    bytes: int
    """Of the answers of those that went well."""

class LoadResult(TypedDict):
    """What came of a load."""

    kinds: list[LoadOutcomes]
    lag: list[tuple[int, int]]
    """Nanoseconds from when a call was to begin until it did, and how many calls waited that long."""
    texts: list[tuple[int, str]]
    """The first text of each code with which calls failed."""
    cpu: list[float]
    wall: list[float]
    """Seconds of each thread."""

class Load:
    """A load on one server, which runs on threads of its own, without the interpreter.

    Args:
        target: gRPC's.
        kinds: Each a weight, and requests that take turns.
        plan: When they are sent.

    Raises:
        ValueError: A kind without requests, or a number that is 0.
    """

    def __init__(self, target: str, kinds: Sequence[tuple[float, Sequence[ClientRequest]]], plan: LoadPlan) -> None: ...
    def start(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Begins, once; the metadata goes with every call."""

    def progress(self) -> tuple[float, int, int, int]:
        """Seconds since the start, and the calls that have begun, ended, and failed."""

    def wait(self, seconds: float) -> bool:
        """Waits for so many seconds at most; whether it has ended."""

    def stop(self) -> None:
        """Ends it early."""

    def result(self) -> LoadResult:
        """What came of it, once it has ended.

        Raises:
            ConnectionError: It could not connect.
        """

class Certificates:
    """A key and certificates, as PEM texts, and whether clients must show a certificate of theirs.

    Args:
        key: The server's, not encrypted.
        certificate: The server's, and those that vouch for it.
        authority: Whose certificates clients may show. Where it is empty and they must, no client is let in.
        client_verify: Whether they must.

    Raises:
        ValueError: One of them cannot be used.
    """

    def __init__(self, key: str, certificate: str, authority: str, client_verify: bool) -> None: ...

class Tls:
    """What secures an address: the certificates that a file names.

    Args:
        path: The file.
        certificates: Those that it names now.
        changed: Asked when the file is not what it was: new ones, or None for the old. Any thread.
    """

    def __init__(self, path: str, certificates: Certificates, changed: Callable[[], Certificates | None]) -> None: ...

class PlainFields(TypedDict):
    """How a plain Predict is known from its headers."""

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
    """The name of a signature's method by which a MultiInference asks for classes."""

    regress_name: str
    """The same for values."""

    low_priority: tuple[str, str]
    """The name and the value of the metadata by which a call lets the others go first."""

    regions: Regions
    """The shared memory that a plain request may name."""

    verdicts: Verdicts | None
    """Who may call without being seen; None where anybody may."""

class Account:
    """What one caller may use, as `headrace_server.security.account.Account`. Any thread."""

    def __init__(self, calls_per_second: float, rows_per_second: float, concurrent_calls: int) -> None: ...
    def admit(self) -> float | None: ...
    def charge(self, rows: int) -> None: ...
    def release(self) -> None: ...

class AuditLines:
    """Lines of the audit log about calls that ended without Python. Any thread."""

    def __init__(self) -> None: ...
    def take(self) -> bytes | None:
        """Waits for lines, and returns all of them with their line feeds; None once it has been closed and emptied."""

    def close(self) -> None:
        """No more lines will come."""

class Verdicts:
    """Who may run which models without being seen, until all is forgotten. Any thread.

    Args:
        lines: Where the audit log's lines about these calls go; None if there is no such log.
    """

    def __init__(self, lines: AuditLines | None) -> None: ...
    @property
    def generation(self) -> int:
        """To be read before what a verdict follows from."""

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
        """Allows calls to run a model; nothing where all has been forgotten since that generation.

        Args:
            generation: As it was before the verdict was found.
            credentials: The client's certificate in DER and its authorization header; each may be empty.
            model: Its name.
            seconds: How long the credentials are good for; None for ever.
            account: What the caller may use; None for as much as it wants.
            low: Whether its calls let the others go first.
            exhausted: The text of the refusal if the account admits no call.
            names: What the audit log calls the caller and the model, as JSON.
        """

    def clear(self) -> None:
        """Forgets all."""

class Regions:
    """Regions of system shared memory that plain requests may name. Any thread."""

    def __init__(self) -> None: ...
    def put(self, name: str, descriptor: int, offset: int, size: int) -> None:
        """A region: its name, its object's descriptor, which is opened once more, and where it lies there, in bytes.

        Raises:
            OSError: The object cannot be opened again.
        """

    def remove(self, name: str) -> None:
        """Forgets one, if it is there; requests that wait still read it."""

    def clear(self) -> None:
        """Forgets all."""

class Server:
    """The addresses, their connections, and the threads that these live on.

    Args:
        methods: Full paths, each with whether its requests stream.
        limits: What callers may ask of it: gRPC's channel arguments, without their first word, `_` for every dot;
            `request_memory` and `max_expanded` in bytes, and `stall_ms`, 0 for never.
        queue: Where the tasks of plain Predicts wait: a `Queue`.
        routes: Which Predicts are plain; every other call goes to its handler.
        plain: How a Predict is known.
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
        """Takes an address, a host and port or `unix:` and a path; the port that it got, 0 for a UNIX socket.

        Raises:
            OSError: The address is taken, or no address at all.
        """

    def listen_http(self, address: str, endpoint: HttpEndpoint, tls: Tls | None = None) -> int:
        """The same for HTTP/1.1 and HTTP/2."""

    def sample_traces(self, ratio: float, rate: float) -> None:
        """Traces a share of all requests, and those whose callers trace them. Once, before it starts.

        Those that Python has to answer are marked with the header `headrace-traced`.

        Args:
            ratio: The share of the requests without a traceparent.
            rate: The most requests per second that are traced.
        """

    def take_traces(self) -> list[_TraceRecord]:
        """The records of traced calls that have ended without Python since the last time. Any thread."""

    def start(self, threads: int) -> None:
        """Accepts connections, which live on so many threads."""

    def fileno(self) -> int:
        """A socket that is readable when there are events."""

    def take(self) -> list[tuple[int, Call | None, bytes | None]]:
        """All events since the last time: kind, call, and a message for BEGIN and MESSAGE."""

    def memory(self) -> tuple[list[tuple[str, int]], int, int]:
        """What callers make it hold: bytes by kind, the most that they may be, and calls that there was no room for."""

    def forget_answers(self) -> None:
        """Forgets the answers that were kept until the server's state changes: it has. Any thread."""

    def stop(self, grace: float) -> None:
        """Takes no more calls; DRAINED follows when those in flight have ended, or after `grace` seconds."""

    def join(self) -> None:
        """Waits for the threads to end, without the interpreter lock."""

class Call:
    """A call in the event loop's hands."""

    owner: Any
    """Whatever is to be found again when an event names the call; None once it has ended."""

    @property
    def method(self) -> int:
        """The place of its method in the server's list."""

    @property
    def peer(self) -> str:
        """The caller's address, as gRPC writes it."""

    @property
    def certificate(self) -> bytes:
        """The client's certificate in DER; empty where it has shown none."""

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What came with the request; bytes for names that end in -bin."""

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; None without one."""

    def read(self) -> None:
        """Asks for the next message of a streaming request: a MESSAGE event follows, without one at the end."""

    def send(self, message: bytes) -> None:
        """Sends a message of a streaming response: a SENT event follows when it has left."""

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

        Where it answers every call of the same method and message until the server's state changes, `keep` is told of
        the calls that get it, now and then: how many seconds each took.
        """

class InferAnswers(TypedDict):
    """How plain calls of the Open Inference Protocol over REST are answered."""

    statuses: Sequence[int]
    """HTTP's, by gRPC's code, for calls that fail."""

    headers: Sequence[tuple[str, str]]
    """Those of answers in JSON."""

    late: tuple[int, Sequence[tuple[str, str]], bytes]
    """The answer to a call whose model takes too long: a status, headers, and a body."""

class HttpEndpoint:
    """An HTTP port: what it takes, and its requests that are not plain.

    Args:
        max_body: Bytes that a body may have, as it is sent.
        timeout: Seconds that a model may take for a plain call; None for no limit.
        statuses: HTTP's, by gRPC's code, for plain calls that fail.
        headers: Those of the answers to plain calls.
        too_large: The answer to a larger body: a status, headers, and a body.
        late: The answer to a plain call whose model takes too long.
        scalar: The code, and the text with `{}` for the alias, of an output without rows in an answer row by row.
        other_rows: The same, with its rows and those expected behind the alias, for one that has other rows than those
            before it.
        infer: How plain calls of the Open Inference Protocol are answered.

    Raises:
        ValueError: A status or a header that HTTP does not have.
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
        """A socket that is readable when there are events."""

    def forget_answers(self) -> None:
        """As `Server.forget_answers`."""

    def take(self) -> list[tuple[int, HttpRequest | None]]:
        """All events since the last time: BEGIN, SENT or CANCELLED and a request, or DRAINED."""

class HttpRequest:
    """A request in the event loop's hands."""

    owner: Any
    """Whatever is to be found again when an event names the request; None once it has been answered."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str:
        """As it was sent, without the query."""

    @property
    def query(self) -> str:
        """With its question mark; empty for none."""

    @property
    def headers(self) -> dict[bytes, bytes]:
        """By name, in lower case; of several of one name the last."""

    @property
    def certificate(self) -> bytes:
        """The client's certificate in DER; empty where it has shown none."""

    @property
    def size(self) -> int:
        """Bytes of the body, as it was sent."""

    @property
    def is_gzip(self) -> bool:
        """Whether the body says that it is compressed."""

    def take_body(self) -> bytes | int:
        """Takes the body, once: its bytes, or the descriptor of a file that holds them, for the caller to close.

        Raises:
            RuntimeError: It has been taken before.
        """

    def answer(
        self,
        status: int,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        keep: Callable[[list[float]], None] | None = None,
    ) -> None:
        """Answers it, once; `keep` as for `Call.finish`, with the path and the query of a GET.

        Raises:
            ValueError: A status or a header that HTTP does not have; it waits for another answer.
        """

    def begin(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Answers it with a body that comes in pieces.

        Raises:
            ValueError: As for `answer`.
        """

    def send(self, piece: bytes) -> None:
        """Sends the next piece of the body: a SENT event follows when it has left."""

    def finish(self) -> None:
        """Ends the body."""

class Queue:
    """A `headrace_batching.contract.TaskQueue` that tasks decoded outside the interpreter wait in, too.

    Args:
        clock: What deadlines are on; the monotonic clock if none is given.
    """

    def __init__(self, clock: Clock | None = None) -> None: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def lock(self) -> Lock: ...
    @property
    def idle(self) -> int:
        """Threads that wait for a batch."""
    def lane(self, options: Options, execute: Execute, *, batched: bool = True, steady: bool = False) -> Lane: ...
    def wake(self) -> None: ...
    def take(self) -> TaskFormed | None: ...
    def turn(self, now: float) -> Turn:
        """One look at the queue at time `now`."""

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
        """Rows that wait."""

    @property
    def idle(self) -> bool:
        """Whether no task of it waits or runs."""

    @property
    def closed(self) -> bool:
        """Whether it takes no more tasks."""

    @property
    def shed(self) -> int:
        """Tasks refused because they could not be answered in time."""

    def put(self, task: Task) -> bool: ...
    def steer(self, target: Target) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...

class RouteFields(TypedDict):
    """One signature of one version, for plain requests."""

    model: str
    """The model's name."""

    version: int
    """Its number."""

    signature: str
    """Its name."""

    inputs: Sequence[tuple[str, int, Sequence[int | None]]]
    """Alias, dtype (one of DTYPES) and dimensions of each, without axis 0 where that is the batch; None for one that
    varies."""

    outputs: Sequence[str]
    """The aliases of all outputs."""

    batched: bool
    """Whether axis 0 is the batch; otherwise each request runs by itself."""

    max_rows: int
    """Rows that a request may have, where axis 0 is the batch."""

    max_send: int
    """Bytes that an answer may have."""

    as_content: bool
    """Whether answers carry `tensor_content`."""

    full: tuple[int, str]
    """The code, and the text with `{}` for the reason, of a full queue."""

    bounds: Sequence[float]
    """Microseconds up to which a latency belongs to each bucket, the last one left out."""

    answered: _Answered
    """Told of calls that have ended with an answer: how many of their latencies belong to which bucket, and the sum of
    these in microseconds. It must not fail, nor take long: they get their answers when it returns."""

    failed: _Failed
    """Told of calls that have ended with an error, and the same of them; says with which code and text."""

    rest: tuple[_Answered, _Failed] | None
    """The last two for calls over REST; None where JSON has no values of its types."""

    infer: InferFields | None
    """How a ModelInfer is answered; None for a signature that it must not take without being seen."""

    padding: PaddingFields | None
    """How requests whose inputs differ in length share batches; None where they do not."""

    bound: float | None
    """Requests with a floating-point number that is larger, NaN or infinite are left to Python; None for no bound."""

    examples: ExamplesFields | None
    """How requests that carry tf.Examples are answered; None for a signature that takes none without being seen."""

class PaddingFields(TypedDict):
    """A `headrace_batching.padding.Padding`."""

    inputs: Sequence[tuple[Sequence[int | None], bytes, bool]]
    """In the order of the signature's: the lengths beyond axis 0, the pad value's bytes, and whether a task is not
    padded of which a row of it holds nothing else."""

    outputs: Mapping[str, Sequence[int | None]]
    """The lengths beyond axis 0 of each."""

    limits: Sequence[int]
    """Increasing lengths; those between the same two share a batch."""

    shortest: int
    """The least length of a task that is padded."""

class InferFields(TypedDict):
    """The same signature for plain requests of the Open Inference Protocol."""

    outputs: Sequence[tuple[str, int]]
    """All outputs, each with its element type's number."""

    full: tuple[int, str]
    """The code, and the text with `{}` for the request's id, of a full queue."""

    answered: _Answered
    failed: _Failed

    rest: tuple[_Answered, _Failed] | None
    """The last two for calls over REST; None where there are none."""

class InferenceFields(TypedDict):
    """What Classify or Regress makes of a signature's outputs."""

    classes: str | None
    """The alias of the output with the classes; None where there is none."""

    values: str | None
    """The same for the scores, or the values."""

    labels: Sequence[str]
    """The classes of the scores, by index; empty where they have no names. Not used where the model gives classes."""

    check: Callable[[Arrays, int], object]
    """Raises what is wrong with outputs, by alias, of which no answer to so many Examples can be made."""

    answered: _Answered
    failed: _Failed

    rest: tuple[_Answered, _Failed] | None
    """The last two for calls over REST; None where there are none."""

class ExamplesFields(TypedDict):
    """The same signature for plain requests that carry tf.Examples."""

    classify: InferenceFields | None
    regress: InferenceFields | None

    multi: tuple[_Answered, _Failed, Callable[[list[int]], None]]
    """Those who are told of each MultiInference that it runs; the last of the Examples of each that was answered."""

    tensors: Sequence[str]
    """What the model calls its outputs, in their order."""

    serialized: bool
    """Whether the one input takes Examples as they are; otherwise the inputs are their features."""

    inputs: int
    """The same number for signatures of a version that have the same inputs."""

class Route:
    """One signature of one version, and where its tasks wait.

    Args:
        lane: A lane of a native queue.
        fields: What its requests are checked against, and what their answers look like.
    """

    def __init__(self, lane: TaskLane, fields: RouteFields) -> None: ...

class Routes:
    """Every route there is.

    Args:
        default_signature: The name of the signature of a request that names none.
    """

    def __init__(self, default_signature: str) -> None: ...
    def publish(self, name: str, latest: int, versions: Mapping[int, Mapping[str, Route]]) -> None:
        """Replaces a model's: by version, by signature. A version without a plain signature is named, too."""

    def assign_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replaces the labels of all models: by model, by label, their versions."""
