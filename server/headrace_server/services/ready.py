"""Tells load balancers and orchestrators over HTTP whether the server is ready."""

from collections.abc import Callable

from headrace_batching import LoopDelivery
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.kept import not_counted

PATHS = ("/healthz", "/v1/ready")
"""TF Serving has no such path; its users ask for the status of a model, which they must name."""

_PLAIN = {"Content-Type": "text/plain"}


class ReadyApi:
    """Answers 200 while every configured model has a version ready and the server is not draining, otherwise 503.

    Args:
        is_ready: Whether every configured model has a version ready and the server is not draining.
    """

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Answers a request for the state."""
        del delivery
        if request.method not in ("GET", "HEAD"):
            return HttpAnswer(405, b"ask with GET\n", {**_PLAIN, "Allow": "GET, HEAD"})
        ready = self._is_ready()
        return HttpAnswer(200 if ready else 503, b"ready\n" if ready else b"not ready\n", _PLAIN, keep=not_counted)
