"""The exchanges with callers that Python code answers for a native transport, each in a task of the event loop."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Protocol

from headrace_server.tasks import end_all


class Exchange(Protocol):
    """A gRPC call or an HTTP request that a task answers.

    Attributes:
        task: The task that answers the exchange; None once it has ended.
    """

    task: "asyncio.Task[None] | None"


class ExchangeTasks:
    """The tasks of the exchanges that have begun and not ended. One event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, exchange: Exchange, answering: Coroutine[None, None, None]) -> None:
        """Starts the task that answers an exchange."""
        exchange.task = task = self._loop.create_task(answering)
        self._tasks.add(task)
        task.add_done_callback(partial(self._forget, exchange))

    async def end(self) -> None:
        """Cancels all tasks, and returns when they have ended."""
        await end_all(self._tasks)

    def _forget(self, exchange: Exchange, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        # The exception of a cancelled task refers to its frames, and the frames refer to the exchange. Without this
        # line, only the garbage collector would free them and the request.
        exchange.task = None
