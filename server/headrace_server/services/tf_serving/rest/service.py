"""The REST API: converts HTTP requests to calls of the two services, and their answers to JSON."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial

from headrace_batching import LoopDelivery
from headrace_protos import (
    ClassificationRequest,
    Code,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    Input,
    ModelSpec,
    RegressionRequest,
)
from headrace_server.backends.signature import TensorSpec
from headrace_server.errors import ServingError, status_of
from headrace_server.models.call import Call
from headrace_server.services.http import CORS, Body, HttpAnswer, HttpRequest
from headrace_server.services.kept import Count, counted
from headrace_server.services.limits import deadline_after, limited_call, timed
from headrace_server.services.tf_serving.model_service import ModelService
from headrace_server.services.tf_serving.prediction import SIGNATURE_DEF, PredictionService
from headrace_server.services.tf_serving.request_log.logger import MakeMessages
from headrace_server.services.tf_serving.rest.examples import read_example_body
from headrace_server.services.tf_serving.rest.inputs import DTypes, read_predict
from headrace_server.services.tf_serving.rest.large import JsonWork
from headrace_server.services.tf_serving.rest.messages import write_metadata, write_status
from headrace_server.services.tf_serving.rest.outputs import write_classifications, write_error, write_regressions
from headrace_server.services.tf_serving.rest.routes import UNDER_V1, Route, route

Observe = Callable[[str, str, str, float], None]
Record = Callable[[str, MakeMessages], None]
Page = Callable[[], bytes]
Pages = Mapping[str, Page]
Content = bytes | memoryview

METHODS = frozenset(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"))
"""The methods that TF Serving's HTTP server knows."""

HTTP_STATUS = {
    # TF Serving's http_server.cc has these statuses; any other code is 500.
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}

_JSON = {"Content-Type": "application/json"}
_LASTING = ("metadata", "status")


@dataclass(frozen=True, slots=True)
class RestOptions:
    """The options of the REST API.

    Attributes:
        timeout: Seconds that a model may take for a call; None means no limit.
        cors: Whether answers carry CORS headers.
        pages: Pages besides the API's, by path: each is a function that returns its text.
        observe: Called for each call of the API that has ended, with the model's name, the verb (empty for a call for a
            status or for metadata), the status code's name, and the seconds that it took.
        record: Called for each call that a model has answered, with the model's name and a function that creates the
            messages for a record.
        is_ready: Whether the server is ready to be called.
    """

    timeout: float | None = None
    cors: bool = False
    pages: Pages = field(default_factory=dict)
    observe: Observe = lambda _model, _verb, _code, _seconds: None
    record: Record = lambda _model, _make: None
    is_ready: Callable[[], bool] = lambda: True


class RestService:
    """Answers the HTTP requests of TF Serving's API.

    Args:
        prediction: Runs models.
        model: Knows the versions of models.
        json: Reads and writes bodies.
        options: All other options.
    """

    def __init__(
        self, prediction: PredictionService, model: ModelService, json: JsonWork, options: RestOptions
    ) -> None:
        self._prediction = prediction
        self._model = model
        self._json = json
        self._options = options

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of every JSON answer."""
        return self._headers(_JSON)

    def refusal(self, error: Exception) -> HttpAnswer:
        """The answer to a call that has failed."""
        code, text = status_of(error)
        body = write_error(text) if text else b""
        return HttpAnswer(HTTP_STATUS.get(code, 500), body, self.headers)

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Answers any request.

        Args:
            request: The whole request.
            delivery: Resolves futures in the event loop that this runs in.
        """
        if request.method not in METHODS:
            return _html(501, "Not Implemented")
        page = self._options.pages.get(request.path)
        if page is not None:
            return await _page(request, page)
        if not UNDER_V1.fullmatch(request.target):
            return _html(404, "Not Found")
        if request.method == "OPTIONS":
            return self._preflight(request)
        return await self._api(request, delivery)

    async def _api(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        began = time.monotonic()
        code, asked = Code.OK, Route("", ModelSpec())
        try:
            asked = route(request.method, request.target)
            content = await self._content(asked, request.body, delivery)
            answer = HttpAnswer(200, content, self.headers, keep=self._keep(asked))
        except Exception as error:
            code, answer = status_of(error)[0], self.refusal(error)
        self._options.observe(asked.spec.name, asked.counted_verb, Code.Name(code), time.monotonic() - began)
        return answer

    def _keep(self, asked: Route) -> Count | None:
        if asked.verb not in _LASTING:
            return None
        return counted(partial(self._options.observe, asked.spec.name, asked.counted_verb, Code.Name(Code.OK)))

    async def _content(self, asked: Route, body: Body, delivery: LoopDelivery) -> Content:
        match asked.verb:
            case "predict":
                return await self._predict(asked.spec, body, delivery)
            case "classify":
                return await self._classify(asked.spec, body, delivery)
            case "regress":
                return await self._regress(asked.spec, body, delivery)
            case "metadata":
                request = GetModelMetadataRequest(model_spec=asked.spec, metadata_field=[SIGNATURE_DEF])
                return write_metadata(await self._prediction.get_model_metadata(request, Call(delivery)))
        status = await self._model.get_model_status(GetModelStatusRequest(model_spec=asked.spec), Call(delivery))
        return write_status(status)

    async def _predict(self, spec: ModelSpec, body: Body, delivery: LoopDelivery) -> Content:
        with ExitStack() as held:
            try:
                deadline = deadline_after(self._options.timeout)
                servable = held.enter_context(await self._prediction.lease(spec, deadline))
            except ServingError:
                async with timed(self._options.timeout):
                    await self._json.read(body, read_predict, None)  # errors in the body are reported first
                raise
            signatures = {name: _dtypes(signature.inputs) for name, signature in servable.signatures.items()}
            optional = {name: _dtypes(signature.optional) for name, signature in servable.signatures.items()}
            read = partial(read_predict, optional=optional) if any(optional.values()) else read_predict
            async with timed(self._options.timeout):
                asked = await self._json.read(body, read, signatures)
            async with self._limited(delivery, "Predict") as call:
                outputs = await self._prediction.predict_arrays(servable, asked.signature_name, asked.inputs, call)
            content = await self._json.write_predict(outputs, by_row=asked.by_row)
            named = ModelSpec(signature_name=asked.signature_name)
            named.MergeFrom(spec)
            make = partial(self._prediction.predict_messages, named, servable, asked.inputs, outputs)
            self._options.record(spec.name, make)
            return content

    async def _classify(self, spec: ModelSpec, body: Body, delivery: LoopDelivery) -> Content:
        request = ClassificationRequest(model_spec=spec)
        await self._read_examples(body, request.model_spec, request.input)
        async with self._limited(delivery, "Classify") as call:
            response = await self._prediction.classify(request, call)
        self._options.record(spec.name, lambda: (request, response))
        return await self._json.write_result(write_classifications, response.result)

    async def _regress(self, spec: ModelSpec, body: Body, delivery: LoopDelivery) -> Content:
        request = RegressionRequest(model_spec=spec)
        await self._read_examples(body, request.model_spec, request.input)
        async with self._limited(delivery, "Regress") as call:
            response = await self._prediction.regress(request, call)
        self._options.record(spec.name, lambda: (request, response))
        return await self._json.write_result(write_regressions, response.result)

    async def _read_examples(self, body: Body, spec: ModelSpec, examples: Input) -> None:
        async with timed(self._options.timeout):
            name, serialized = await self._json.read(body, read_example_body)
        spec.signature_name = name
        examples.MergeFromString(serialized)

    def _limited(self, delivery: LoopDelivery, api: str) -> AbstractAsyncContextManager[Call]:
        """Applies the time limit to a whole call; in TF Serving it applies only to the run of the model."""
        return limited_call(delivery, self._options.timeout, api)

    def _preflight(self, request: HttpRequest) -> HttpAnswer:
        allowed = "http://" in request.origin or "https://" in request.origin
        self._options.observe("", "", "OK" if allowed else "FAILED_PRECONDITION", 0.0)
        return HttpAnswer(200 if allowed else 400, b"", self._headers({}))

    def _headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {**headers, **CORS} if self._options.cors else headers


def _dtypes(specs: Mapping[str, TensorSpec]) -> DTypes:
    return {alias: spec.dtype for alias, spec in specs.items()}


async def _page(request: HttpRequest, page: Page) -> HttpAnswer:
    plain = {"Content-Type": "text/plain"}
    if request.query:
        return HttpAnswer(400, f"Unexpected path: {request.target}. Should be {request.path}".encode(), plain)
    return HttpAnswer(200, await asyncio.to_thread(page), plain)  # the page may ask a driver, which takes time


def _html(status: int, reason: str) -> HttpAnswer:
    title = f"{status} {reason}"
    text = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return HttpAnswer(status, text.encode(), {"Content-Type": "text/html"})
