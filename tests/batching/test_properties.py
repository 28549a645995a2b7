"""Random sequences of submitting, cancelling and taking: no task is lost, duplicated or mixed up with another."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace_batching import BatchThreads, DeadlineExceeded, Options, Priority, QueueFull, Scheduler, Task, shape_key
from headrace_batching.queue import Formed, Queue
from headrace_batching.task import Array, Arrays

MILLISECOND = 0.001


@st.composite
def any_options(draw: st.DrawFn) -> Options:
    largest = draw(st.integers(1, 8))
    splitting = draw(st.booleans())
    allowed = draw(st.none() | st.sets(st.integers(1, largest)))
    return Options(
        max_batch_size=largest,
        batch_timeout_micros=draw(st.sampled_from([0, 2000])),
        max_enqueued_batches=draw(st.integers(int(splitting), 4)),
        allowed_batch_sizes=() if allowed is None else tuple(sorted(allowed | {largest})),
        pad_variable_length_inputs=draw(st.booleans()),
        enable_large_batch_splitting=splitting,
        max_execution_batch_size=draw(st.none() | st.integers(1, largest)) if splitting else None,
    )


@dataclass
class Request:
    """One caller's request."""

    rows: int
    width: int
    bad: bool = False
    priority: Priority = Priority.NORMAL
    patience: int | None = None  # in milliseconds


any_request = st.builds(
    Request,
    rows=st.integers(0, 8),
    width=st.integers(1, 2),
    bad=st.sampled_from([False, False, False, True]),
    priority=st.sampled_from(Priority),
    patience=st.none() | st.integers(0, 5),
)


def unused(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array in which unwritten rows can be recognised."""
    return np.full(shape, np.nan, dtype)


class Lane:
    """One scheduler, the tasks that it got, and the checks of the batches that it runs."""

    def __init__(self, threads: BatchThreads, options: Options) -> None:
        self.options = options
        self.scheduler = Scheduler(threads, self.run, options, empty=unused)
        self.waiting: Any = self.scheduler.lane

    def run(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        allowed = self.options.allowed_batch_sizes
        assert not np.isnan(x).any()
        assert not allowed or not len(x) or len(x) in allowed
        if (x < 0).any():
            msg = "a bad row"
            raise ValueError(msg)
        return self.function(x)

    def function(self, x: Array) -> Arrays:
        """Computes each row by itself. Padding may lengthen rows, so then only the first column is compared."""
        return {"y": 3 * x[:, :1] + 1} if self.options.pad_variable_length_inputs else {"y": 3 * x + 1}


class Batching(RuleBasedStateMachine):
    """Two schedulers on one queue with a virtual clock; the test plays the batch threads."""

    @initialize(options=st.tuples(any_options(), any_options()))
    def start(self, options: tuple[Options, Options]) -> None:
        self.now = 1.0
        self.serial = 0
        self.queue = Queue(lambda: self.now)
        threads = BatchThreads(1, self.queue)
        self.lanes = [Lane(threads, each) for each in options]
        self.tasks: dict[Task, Lane] = {}
        self.bad: set[Task] = set()
        self.delivered: Counter[Task] = Counter()
        self.running: list[Formed] = []
        self.last: dict[tuple[Lane, Hashable, Priority], float] = {}

    @rule(which=st.integers(0, 1), request=any_request)
    def submit(self, which: int, request: Request) -> None:
        lane = self.lanes[which]
        task = self.task(lane, request)
        before = lane.waiting.rows
        try:
            lane.scheduler.submit(task)
        except QueueFull:
            assert lane.waiting.rows == before
        else:
            assert lane.waiting.rows == before + max(1, task.rows)
            self.tasks[task] = lane

    @rule(choice=st.integers(0, 50))
    def cancel(self, choice: int) -> None:
        if self.tasks:
            list(self.tasks)[choice % len(self.tasks)].cancel()

    @rule(milliseconds=st.integers(0, 4))
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds * MILLISECOND

    @rule()
    def ask(self) -> None:
        """Takes a batch, as a batch thread does; it runs later, and other batches may overtake it."""
        self.take()

    @rule(choice=st.integers(0, 50))
    def run(self, choice: int) -> None:
        if self.running:
            formed = self.running.pop(choice % len(self.running))
            formed.lane.execute(formed.batch)
            formed.lane.finish()

    def take(self) -> bool:
        """One decision of the queue; false if it says to wait."""
        with self.queue.lock:
            turn = self.queue.turn(self.now)
        self.deliver(turn.expired)
        if turn.formed is not None:
            self.check_batch(turn.formed)
            self.running.append(turn.formed)
        elif turn.wake > self.now:
            assert (turn.wake < inf) == any(lane.waiting.rows for lane in self.lanes)
        return turn.wake <= self.now

    @invariant()
    def counts_waiting_tasks(self) -> None:
        for lane in self.lanes:
            assert lane.waiting.rows == sum(group.rows for group in lane.waiting.groups.values())
            assert 0 <= lane.waiting.rows <= lane.options.enqueued_limit * lane.options.execution_limit
            assert all(lane.waiting.groups.values())

    @invariant()
    def answers_once_and_rightly(self) -> None:
        assert all(count == 1 for count in self.delivered.values())
        for task in self.delivered:
            self.check_answer(task)

    def teardown(self) -> None:
        self.now += 1.0
        while self.take():
            pass
        while self.running:
            self.run(0)
        while self.take():  # the remaining pieces of tasks that had one failed piece
            pass
        self.answers_once_and_rightly()
        for task in self.tasks:
            assert task in self.delivered or task.cancelled
        for lane in self.lanes:
            assert lane.waiting.rows == 0
            assert lane.waiting.idle

    def task(self, lane: Lane, request: Request) -> Task:
        rows = min(request.rows, lane.options.max_batch_size)
        numbers = self.serial + np.arange(rows * request.width, dtype=np.float64)
        self.serial += rows * request.width + 1
        inputs = {"x": numbers.reshape(rows, request.width)}
        task = Task(
            inputs,
            self.deliver,
            rows=rows,
            key=shape_key(inputs, pad=lane.options.pad_variable_length_inputs),
            deadline=None if request.patience is None else self.now + request.patience * MILLISECOND,
            priority=request.priority,
        )
        if request.bad and rows:
            inputs["x"][rows // 2] = -1
            self.bad.add(task)
        return task

    def deliver(self, tasks: Any) -> None:
        self.delivered.update(tasks)

    def check_batch(self, formed: Formed) -> None:
        batch = formed.batch
        lane = self.tasks[batch.tasks[0]]
        assert formed.lane is lane.waiting
        assert batch.rows <= lane.options.execution_limit
        assert {task.key for task in batch.tasks} == {batch.tasks[0].key}
        assert [task.priority for task in batch.tasks] == sorted(task.priority for task in batch.tasks)
        for task in batch.tasks:
            assert not task.cancelled
            assert not task.ended
            assert not task.expired(self.now)
        self.check_order(lane, batch.tasks)

    def check_order(self, lane: Lane, tasks: list[Task]) -> None:
        order = {task: place for place, task in enumerate(self.tasks)}
        for task in tasks:
            line = (lane, task.key, task.priority)
            assert order[task] >= self.last.get(line, -1)
            self.last[line] = order[task]

    def check_answer(self, task: Task) -> None:
        if task.error is None:
            assert task.outputs is not None
            assert task not in self.bad
            np.testing.assert_array_equal(task.outputs["y"], self.tasks[task].function(task.inputs["x"])["y"])
        elif isinstance(task.error, DeadlineExceeded):
            assert task.outputs is None
            assert task.expired(self.now)
        else:
            assert task.outputs is None
            assert str(task.error) == "a bad row"
            assert task in self.bad


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=200, stateful_step_count=40)
