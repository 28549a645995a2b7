"""How a finished task reaches its caller: through an asyncio future, or one that a thread waits for."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from math import inf
from time import perf_counter
from typing import Protocol

from headrace_batching.task import Arrays, Task

_BUSY = 2.0  # an iteration did some work if it took this many times as long as the fastest one
_FORGET = 1.01  # the fastest time grows by this factor per iteration, so that a single fast one does not count forever
_PATIENCE = 0.005  # seconds that tasks may wait for a busy loop although a thread is idle


class TaskSink(Protocol):
    """The destination of a task: a Scheduler."""

    def enqueue(self, task: Task) -> bool:
        """Puts a task into the queue; returns whether `wake` must be called."""

    def wake(self) -> None:
        """Wakes an idle thread."""


class LoopDelivery:
    """Passes an event loop's tasks to the batch threads and back: one wake-up per burst, and one per batch.

    Waking a thread costs two context switches and contention for the interpreter lock, more than everything else that a
    small request needs. So a thread is woken only when the loop becomes idle: while the loop is busy, more tasks may
    arrive, and callers wait for the loop anyway. With a single caller, the loop becomes idle at once. The loop never
    runs a task itself: grpc.aio accepts calls one by one, so each would run alone, however many are arriving.

    With 64 callers of a small model on grpc.aio, a call costs the server 525 us of CPU in this way, and 635 us if
    a thread is woken in the loop's next iteration. With one caller there is no difference beyond noise (medians of
    three alternating runs while a compiler ran on the machine).

    Args:
        loop: The loop of all callers.
        clock: Measures the iterations of the loop, in seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = perf_counter) -> None:
        self._loop = loop
        self._clock = clock
        self._to_wake: set[TaskSink] = set()  # schedulers whose threads must be woken when the loop is idle
        self._since = self._last = 0.0
        self._quickest = inf

    def submit(self, scheduler: TaskSink, task: Task) -> "asyncio.Future[Arrays]":
        """Puts a task into a scheduler's queue; the future will hold its outputs, or its error. In the loop.

        Raises:
            TaskTooLarge, QueueFull, Closed: As for `Scheduler.submit`.
        """
        future: asyncio.Future[Arrays] = self._loop.create_future()
        task.future = future
        if scheduler.enqueue(task):
            if not self._to_wake:
                self._since = self._last = self._clock()
                self._loop.call_soon(self._watch)
            self._to_wake.add(scheduler)
        return future

    def _watch(self) -> None:
        """Wakes the threads if the loop is idle, that is, if its iteration took about the shortest time."""
        now = self._clock()
        turn, self._last = now - self._last, now
        self._quickest = min(turn, self._quickest * _FORGET)
        if turn > _BUSY * self._quickest and now - self._since < _PATIENCE:
            self._loop.call_soon(self._watch)
            return
        waiting, self._to_wake = self._to_wake, set()
        for scheduler in waiting:
            scheduler.wake()

    def __call__(self, tasks: Sequence[Task]) -> None:
        """Lets the loop resolve the futures of tasks that have ended. Any thread."""
        # A closed loop has no callers left to answer.
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
            future.set_exception(_raisable(task.error))
        else:
            future.set_result(task.outputs or {})


def _raisable(error: Exception) -> Exception:
    """The error; a RuntimeError in place of a StopIteration, which an asyncio future refuses."""
    if not isinstance(error, StopIteration):
        return error
    stand_in = RuntimeError("the batch function raised StopIteration")
    stand_in.__cause__ = error
    return stand_in
