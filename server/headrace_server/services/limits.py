"""Limits on the time that a call over HTTP may take."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace_batching import LoopDelivery
from headrace_server.errors import timed_out
from headrace_server.models.call import Call


@asynccontextmanager
async def limited_call(delivery: LoopDelivery, seconds: float | None, api: str) -> AsyncIterator[Call]:
    """A context with a time limit, which yields the data of the call that is made in it.

    Args:
        delivery: Resolves futures in the event loop that this runs in.
        seconds: How long the call may take; None means no limit.
        api: The method's name, for metrics.

    Raises:
        ServingError: DEADLINE_EXCEEDED if the call did not end in time.
    """
    deadline = deadline_after(seconds)
    async with timed(seconds):
        yield Call(delivery, deadline, api=api)


def deadline_after(seconds: float | None) -> float | None:
    """The time after this many seconds, on the monotonic clock; None means no limit."""
    return None if seconds is None else time.monotonic() + seconds


@asynccontextmanager
async def timed(seconds: float | None) -> AsyncIterator[None]:
    """A context whose code is cancelled after this many seconds; None means no limit.

    Raises:
        ServingError: DEADLINE_EXCEEDED if it took longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise timed_out() from error
