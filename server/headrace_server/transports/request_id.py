"""The ID of each call in the access log: the caller's `x-request-id`, or one created here."""

import random
import re
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from headrace_batching import LoopDelivery
from headrace_server.metrics.access_log import REQUEST_ID
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.router import HttpApi

HEADER = "x-request-id"

_FIT = re.compile(r"[!-~]{1,128}")
"""A caller's ID that fits into a log line: at most 128 printable ASCII characters, none of them a blank."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Handle = Callable[[bytes, Context], Awaitable[bytes]]


def request_id(sent: str) -> str:
    """A caller's ID if it fits into a log line, otherwise a new one."""
    return sent if _FIT.fullmatch(sent) else f"{random.getrandbits(64):016x}"


def identified_handler(handle: Handle) -> Handle:
    """A handler that gives each call an ID and then calls `handle`."""

    async def identified(data: bytes, context: Context) -> bytes:
        metadata: Any = context.invocation_metadata()
        sent = next((value for name, value in metadata or () if name == HEADER), "")
        token = REQUEST_ID.set(request_id(str(sent)))
        try:
            return await handle(data, context)
        finally:
            REQUEST_ID.reset(token)

    return identified


class IdentifiedApi:
    """An API whose requests have an ID.

    Args:
        api: The API that answers the requests.
    """

    def __init__(self, api: HttpApi) -> None:
        self._api = api

    async def answer(self, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Passes a request on to the API under an ID."""
        token = REQUEST_ID.set(request_id(request.header(HEADER)))
        try:
            return await self._api.answer(request, delivery)
        finally:
            REQUEST_ID.reset(token)
