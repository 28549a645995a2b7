"""How finished tasks reach their callers: one wake-up of the event loop per batch, and one answer per caller."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import Context
from typing import TypeVarTuple, Unpack

import numpy as np
import pytest

from headrace_batching import LoopDelivery, Task
from headrace_batching.delivery import deliver_to_threads
from headrace_batching.task import Arrays

Ts = TypeVarTuple("Ts")
OUTPUTS: Arrays = {"y": np.ones(1)}


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts how often another thread wakes it."""

    woken = 0

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self.woken += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


@pytest.fixture
def loop() -> Iterator[CountingLoop]:
    loop = CountingLoop()
    yield loop
    loop.close()


@pytest.fixture
def delivery(loop: CountingLoop) -> LoopDelivery:
    return LoopDelivery(loop)


class Sink:
    """A stand-in for the queue: it records the tasks, and how often a batch thread was woken."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.tasks: list[Task] = []
        self.calls = 0
        self._wanted = wanted

    def enqueue(self, task: Task) -> bool:
        self.tasks.append(task)
        return self._wanted

    def wake(self) -> None:
        self.calls += 1


def a_task(*, outputs: Arrays | None = None, error: Exception | None = None) -> Task:
    task = Task({}, lambda _: None, rows=1)
    task.outputs, task.error = outputs, error
    return task


async def settled(*futures: "asyncio.Future[Arrays]") -> list[Arrays | BaseException]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*futures, return_exceptions=True)


class TestLoopDelivery:
    def test_wakes_the_loop_once_for_all_tasks(self, loop: CountingLoop, delivery: LoopDelivery) -> None:
        error = ValueError("no")
        tasks = [a_task(outputs=OUTPUTS), a_task(error=error), a_task(outputs=OUTPUTS)]
        futures = [delivery.submit(Sink(), task) for task in tasks]

        delivery(tasks)

        assert loop.run_until_complete(settled(*futures)) == [OUTPUTS, error, OUTPUTS]
        assert loop.woken == 1

    def test_skips_a_caller_who_has_left(self, loop: CountingLoop, delivery: LoopDelivery) -> None:
        tasks = [a_task(outputs=OUTPUTS), a_task(outputs=OUTPUTS)]
        left, waiting = (delivery.submit(Sink(), task) for task in tasks)
        left.cancel()

        delivery(tasks)

        assert loop.run_until_complete(settled(waiting)) == [OUTPUTS]
        assert left.cancelled()

    def test_survives_a_closed_loop(self, loop: CountingLoop, delivery: LoopDelivery) -> None:
        task = a_task(outputs=OUTPUTS)
        future = delivery.submit(Sink(), task)
        loop.close()

        delivery([task])

        assert not future.done()

    def test_answers_a_caller_whose_model_raised_stop_iteration(
        self, loop: CountingLoop, delivery: LoopDelivery
    ) -> None:
        task = a_task(error=StopIteration("empty"))
        future = delivery.submit(Sink(), task)

        delivery([task])

        (error,) = loop.run_until_complete(settled(future))
        assert isinstance(error, RuntimeError)
        assert error.__cause__ is task.error


class TestTheCallOfAThread:
    """Uses a fake clock: `turns` are the seconds between consecutive readings."""

    def calls_after(self, loop: CountingLoop, turns: list[float], *, tasks: int = 1) -> list[int]:
        """The number of times that a batch thread had been woken, after each iteration of the loop."""
        sink, calls = Sink(), []
        now = iter(itertools.accumulate(turns, initial=0.0))

        async def watch() -> None:
            delivery = LoopDelivery(loop, clock=lambda: next(now))
            for _ in range(tasks):
                delivery.submit(sink, a_task())
            for _ in turns:
                await asyncio.sleep(0)
                calls.append(sink.calls)

        loop.run_until_complete(watch())
        return calls

    def test_comes_once_the_loop_is_idle(self, loop: CountingLoop) -> None:
        # The first iteration is the fastest so far, so the loop counts as idle: a single caller does not wait for a
        # second one.
        assert self.calls_after(loop, [5e-6]) == [1]

    def test_waits_while_the_loop_is_busy(self, loop: CountingLoop) -> None:
        sink = Sink()
        now = [0.0]

        async def watch() -> list[int]:
            delivery = LoopDelivery(loop, clock=lambda: now[0])
            seen = []
            for turn in (5e-6, 300e-6, 200e-6, 6e-6):
                delivery.submit(sink, a_task())
                now[0] += turn
                await asyncio.sleep(0)
                seen.append(sink.calls)
            return seen

        assert loop.run_until_complete(watch()) == [1, 1, 1, 2]
        assert len(sink.tasks) == 4

    def test_does_not_wait_for_ever(self, loop: CountingLoop) -> None:
        sink = Sink()
        now = [0.0]

        async def turns_until_second_call() -> int:
            delivery = LoopDelivery(loop, clock=lambda: now[0])
            delivery.submit(sink, a_task())
            now[0] += 5e-6
            await asyncio.sleep(0)
            delivery.submit(sink, a_task())
            for turn in range(1, 100):
                now[0] += 1e-3
                await asyncio.sleep(0)
                if sink.calls == 2:
                    return turn
            return 0

        assert loop.run_until_complete(turns_until_second_call()) == 5

    def test_happens_once_for_all_tasks_of_a_burst(self, loop: CountingLoop) -> None:
        assert self.calls_after(loop, [5e-6, 5e-6, 5e-6], tasks=10) == [1, 1, 1]

    def test_comes_to_every_scheduler(self, loop: CountingLoop, delivery: LoopDelivery) -> None:
        # Schedulers may have threads of their own, and a call to one scheduler does not wake those of another.
        sinks = [Sink(), Sink()]

        async def submit() -> None:
            for sink in sinks:
                delivery.submit(sink, a_task())
            await asyncio.sleep(0)

        loop.run_until_complete(submit())
        assert [sink.calls for sink in sinks] == [1, 1]

    def test_does_not_come_for_a_task_that_needs_none(self, loop: CountingLoop, delivery: LoopDelivery) -> None:
        sink = Sink(wanted=False)

        async def submit() -> None:
            delivery.submit(sink, a_task())
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        loop.run_until_complete(submit())
        assert sink.calls == 0


class TestThreads:
    def expect(self, task: Task) -> "Future[Arrays]":
        task.future = future = Future[Arrays]()
        return future

    def test_get_the_outputs_or_the_error(self) -> None:
        good, bad = a_task(outputs=OUTPUTS), a_task(error=ValueError("no"))
        futures = [self.expect(good), self.expect(bad)]

        deliver_to_threads([good, bad])

        assert futures[0].result(0) is OUTPUTS
        assert futures[1].exception(0) is bad.error

    def test_skip_a_caller_who_has_left(self) -> None:
        left, waiting = a_task(outputs=OUTPUTS), a_task(outputs=OUTPUTS)
        futures = [self.expect(left), self.expect(waiting)]
        futures[0].cancel()

        deliver_to_threads([left, waiting])

        assert futures[0].cancelled()
        assert futures[1].result(0) is OUTPUTS
