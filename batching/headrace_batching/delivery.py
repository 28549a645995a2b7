"""How an ended task reaches its caller: an asyncio future, or one that a thread waits for."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress

from headrace_batching.task import Arrays, Task


class LoopDelivery:
    """Hands ended tasks to the event loop in which their callers wait, waking it once a batch.

    Args:
        loop: The loop of all callers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def expect(self, task: Task) -> "asyncio.Future[Arrays]":
        """The future that will hold the outputs of a task, or its error; before the task is submitted."""
        future: asyncio.Future[Arrays] = self._loop.create_future()
        task.future = future
        return future

    def __call__(self, tasks: Sequence[Task]) -> None:
        """Wakes the loop with tasks that have ended. Any thread."""
        # A loop that has been closed has no callers left to answer.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_resolve, tasks)


def deliver_to_threads(tasks: Sequence[Task]) -> None:
    """Resolves the `concurrent.futures.Future` of each task."""
    for task in tasks:
        future: Future[Arrays] = task.future
        if not future.set_running_or_notify_cancel():
            continue
        if task.error is not None:
            future.set_exception(task.error)
        else:
            future.set_result(task.outputs or {})


def _resolve(tasks: Sequence[Task]) -> None:
    for task in tasks:
        future: asyncio.Future[Arrays] = task.future
        if future.done():
            continue
        if task.error is not None:
            future.set_exception(task.error)
        else:
            future.set_result(task.outputs or {})
