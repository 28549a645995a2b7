"""Concurrent requests to one servable, in a separate event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import numpy as np

from headrace_batching import BatchThreads, LoopDelivery, Options, Priority
from headrace_batching.task import Array, Arrays
from headrace_server.backends.base import Backend
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.models.call import Call
from headrace_server.models.servable import Servable

from .backend import HELD, PATIENCE, Adder

BATCHING = Options()


class Requests:
    """A servable on one batch thread, and requests to it from this event loop."""

    def __init__(self, servable: Servable) -> None:
        self.servable = servable
        self._delivery = LoopDelivery(asyncio.get_running_loop())

    def ask(
        self,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> "asyncio.Task[Arrays]":
        call = Call(self._delivery, deadline, priority)
        return asyncio.ensure_future(self.servable.run(DEFAULT_SIGNATURE, inputs, outputs, call))

    def add(
        self, *rows: float, deadline: float | None = None, priority: Priority = Priority.NORMAL
    ) -> "asyncio.Task[Arrays]":
        """One request to an Adder."""
        return self.ask({"x": column(*rows)}, ("sum", "rows"), deadline, priority)

    async def hold(self, backend: Adder) -> "asyncio.Task[Arrays]":
        """A request that keeps the batch thread busy, so that all later ones wait."""
        held = self.add(HELD)
        assert await asyncio.to_thread(backend.entered.wait, PATIENCE)
        return held


@contextmanager
def servable_of(backend: Backend, batching: Options | None, count: int = 1) -> Iterator[Servable]:
    threads = BatchThreads(count)
    threads.start()
    servable = Servable("m", 1, backend, threads, batching)
    try:
        yield servable
    finally:
        servable.close()
        threads.close()


def serve(
    backend: Backend,
    scene: Callable[[Requests], Awaitable[None]],
    batching: Options | None = BATCHING,
    *,
    threads: int = 1,
) -> None:
    """Runs a scenario of concurrent requests in a separate event loop."""

    async def play() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene(Requests(servable))

    with servable_of(backend, batching, threads) as servable:
        asyncio.run(play())


def column(*rows: float) -> Array:
    return np.array(rows, np.float32).reshape(-1, 1)


async def settled() -> None:
    """Lets every new request reach the queue."""
    await asyncio.sleep(0)
