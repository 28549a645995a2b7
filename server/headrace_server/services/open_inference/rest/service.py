"""The Open Inference Protocol over HTTP. Source: Triton's http_server.cc.

Where Triton answers 500 although the caller made the mistake, this API answers 400 with the same text.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import orjson

from headrace_batching import LoopDelivery
from headrace_protos import Code
from headrace_server.errors import ServingError, status_of
from headrace_server.processes.pool import JsonProcesses
from headrace_server.services.http import CORS, HttpAnswer, HttpRequest
from headrace_server.services.kept import Count, counted
from headrace_server.services.open_inference.rest.administration import Administration
from headrace_server.services.open_inference.rest.compression import ACCEPTED
from headrace_server.services.open_inference.rest.generate import GenerateCalls
from headrace_server.services.open_inference.rest.infer import InferCalls
from headrace_server.services.open_inference.rest.messages import to_json
from headrace_server.services.open_inference.rest.routes import Route, route
from headrace_server.services.open_inference.server import OpenInference

Observe = Callable[[str, str, str, float], None]

HTTP_STATUS = {
    # Triton's http_server.cc has the first eight; any other code is 500.
    Code.INVALID_ARGUMENT: 400,
    Code.ALREADY_EXISTS: 400,
    Code.CANCELLED: 400,
    Code.UNKNOWN: 400,
    Code.NOT_FOUND: 404,
    Code.INTERNAL: 500,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.PERMISSION_DENIED: 403,
}

_REFUSED = {404: "Not Found", 405: "Method Not Allowed"}
_JSON = {"Content-Type": "application/json"}
_LASTING = frozenset(("server", "live", "ready", "models", "metadata", "model_ready"))


@dataclass(frozen=True, slots=True)
class OpenInferenceRestOptions:
    """The options of the protocol over REST.

    Attributes:
        timeout: Seconds that a model may take for a call; None means no limit.
        cors: Whether answers carry CORS headers.
        observe: Called for each call that has ended, with the model's name, the verb (empty if the call does not run a
            model), the status code's name, and the seconds that it took.
    """

    timeout: float | None = None
    cors: bool = False
    observe: Observe = lambda _model, _verb, _code, _seconds: None


class OpenInferenceRest:
    """Answers HTTP requests whose path begins with /v2.

    Args:
        server: The models, the regions and the settings that gRPC and HTTP share.
        processes: The processes that parse and write large JSON bodies.
        options: All other options.
    """

    def __init__(self, server: OpenInference, processes: JsonProcesses, options: OpenInferenceRestOptions) -> None:
        self._server = server
        self._models = server.models
        self._options = options
        infer, generate = InferCalls(server, processes, options.timeout), GenerateCalls(server, options.timeout)
        self._runs = {"infer": infer.answer, "generate": generate.once, "generate_stream": generate.stream}
        self._administration = Administration(server)
        self._calls: Mapping[str, Callable[[Route, HttpRequest], Awaitable[Any]]] = {
            "server": self._metadata_of_server,
            "live": self._live,
            "ready": self._ready,
            "models": self._names,
            "metadata": self._metadata,
            "model_ready": self._model_ready,
            "config": self._config,
            "stats": self._stats,
            **self._administration.calls,
        }

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of answers in JSON."""
        return {**_JSON, **CORS} if self._options.cors else _JSON

    def refusal(self, error: Exception) -> HttpAnswer:
        """The answer to a call that has failed."""
        code, text = status_of(error)
        return HttpAnswer(HTTP_STATUS.get(code, 500), write_error(text), self.headers)

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Answers any request.

        Args:
            request: The whole request.
            delivery: Resolves futures in the event loop that this runs in.
        """
        if request.method == "OPTIONS" and self._options.cors:
            return HttpAnswer(200, b"", CORS)
        asked = route(request.method, request.path)
        if isinstance(asked, int):
            return self._headed(HttpAnswer(asked, write_error(_REFUSED[asked]), _JSON))
        began = time.monotonic()
        code = Code.OK
        try:
            answer = await self._answer(asked, request, delivery)
        except Exception as error:
            code, text = status_of(error)
            unread = {"Accept-Encoding": ACCEPTED} if code == Code.UNIMPLEMENTED and asked.call in self._runs else {}
            answer = HttpAnswer(HTTP_STATUS.get(code, 500), write_error(text), {**_JSON, **unread})
        verb = asked.call if asked.call in self._runs else ""
        self._options.observe(asked.model, verb, Code.Name(code), time.monotonic() - began)
        return self._headed(answer)

    async def _answer(self, asked: Route, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        if asked.call in self._runs:
            return await self._runs[asked.call](asked, request, delivery)
        value = await self._calls[asked.call](asked, request)
        body = b"" if value is None else orjson.dumps(value)
        return HttpAnswer(200, body, _JSON, keep=self._keep(asked) if asked.call in _LASTING else None)

    def _keep(self, asked: Route) -> Count:
        return counted(partial(self._options.observe, asked.model, "", Code.Name(Code.OK)))

    async def _metadata_of_server(self, asked: Route, request: HttpRequest) -> Any:
        del asked, request
        return to_json(self._models.server())

    async def _live(self, asked: Route, request: HttpRequest) -> Any:
        del asked, request
        return {"live": True}

    async def _ready(self, asked: Route, request: HttpRequest) -> Any:
        del asked, request
        if not self._models.is_ready():
            raise ServingError(Code.UNAVAILABLE, "the server is not ready")
        return {"ready": True}

    async def _names(self, asked: Route, request: HttpRequest) -> Any:
        del asked, request
        return {"models": self._models.names()}

    async def _metadata(self, asked: Route, request: HttpRequest) -> Any:
        return to_json(await self._models.metadata(asked.model, asked.version, _signature(request)))

    async def _config(self, asked: Route, request: HttpRequest) -> Any:
        return to_json(await self._models.config(asked.model, asked.version, _signature(request)))

    async def _stats(self, asked: Route, request: HttpRequest) -> Any:
        del request
        return to_json(self._models.statistics(asked.model, asked.version))

    async def _model_ready(self, asked: Route, request: HttpRequest) -> Any:
        del request
        self._models.lookup.check_ready(asked.model, asked.version)
        return {"name": asked.model, "ready": True}

    def _headed(self, answer: HttpAnswer) -> HttpAnswer:
        if not self._options.cors:
            return answer
        return replace(answer, headers={**answer.headers, **CORS})


def write_error(message: str) -> bytes:
    """The body of an error."""
    return orjson.dumps({"error": message.encode(errors="surrogateescape").decode(errors="replace")})


def _signature(request: HttpRequest) -> str:
    """The signature that `?signature_name=` asks about; empty means the default."""
    return parse_qs(request.query.removeprefix("?")).get("signature_name", [""])[0]
