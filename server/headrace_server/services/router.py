"""Sends each HTTP request to the API that its path belongs to."""

from collections.abc import Mapping
from typing import Protocol

from headrace_batching import LoopDelivery
from headrace_server.services.http import HttpAnswer, HttpRequest


class HttpApi(Protocol):
    """An API over HTTP."""

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """The answer to a request, whatever it is; must not raise.

        Args:
            request: Whole.
            delivery: Of the event loop that this runs in.
        """


class Router:
    """Several APIs under one address, each of which has the paths under a prefix, or single ones.

    Args:
        apis: By prefix, such as `/v2`.
        otherwise: Has every other path.
        pages: By the whole path, which is not looked for under a prefix.
    """

    def __init__(
        self, apis: Mapping[str, HttpApi], otherwise: HttpApi, pages: Mapping[str, HttpApi] | None = None
    ) -> None:
        self._apis = dict(apis)
        self._pages = dict(pages or {})
        self._otherwise = otherwise

    @property
    def paths(self) -> tuple[str, ...]:
        """Every prefix and every single path that has an API of its own."""
        return (*self._apis, *self._pages)

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """What the request's API answers."""
        first = "/" + request.path[1:].partition("/")[0]
        api = self._pages.get(request.path) or self._apis.get(first, self._otherwise)
        return await api.answer(request, delivery)
