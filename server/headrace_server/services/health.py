"""grpc.health.v1: SERVING once every configured model has a version ready, until the server drains."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server

from headrace_server.security.methods import SERVER_NAMES
from headrace_server.services.kept import KeepsAnswers, not_counted

Context = grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]


class HealthService(HealthServicer):  # type: ignore[misc]  # the base class has no type annotations
    """Reports the state of the whole server under each of its own names, and that of a model under the model's name.

    Args:
        answers: Whether a model answers requests; None if there is no model with that name.
        changed: Called whenever the state of the server has changed.

    grpcio's own servicer is not suitable: its watchers delay a drain, and the first one to disconnect silences the
    others.
    """

    name = "grpc.health.v1.Health"

    def __init__(
        self, answers: Callable[[str], bool | None] = lambda _: None, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._answers = answers
        self._changed = changed
        self._serving = False
        self._draining = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server."""
        add_HealthServicer_to_server(self, server)

    def serving(self) -> None:
        """Reports SERVING from now on."""
        self._serving = True
        self._changed()

    @property
    def is_serving(self) -> bool:
        """Whether the service reports SERVING now."""
        return self._serving

    def draining(self) -> None:
        """Reports NOT_SERVING from now on, immediately to all watchers."""
        self._serving = False
        self._changed()
        self._draining.set()

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:  # noqa: N802
        """The current state; NOT_FOUND for a name that is neither one of the server's nor a model's."""
        if request.service not in SERVER_NAMES and self._answers(request.service) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service}")
        # A model's state can change without a notification: a run that hangs, or a worker process that has ended.
        if request.service in SERVER_NAMES and isinstance(context, KeepsAnswers):
            context.keep(not_counted)
        return self._response(request)

    async def Watch(self, request: HealthCheckRequest, context: Context) -> AsyncIterator[HealthCheckResponse]:  # noqa: N802
        """Sends the state now and at the drain, which ends the watch."""
        del context
        already = self._draining.is_set()  # read now, because the drain may begin while the first answer is sent
        yield self._response(request)
        if not already:
            await self._draining.wait()
            yield self._response(request)

    def _response(self, request: HealthCheckRequest) -> HealthCheckResponse:
        own = request.service in SERVER_NAMES
        answers = True if own else self._answers(request.service)
        if answers is None:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        serving = self._serving and answers
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)
