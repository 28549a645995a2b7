"""MLflow's scoring protocol over HTTP, for one model, for clients of `mlflow models serve`.

Source: MLflow's pyfunc/scoring_server. Errors carry no traceback, and no copy of the body that was sent.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from headrace_batching import LoopDelivery
from headrace_batching.task import Arrays
from headrace_protos import Code
from headrace_server.backends.signature import Signature
from headrace_server.errors import NotInMemory, ServingError, invalid, status_of, unimplemented
from headrace_server.models.call import Call
from headrace_server.models.servable import Servable
from headrace_server.processes.pool import JsonProcesses
from headrace_server.services.http import CORS, Body, HttpAnswer, HttpRequest
from headrace_server.services.json.writing import written
from headrace_server.services.kept import not_counted
from headrace_server.services.limits import deadline_after, limited_call, timed
from headrace_server.services.mlflow.inputs import Declared, Scoring, read_csv_scoring, read_json_scoring
from headrace_server.services.mlflow.outputs import write_error, write_predictions
from headrace_server.services.servables import Servables

INVOCATIONS = "/invocations"
HEALTH = ("/ping", "/health")
VERSION = "/version"
PATHS = (INVOCATIONS, *HEALTH, VERSION)

_CONTENT_TYPES = {"text/csv": read_csv_scoring, "application/json": read_json_scoring}

_ERRORS = {
    # MLflow's exceptions.py has the statuses; any other code is INTERNAL_ERROR, 500.
    Code.INVALID_ARGUMENT: (400, "INVALID_PARAMETER_VALUE"),
    Code.FAILED_PRECONDITION: (400, "INVALID_PARAMETER_VALUE"),
    Code.OUT_OF_RANGE: (400, "INVALID_PARAMETER_VALUE"),
    Code.NOT_FOUND: (404, "RESOURCE_DOES_NOT_EXIST"),
    Code.UNAUTHENTICATED: (401, "UNAUTHENTICATED"),
    Code.PERMISSION_DENIED: (403, "PERMISSION_DENIED"),
    Code.RESOURCE_EXHAUSTED: (429, "RESOURCE_EXHAUSTED"),
    Code.UNIMPLEMENTED: (501, "NOT_IMPLEMENTED"),
    Code.UNAVAILABLE: (503, "TEMPORARILY_UNAVAILABLE"),
    Code.DEADLINE_EXCEEDED: (504, "DEADLINE_EXCEEDED"),
}
_JSON = {"Content-Type": "application/json"}
_PLAIN = {"Content-Type": "text/plain; charset=utf-8"}

Read = Callable[[bytes, Declared], Scoring]


@dataclass(frozen=True, slots=True)
class MlflowRestOptions:
    """The options of this API.

    Attributes:
        model: The name of the model that answers.
        output: The output whose values are the predictions; empty means all outputs, by name.
        timeout: Seconds that the model may take for a call; None means no limit.
        cors: Whether answers carry CORS headers.
        is_ready: Whether the server is ready to be called.
        observe: Called for each call that has ended, with the model's name, the verb, the status code's name, and the
            seconds that it took.
    """

    model: str
    output: str = ""
    timeout: float | None = None
    cors: bool = False
    is_ready: Callable[[], bool] = lambda: True
    observe: Callable[[str, str, str, float], None] = lambda _model, _verb, _code, _seconds: None


class _BadBody(ServingError):
    """A body that cannot be read."""


class MlflowApi:
    """Answers the paths of the protocol.

    Args:
        servables: Finds the model's version.
        processes: The processes that read and write large bodies.
        options: All other options.
    """

    def __init__(self, servables: Servables, processes: JsonProcesses, options: MlflowRestOptions) -> None:
        self._servables = servables
        self._processes = processes
        self._options = options

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Answers any request."""
        if request.method == "OPTIONS" and self._options.cors:
            return HttpAnswer(200, b"", CORS)
        methods = ("POST",) if request.path == INVOCATIONS else ("GET", "HEAD")
        if request.method not in methods:
            return self._answer(405, b'{"detail":"Method Not Allowed"}', {**_JSON, "Allow": ", ".join(methods)})
        if request.path == INVOCATIONS:
            return await self._invocations(request, delivery)
        if request.path == VERSION:
            return self._answer(200, version("headrace").encode(), _JSON)
        return HttpAnswer(self._health(), b"\n", _JSON, keep=not_counted)

    def _health(self) -> int:
        """The status that says whether the model can be called; like MLflow's, it is 404 if there is no model."""
        if not self._options.is_ready():
            return 503
        try:
            with self._servables.servable(self._options.model):
                return 200
        except NotInMemory:
            return 200  # the next call loads it
        except ServingError:
            return 404

    async def _invocations(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        began = time.monotonic()
        refusal = _unsupported(request)
        if refusal:
            answer, code = self._answer(415, refusal.encode(), _PLAIN), Code.INVALID_ARGUMENT
        else:
            try:
                content = await self._predictions(request, delivery)
                answer, code = self._answer(200, content, _JSON), Code.OK
            except Exception as error:
                answer, code = self._refusal(error), status_of(error)[0]
        self._options.observe(self._options.model, "invocations", Code.Name(code), time.monotonic() - began)
        return answer

    async def _predictions(self, request: HttpRequest, delivery: LoopDelivery) -> bytes | memoryview:
        deadline = deadline_after(self._options.timeout)
        with await self._servables.lease(self._options.model, None, deadline) as servable:
            name, signature = servable.signature("")
            self._check_output(signature)
            read, declared = _CONTENT_TYPES[_mime_type(request)], _declared(signature)
            async with timed(self._options.timeout):
                scoring = await self._read(read, request.body, declared)
            _check_names(declared, scoring)
            wanted = (self._options.output,) if self._options.output else signature.every_output
            async with limited_call(delivery, self._options.timeout, "Predict") as call:
                outputs = await _run(servable, name, signature.complete(scoring.inputs), wanted, call)
        rows = _rows(scoring.inputs) if scoring.by_record else None
        return await written(self._processes, outputs, write_predictions, self._options.output, rows)

    def _check_output(self, signature: Signature) -> None:
        output = self._options.output
        if output and output not in signature.outputs:
            names = ", ".join(signature.outputs)
            raise ServingError(Code.INTERNAL, f"--mlflow_output must be one of {names}; was {output}")

    async def _read(self, read: Read, body: Body, declared: Declared) -> Scoring:
        data = body.data
        try:
            if data is not None:
                return read(data, declared)
            return await self._processes.run(read, declared, size=body.size, body=body.detach())
        except ServingError as error:
            raise (_BadBody(error.code, error.message) if error.code == Code.INVALID_ARGUMENT else error) from error

    def _refusal(self, error: Exception) -> HttpAnswer:
        code, text = status_of(error)
        status, error_code = _ERRORS.get(code, (500, "INTERNAL_ERROR"))
        if isinstance(error, _BadBody):
            error_code = "BAD_REQUEST"
        return self._answer(status, write_error(error_code, text), _JSON)

    def _answer(self, status: int, body: bytes | memoryview, headers: dict[str, str]) -> HttpAnswer:
        return HttpAnswer(status, body, {**headers, **CORS} if self._options.cors else headers)


async def _run(servable: Servable, name: str, inputs: Arrays, wanted: tuple[str, ...], call: Call) -> Arrays:
    if not servable.answers_once:
        raise unimplemented("the model answers with a stream, which /invocations cannot return")
    return await servable.run(name, inputs, wanted, call)


def _declared(signature: Signature) -> Declared:
    inputs = {name: spec for name, spec in signature.inputs.items() if name not in signature.defaults}
    return Declared(inputs, {name: spec for name, spec in signature.sendable.items() if name not in inputs})


def _check_names(declared: Declared, scoring: Scoring) -> None:
    """Refuses a body that lacks an input, in MLflow's words. Inputs that the model does not have are ignored."""
    missing = [name for name in declared.inputs if name not in scoring.inputs]
    if missing:
        every = declared.every
        others = [name for name in scoring.names if name not in every]
        extra = f" Note that there were extra inputs: {others}." if others else ""
        raise invalid(f"Model is missing inputs {missing}.{extra}")


def _rows(inputs: Arrays) -> int | None:
    return next((len(array) for array in inputs.values() if array.ndim), None)


def _mime_type(request: HttpRequest) -> str:
    return request.header("content-type").partition(";")[0].strip()


def _unsupported(request: HttpRequest) -> str:
    """The reason why a body with this Content-Type is refused, in MLflow's words; empty if it is accepted."""
    whole = request.header("content-type")
    pairs = [pair.strip().partition("=") for pair in whole.split(";")[1:]]
    parameters = {name.lower(): value for name, _, value in pairs if name}
    if parameters.pop("charset", "utf-8").strip('"').lower() != "utf-8":
        return "The scoring server only supports UTF-8"
    if parameters:
        return f"Unrecognized content type parameters: {', '.join(sorted(parameters))}."
    if _mime_type(request) not in _CONTENT_TYPES:
        return f"This predictor only supports the following content types: Types: {[*_CONTENT_TYPES]}. Got '{whole}'."
    if request.header("content-encoding") not in ("", "identity"):
        return (
            f"This predictor only supports bodies that are not compressed. Got '{request.header('content-encoding')}'."
        )
    return ""
