"""Records traced HTTP requests of an API."""

from headrace_batching import LoopDelivery
from headrace_server.models.trace import CURRENT, MARK, PARENT
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.router import HttpApi
from headrace_server.transports.grpc.endpoint import Tracing

_SERVERS_FAULT = 500

_APIS = ("/v1/", "/v2")
"""The prefixes of paths that are traced."""


class TracedApi:
    """An API whose traced requests are recorded.

    Args:
        api: It.
        tracing: Records them.
    """

    def __init__(self, api: HttpApi, tracing: Tracing) -> None:
        self._api = api
        self._tracing = tracing

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """What the API answers."""
        if not request.path.startswith(_APIS):
            return await self._api.answer(request, delivery)
        trace = self._tracing.begin(request.header(PARENT), marked=bool(request.header(MARK)))
        if trace is None:
            return await self._api.answer(request, delivery)
        trace.name = request.method
        trace.attributes |= {"http.request.method": request.method, "url.path": request.path}
        token = CURRENT.set(trace)
        try:
            answer = await self._api.answer(request, delivery)
            trace.attributes["http.response.status_code"] = answer.status
            trace.error = answer.status >= _SERVERS_FAULT
            return answer
        finally:
            CURRENT.reset(token)
            self._tracing.end(trace)
