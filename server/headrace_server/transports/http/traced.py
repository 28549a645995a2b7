"""Records traced HTTP requests of an API."""

from headrace_batching import LoopDelivery
from headrace_server.models.trace import CURRENT, MARK, PARENT, STATE
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.router import HttpApi
from headrace_server.transports.grpc.endpoint import Tracing

_APIS = ("/v1/", "/v2")
"""The prefixes of paths that are traced."""


class TracedApi:
    """An API whose traced requests are recorded.

    Args:
        api: The API that answers the requests.
        tracing: Records the traced requests.
    """

    def __init__(self, api: HttpApi, tracing: Tracing) -> None:
        self._api = api
        self._tracing = tracing

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Passes a request on to the API, and records it if it is traced."""
        if not request.path.startswith(_APIS):
            return await self._api.answer(request, delivery)
        marked = bool(request.header(MARK))
        trace = self._tracing.begin(request.header(PARENT), request.header(STATE), marked=marked)
        if trace is None:
            return await self._api.answer(request, delivery)
        trace.is_http(request.method, request.path)
        token = CURRENT.set(trace)
        try:
            answer = await self._api.answer(request, delivery)
            trace.is_http(request.method, request.path, answer.status)
            return answer
        finally:
            CURRENT.reset(token)
            self._tracing.end(trace)
