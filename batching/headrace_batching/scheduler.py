"""Runs batches on a bounded number of threads: each one asks the queue for the next batch when it is free."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Thread, current_thread
from typing import Any, cast

import numpy as np

from headrace_batching.batch import Empty, deliver, rows_of, shape_key
from headrace_batching.contract import (
    Clock,
    NativeLane,
    Run,
    RunChoice,
    TaskBatch,
    TaskLane,
    TaskSeries,
)
from headrace_batching.delivery import deliver_to_threads
from headrace_batching.errors import BatchingError, NotRepeated, RunHangs, RunTimedOut, TaskTooLarge, let_go
from headrace_batching.latency.beliefs import Beliefs
from headrace_batching.latency.controller import Controller
from headrace_batching.options import Options
from headrace_batching.report import BatchReport, Observe
from headrace_batching.task import Arrays, Priority, Task
from headrace_batching.threads import BatchThreads
from headrace_batching.watchdog import Abandoned

Finish = Callable[..., Arrays]
"""Returns the outputs of a run that has begun, given the number of its rows and what identifies the run."""


@dataclass(frozen=True, slots=True)
class RunLimit:
    """The time limit of a run.

    Attributes:
        seconds: The seconds after which the run's callers get an error.
        terminate: Ends the run in a thread, given the thread's number; None if runs cannot be ended.
    """

    seconds: float
    terminate: Callable[[int], None] | None = None


class Scheduler:
    """Batches the calls of one function.

    Args:
        threads: The threads that run batches.
        run: Takes the inputs by name, and returns the outputs by name, all with the batch on axis 0; called on batch
            threads, on several at the same time. An error reaches only the callers whose task fails even if it runs
            alone; a `NotRepeated` reaches all callers of the batch.
        options: The batching options.
        batched: Whether axis 0 is the batch axis. If it is not, `options.max_batch_size` is 1, every task counts as one
            row, and tasks are run one by one, with unchanged arrays.
        empty: Creates the arrays that several tasks' rows are copied into. `run` may keep them until it returns or
            raises; the scheduler then drops them, so their memory may be reused.
        steady: Whether a run takes about as long as the one before. If so, and runs are fast, headrace_native's queue
            lets the thread that adds a single task run it.
        observe: Called after every run, on its batch thread; must not raise. Answers do not wait for it.
        limit: How long a run may take; None means no limit.
        run_choice: Like `run`, but for tasks that have a choice; it also gets the choice, which all tasks of a batch
            share.
        name: The name for the log about a latency objective.

    Attributes:
        lane: The scheduler's part of the threads' queue.
        hanging: The number of abandoned runs that have not ended. Until it is 0, no other run starts.
    """

    def __init__(
        self,
        threads: BatchThreads,
        run: Run,
        options: Options,
        *,
        batched: bool = True,
        steady: bool = False,
        empty: Empty = np.empty,
        observe: Observe | None = None,
        run_choice: RunChoice | None = None,
        limit: RunLimit | None = None,
        name: str = "",
    ) -> None:
        self.options = options
        self._threads = threads
        self._limit = limit
        self.hanging = 0
        self._queue = threads.queue
        self._clock: Clock = threads.queue.clock
        self._run = run
        self._run_choice = run_choice
        self._empty = empty
        self._observe = observe
        self._running: list[None] = []  # only appended to and popped from: both are atomic, unlike `+= 1`
        self.lane: TaskLane = threads.queue.lane(options, self._execute, batched=batched, steady=steady)
        objective = options.objective
        self._native: NativeLane | None = None
        self._controller = None if objective is None else Controller(objective, options, name)
        if self._controller is not None:
            self._controller.start(self.lane)

    @property
    def beliefs(self) -> Beliefs | None:
        """The state of the latency objective; None if there is none."""
        return None if self._controller is None else self._controller.beliefs

    @property
    def waiting(self) -> int:
        """The number of rows that wait in the scheduler's queue now. Any thread."""
        return self.lane.rows

    @property
    def running(self) -> int:
        """The number of running batches, including abandoned ones that have not ended. Any thread."""
        return len(self._running) + (0 if self._native is None else self._native.native_running)

    @property
    def native_ended(self) -> float:
        """When the last run without the interpreter ended, in seconds on the queue's clock; 0 before the first."""
        return 0.0 if self._native is None else self._native.native_ended

    def run_natively(self, fields: Mapping[str, object]) -> None:
        """Lets headrace_native run batches without the interpreter, if this scheduler uses its queue.

        If runs have a time limit or a latency objective, this has no effect.

        Args:
            fields: As for `NativeLane.run_natively`, without `complete`. A function `finish` among them returns the
                outputs of a run that headrace_native has begun, given the number of its rows and what identifies it.
        """
        lane = self.lane
        needs_run = self._limit is not None or self._controller is not None
        if isinstance(lane, NativeLane) and not needs_run:
            self._native = lane
            complete = partial(self._complete, cast("Finish", fields.get("finish")))
            lane.run_natively({**fields, "complete": complete})

    def count_native_runs(self) -> None:
        """Reports the runs without the interpreter that have not been reported yet. Any thread."""
        if self._native is not None:
            self._native.count_native_runs()

    def submit(self, task: Task) -> None:
        """Adds a task to the queue, or refuses it immediately, and wakes an idle thread for it. Any thread.

        Raises:
            TaskTooLarge: The task has more rows than `max_batch_size`.
            QueueFull: There is no room; the caller may try again later.
            ObjectiveMissed: The task could not be answered within the latency objective; the caller may try again
                later.
            Closed: The scheduler has been closed.
        """
        if self.enqueue(task):
            self.wake()

    def enqueue(self, task: Task) -> bool:
        """Like `submit`, but returns whether `wake` must be called, and leaves that to the caller."""
        if task.rows > self.options.max_batch_size:
            raise TaskTooLarge(task.rows, self.options.max_batch_size)
        return self.lane.put(task)

    def wake(self) -> None:
        """Wakes an idle batch thread to look at the enqueued tasks."""
        self._queue.wake()

    def call(
        self, inputs: Arrays, *, timeout: float | None = None, priority: Priority = Priority.NORMAL
    ) -> "Future[Arrays]":
        """Submits one request, for a caller that has threads instead of an event loop.

        Args:
            inputs: Arrays by name, with the same length of axis 0 if that is the batch axis.
            timeout: The seconds that the request may wait in the queue.
            priority: The priority of the task: normal tasks leave the queue before low ones.

        Raises:
            InvalidTask: The inputs have no common number of rows.
            TaskTooLarge, QueueFull, Closed: As for `submit`.
        """
        task = Task(
            inputs,
            deliver_to_threads,
            rows=rows_of(inputs) if self.lane.batched else 1,
            key=shape_key(inputs, pad=self.options.pad_variable_length_inputs) if self.lane.batched else (),
            deadline=None if timeout is None else self._clock() + timeout,
            priority=priority,
        )
        task.future = future = Future[Arrays]()
        self.submit(task)
        return future

    def close(self) -> None:
        """Accepts no more tasks, runs the waiting ones immediately, and returns when the last batch has ended."""
        self.lane.close()

    def _execute(self, batch: TaskBatch) -> None:
        self._running.append(None)
        try:
            if batch.is_series:
                self._attempt_each(cast("TaskSeries", batch))
            else:
                self._attempt(batch)
        finally:
            self._running.pop()

    def _attempt(self, batch: TaskBatch) -> None:
        """Runs a batch; a failed batch is run again in halves, so that only tasks that cannot succeed fail."""
        if self.hanging:
            deliver(batch.fail(RunHangs(), self._queue.lock))
            return
        began = self._clock()
        try:
            ended, joined, computed = self._compute(batch)
        except Abandoned:
            raise
        except BaseException as error:  # a model that calls sys.exit must not end the thread
            self._failed(batch, began, error)
        else:
            deliver(ended)  # before the report, so that callers need not wait for it
            self._report(batch, (began, joined, computed), failed=False)

    def _complete(self, finish: Finish, batch: TaskBatch, began: float, joined: float, *run: Any) -> None:
        """Completes a run that headrace_native has begun; `finish` returns its outputs."""
        try:
            outputs = finish(batch.padded, *run)
            computed = self._clock()
            ended = batch.split(outputs, self._queue.lock)
        except BaseException as error:  # as in `_attempt`
            self._failed(batch, began, error)
        else:
            deliver(ended)
            self._report(batch, (began, joined, computed), failed=False)

    def _attempt_each(self, series: TaskSeries) -> None:
        """Runs tasks one by one; each is answered when its own run has ended."""
        if self._limit is not None:
            for batch in series.batches():
                self._attempt(batch)
        while len(series):
            try:
                series.run(self._run, self._run_choice, self._empty)
            except BaseException as error:  # a model that calls sys.exit must not end the thread
                self._failed(*series.failed(), error)
            for began, joined, computed, ended, came, traced in series.take_runs():
                ran, took = ended - began, (joined - began, computed - joined)
                arrivals = (came,)
                self._tell(BatchReport(1, 1, 0, began, ran, False, arrivals, (1,), *took, arrivals if traced else ()))

    def _failed(self, batch: TaskBatch, began: float, error: BaseException) -> None:
        """Runs the halves of a batch that has failed, or fails a batch that cannot be halved."""
        let_go(error)
        self._report(batch, (began, began, began), failed=True)
        if len(batch) <= 1 or isinstance(error, NotRepeated):
            deliver(batch.fail(_failure(error), self._queue.lock))
        else:
            for half in batch.halves():
                self._attempt(half)

    def _compute(self, batch: TaskBatch) -> tuple[list[Task], float, float]:
        """Runs a batch: returns the tasks that have ended, and the times when inputs were joined and outputs existed.

        This is a function of its own, so that no frame refers to the arrays after a failure.
        """
        inputs = batch.join(self._empty)
        joined = self._clock()
        if self._limit is None:
            outputs = self._run_chosen(inputs, batch)
        else:
            with self._within(self._limit, batch):
                outputs = self._run_chosen(inputs, batch)
        computed = self._clock()
        return batch.split(outputs, self._queue.lock), joined, computed

    def _run_chosen(self, inputs: Arrays, batch: TaskBatch) -> Arrays:
        choice = batch.choice
        return self._run(inputs) if choice is None or self._run_choice is None else self._run_choice(inputs, choice)

    @contextmanager
    def _within(self, limit: RunLimit, batch: TaskBatch) -> Iterator[None]:
        """A context in which a run is abandoned if it takes too long.

        Raises:
            Abandoned: The run ended after it had been abandoned.
        """
        watchdog = self._threads.watchdog
        number = watchdog.begin(limit.seconds, partial(self._give_up, limit, batch, current_thread()))
        try:
            yield
        finally:
            if not watchdog.end(number):
                self.hanging -= 1
                raise Abandoned

    def _give_up(self, limit: RunLimit, batch: TaskBatch, thread: Thread) -> None:
        """Fails the tasks of a batch whose run has exceeded its time limit; the run itself continues on its thread.

        Called on the watchdog's thread.
        """
        self.hanging += 1
        deliver(batch.fail(RunTimedOut(limit.seconds), self._queue.lock))
        if limit.terminate is not None and thread.ident is not None:
            limit.terminate(thread.ident)
        now = self._clock()
        self._report(batch, (now, now, now), failed=True)
        self.lane.finish()
        self._threads.replace(thread)

    def _report(self, batch: TaskBatch, times: tuple[float, float, float], *, failed: bool) -> None:
        if self._observe is None and self._controller is None:
            return
        began, joined, computed = times
        ran = self._clock() - began
        padding = batch.padded - batch.rows
        arrivals, sizes, traced = batch.arrivals, batch.sizes, batch.traced
        took = (joined - began, computed - joined)
        report = BatchReport(len(batch), batch.rows, padding, began, ran, failed, arrivals, sizes, *took, traced)
        self._tell(report)

    def _tell(self, report: BatchReport) -> None:
        if self._controller is not None:
            self._controller.observe(report, self.lane)
        if self._observe is not None:
            self._observe(report)


def _failure(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else BatchingError(f"the model raised {error!r}")
