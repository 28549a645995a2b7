"""The gate for HTTP: a request's caller is identified and checked before the request reaches its API."""

import math
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace

from headrace_batching import LoopDelivery
from headrace_protos import Code
from headrace_server.errors import ServingError, status_of
from headrace_server.security.gate import Gate
from headrace_server.security.methods import V1, V2, Action, Need
from headrace_server.security.principal import Credentials, Refused
from headrace_server.security.visit import Visit, begin_visit
from headrace_server.services.http import CORS, HttpAnswer, HttpRequest
from headrace_server.services.open_inference.rest.routes import route as v2_route
from headrace_server.services.ready import PATHS
from headrace_server.services.router import HttpApi
from headrace_server.services.tf_serving.rest.outputs import write_error
from headrace_server.services.tf_serving.rest.routes import UNDER_V1
from headrace_server.services.tf_serving.rest.routes import route as v1_route
from headrace_server.services.tf_serving.rest.service import HTTP_STATUS

NO_CALL = Need(Action.METADATA)
"""The right for a request that is no call of its API: the API reports that, but only to authenticated callers."""


class Needs:
    """The rights that requests need.

    Args:
        pages: The paths of pages besides the APIs, and the action of each.
        calls: The paths of calls besides the APIs, and the right that each needs.
    """

    def __init__(self, pages: Mapping[str, Action], calls: Mapping[str, Need] | None = None) -> None:
        shown = {**dict.fromkeys(PATHS, Action.HEALTH), **pages}
        self._pages = frozenset(shown)
        self._calls = {**{path: Need(action) for path, action in shown.items()}, **(calls or {})}

    def of(self, request: HttpRequest) -> Need:
        """The right that a request needs; an unknown path is refused to everybody."""
        if request.path in self._calls:
            return self._calls[request.path]
        if request.path == "/v2" or request.path.startswith("/v2/"):
            return _of_v2(request)
        return _of_v1(request) if UNDER_V1.fullmatch(request.target) else Need(None)

    def is_page(self, request: HttpRequest) -> bool:
        """Whether a request is for a page, and not for a call of an API."""
        return request.path in self._pages


def _of_v1(request: HttpRequest) -> Need:
    try:
        asked = v1_route(request.method, request.target)
    except ServingError:
        return NO_CALL
    return Need(V1.get(asked.verb), (asked.spec.name,))


def _of_v2(request: HttpRequest) -> Need:
    asked = v2_route(request.method, request.path)
    if isinstance(asked, int):
        return NO_CALL
    need = V2.get(asked.call)
    return Need(None) if need is None else need(asked.model)


class GuardedApi:
    """Passes requests on to an API if their callers may make them.

    Args:
        gate: Decides which calls are allowed.
        needs: The right that each request needs.
        api: Answers the requests that are allowed.
        cors: Whether refusals carry CORS headers, and a browser's preflight request needs no credentials.
    """

    def __init__(self, gate: Gate, needs: Needs, api: HttpApi, *, cors: bool) -> None:
        self._gate = gate
        self._needs = needs
        self._api = api
        self._cors = cors

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """See `HttpApi`."""
        if request.method == "OPTIONS" and self._cors and not self._needs.is_page(request):
            # Browsers send no credentials with a preflight request. The APIs answer it without looking at a model; a
            # page may answer it like any other request.
            return await self._api.answer(request, delivery)
        began = time.monotonic()
        visit = Visit(Credentials(request.header("authorization"), request.certificate, request.peer))
        need = NO_CALL
        try:
            need = self._needs.of(request)
            await self._gate.enter(visit, need.action)
            self._gate.admit(visit, need)
        except ServingError as error:
            visit.leave()
            model = next(iter(need.models), None) or ""
            code = Code.Name(status_of(error)[0])
            self._gate.write(visit, f"HTTP {need.action or request.method}", model, code, time.monotonic() - began)
            return self._refusal(error, has_credentials=bool(visit.credentials.authorization))
        return await self._admitted(request, delivery, visit)

    async def _admitted(self, request: HttpRequest, delivery: LoopDelivery, visit: Visit) -> HttpAnswer:
        begin_visit(visit)
        try:
            answer = await self._api.answer(request, delivery)
        except BaseException:
            visit.leave()
            raise
        if answer.chunks is None:
            visit.leave()
            return replace(answer, keep=None)  # the answer is meant for this caller only
        return replace(answer, chunks=_until_sent(answer.chunks, visit))

    def _refusal(self, error: ServingError, *, has_credentials: bool) -> HttpAnswer:
        code, text = status_of(error)
        headers = {"Content-Type": "application/json", **(CORS if self._cors else {})}
        if code == Code.UNAUTHENTICATED:
            headers["WWW-Authenticate"] = 'Bearer realm="headrace"' + ', error="invalid_token"' * has_credentials
        if isinstance(error, Refused) and error.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(error.retry_after))
        return HttpAnswer(HTTP_STATUS.get(code, 500), write_error(text), headers)


async def _until_sent(chunks: AsyncGenerator[bytes, None], visit: Visit) -> AsyncGenerator[bytes, None]:
    """Yields the rest of an answer, then ends the caller's visit, even if the answer is not read to its end."""
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
    finally:
        visit.leave()
