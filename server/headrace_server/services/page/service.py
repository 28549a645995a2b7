"""The live page: a few files, the options that they request once, and the state that they request once a second."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from urllib.parse import quote, unquote

import orjson

from headrace_batching import LoopDelivery
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.kept import not_counted
from headrace_server.services.page.state import PageState

STATE_PATH = "/page/state"
OPTIONS_PATH = "/page/options"

GUARDED_PATHS = (STATE_PATH, OPTIONS_PATH)
"""The paths that say something about this server; the others are files that are the same everywhere."""

FRESH_SECONDS = 0.5
"""The age up to which an answer is reused, so that it is computed at most twice a second per model.

The native transport reuses it, too, unless callers are checked: each request then takes 0.05 ms instead of 0.5 ms.
"""

KEPT = 64
"""The maximum number of answers that are kept, each for another model."""

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    **{
        f"/page/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("app", "call", "charts", "dom", "numbers", "objective", "panels", "snippets")
    },
}

PATHS = (*_FILES, *GUARDED_PATHS)

_SAFE = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_MODEL = re.compile(r"[?&]model=([^&]*)")

_UNQUOTED = "!*'()"
"""The characters that JavaScript's encodeURIComponent leaves as they are, and Python's quote does not."""


class PageApi:
    """Answers the paths of the live page. In one event loop.

    The files say nothing about this server, so a server that requires a token may send them to anybody: only
    `GUARDED_PATHS`, and the page's calls of models, need one. When a call is answered with a 401, the
    page asks its user for the token.

    Args:
        state: Returns what to show.
        clock: Returns the time, in seconds.
    """

    def __init__(self, state: PageState, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._making = asyncio.Lock()

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Answers a request for the page, its state or its options."""
        del delivery
        if request.method not in ("GET", "HEAD"):
            return HttpAnswer(405, b"ask with GET\n", {"Content-Type": "text/plain", "Allow": "GET, HEAD"})
        if request.path == STATE_PATH:
            return await self._fresh(request.query)
        if request.path == OPTIONS_PATH:
            return _json(orjson.dumps(self._state.options))
        name, kind = _FILES[request.path]
        return HttpAnswer(200, _read(name), {**_SAFE, "Content-Type": kind})

    async def _fresh(self, query: str) -> HttpAnswer:
        model = self._state.known(_model_of(query))
        async with self._making:
            made, body = self._kept.get(model, (float("-inf"), b""))
            if (age := self._clock() - made) >= FRESH_SECONDS:
                body, age = orjson.dumps(await asyncio.to_thread(self._state.read, model)), 0.0
                self._kept.pop(model, None)
                self._kept[model] = (self._clock(), body)
                if len(self._kept) > KEPT:
                    del self._kept[next(iter(self._kept))]
        # Only the page's own query is kept: anybody can make up others, each of which would take up memory.
        as_page = query == f"?model={quote(model, safe=_UNQUOTED)}"
        return replace(_json(body), keep=not_counted, fresh=FRESH_SECONDS - age) if as_page else _json(body)


def _json(body: bytes) -> HttpAnswer:
    return HttpAnswer(200, body, {**_SAFE, "Cache-Control": "no-store", "Content-Type": "application/json"})


def _read(name: str) -> bytes:
    return (files("headrace_server.services.page") / "static" / name).read_bytes()


def _model_of(query: str) -> str:
    found = _MODEL.search(query)
    return unquote(found[1], errors="replace") if found else ""
