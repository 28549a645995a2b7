"""Sends each HTTP request to the API that its path belongs to."""

from collections.abc import Mapping
from typing import Protocol

from headrace_batching import LoopDelivery
from headrace_server.services.http import HttpAnswer, HttpRequest


class HttpApi(Protocol):
    """An API over HTTP."""

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Answers any request; must not raise.

        Args:
            request: The whole request.
            delivery: Resolves futures in the event loop that this runs in.
        """


class Router:
    """Several APIs on one address, each with the paths under a prefix, or with single paths.

    Args:
        apis: APIs by prefix, such as `/v2`.
        otherwise: The API for every other path.
        pages: APIs by the whole path, which take precedence over prefixes.
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
        """The answer of the API that the request's path belongs to."""
        first = "/" + request.path[1:].partition("/")[0]
        api = self._pages.get(request.path) or self._apis.get(first, self._otherwise)
        return await api.answer(request, delivery)
