"""One loaded version: its backend, its signatures, a scheduler for each."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from threading import Condition, Lock
from typing import Self

import numpy as np

from headrace_batching import (
    BatchingError,
    BatchThreads,
    DeadlineExceeded,
    LoopDelivery,
    Options,
    Priority,
    Scheduler,
    Task,
)
from headrace_batching.batch import rows_of
from headrace_batching.contract import TaskLane
from headrace_batching.options import MAX_VALUE
from headrace_batching.task import Arrays
from headrace_server.backends.base import Backend, BatchMemory, FitsBatching, OnDevices, Steady
from headrace_server.backends.signature import Signature, find_signature
from headrace_server.errors import ServingError, invalid, timed_out
from headrace_server.metrics.catalogue import BatchCounts, CountCalls, Metrics, Tallied
from headrace_server.models.relaxed import load_relaxed

log = logging.getLogger(__name__)

Outputs = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """What comes with a request beside its message.

    Attributes:
        delivery: Resolves futures of the event loop in which the caller waits.
        deadline: On the monotonic clock, in seconds; None for none.
        priority: Whether it goes before or after the others that wait.
        api: The method's name, for metrics.
    """

    delivery: LoopDelivery
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    api: str = "Predict"


@dataclass(frozen=True, slots=True)
class Plain:
    """What is to be known of a signature whose requests join a queue without being looked at twice.

    Attributes:
        lane: The queue's part that they join, all outputs asked for.
        signature: What they are checked against.
        max_rows: Rows that one may have.
        answers: From who counts calls to who is told of those that the model has answered.
        refused: Counts a request that was turned away.
    """

    lane: TaskLane
    signature: Signature
    max_rows: int
    answers: Callable[[CountCalls], Callable[[Tallied], None]]
    refused: Callable[[BatchingError], None]


class Servable:
    """One loaded version.

    Args:
        name: The model's.
        version: Its number.
        backend: Owned from here on.
        threads: Where its batches run.
        batching: How requests become batches; None runs every request by itself.
        metrics: Where what it does is counted.
    """

    def __init__(
        self,
        name: str,
        version: int,
        backend: Backend,
        threads: BatchThreads,
        batching: Options | None,
        *,
        metrics: Metrics | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self._backend = backend
        self._threads = threads
        self.names_sizes = batching is not None and bool(batching.allowed_batch_sizes)
        self._batching = _fitted(batching, backend)
        self._lock = Lock()
        self._schedulers: dict[tuple[str, Outputs, bool], Scheduler] = {}
        self._relaxed: Future[Backend] | None = None
        self._counts = {key: BatchCounts() for key in backend.signatures}
        on_devices = backend.device_memory if isinstance(backend, OnDevices) else dict
        self._metrics = (metrics or Metrics()).servable(name, version, self._waiting, on_devices)
        self._left = Condition(self._lock)
        self._leases = 0
        self._retired = False

    @property
    def backend(self) -> Backend:
        """Its runtime; requests go through `run`."""
        return self._backend

    @property
    def batching(self) -> Options | None:
        """How its requests become batches; None runs every request by itself."""
        return self._batching

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Its entries by name."""
        return self._backend.signatures

    def signature(self, name: str) -> tuple[str, Signature]:
        """The signature that a request names, and its name.

        Raises:
            ServingError: FAILED_PRECONDITION, there is none.
        """
        return find_signature(self._backend.signatures, name)

    async def run(self, signature: str, inputs: Arrays, outputs: Outputs, call: Call) -> Arrays:
        """Computes the outputs of one request, in a batch with others where the model allows.

        Args:
            signature: The name of one of its own.
            inputs: An array for each of the signature's inputs, by alias; their names have been checked.
            outputs: Aliases of the signature's outputs.
            call: Where to answer, and until when.

        Raises:
            ServingError: An input does not fit its declaration, or the backend refused.
            BatchingError: The queue did.
        """
        began = time.monotonic()
        try:
            outputs_by_alias = await self._run(signature, inputs, outputs, call)
        except BatchingError as error:
            self._metrics.refused(error)
            if isinstance(error, DeadlineExceeded) and self._batching is None:
                raise timed_out() from error  # TF Serving: without batching there is no queue to say otherwise
            raise
        self._metrics.ran(call.api, time.monotonic() - began)
        return outputs_by_alias

    def count_examples(self, count: int) -> None:
        """Takes note of the Examples that a MultiInference has run on."""
        self._metrics.examples(count)

    def plain(self, signature: str) -> "Plain | None":
        """Where a signature's tasks wait, for who puts them there unseen; None where each has to be seen.

        Options that cut tasks in pieces, or pad them, ask for the latter.
        """
        declared, options = self._backend.signatures[signature], self._batching
        if not declared.batched or options is None:
            return None
        if options.enable_large_batch_splitting or options.pad_variable_length_inputs:
            return None
        lane = self._scheduler(signature, declared.every_output).lane
        return Plain(lane, declared, options.max_batch_size, self._metrics.answers, self._metrics.refused)

    def lease(self) -> bool:
        """Keeps it loaded until the end of a `with` block on it; False if it is being unloaded. Any thread."""
        with self._lock:
            self._leases += not self._retired
            return not self._retired

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._leases -= 1
            if self._retired:
                self._left.notify_all()

    def close(self) -> None:
        """Waits for the last lease to end and the last batch to run, then frees the model."""
        with self._left:
            self._retired = True
            self._left.wait_for(lambda: not self._leases)
        for scheduler in self._schedulers.values():
            scheduler.close()
        if self._relaxed is not None:
            wait([self._relaxed])
        self._backend.close()
        self._metrics.close()
        for signature, counts in self._counts.items():
            log.info("served %s:%d %s: %s", self.name, self.version, signature, counts)

    async def _run(self, signature: str, inputs: Arrays, outputs: Outputs, call: Call) -> Arrays:
        declared = self._backend.signatures[signature]
        if misfit := declared.check_arrays(inputs):
            return await self._run_relaxed((signature, outputs), inputs, call, misfit)
        return await _answered(self._task(declared, inputs, call), self._scheduler(signature, outputs), call)

    async def _run_relaxed(self, run: tuple[str, Outputs], inputs: Arrays, call: Call, misfit: str) -> Arrays:
        """Lets the operators judge shapes that are not as declared. TF Serving: they alone do.

        Each request runs alone: what axis 0 means to the operators is then not known, and a neighbour's rows might
        change the answer.
        """
        with self._lock:
            if self._relaxed is None:
                self._relaxed = load_relaxed(self._backend)
        try:
            backend = await asyncio.wrap_future(self._relaxed)
        except ServingError as error:
            raise invalid(misfit) from error
        try:
            return await _answered(_alone(inputs, call), self._scheduler(*run, backend), call)
        except ServingError as error:
            raise invalid(f"{misfit}, and the model does not take it: {error.message.strip()}") from error

    def _waiting(self) -> int:
        return sum(scheduler.waiting for scheduler in list(self._schedulers.values()))

    def _task(self, signature: Signature, inputs: Arrays, call: Call) -> Task:
        batching = self._batching
        if batching is None or not signature.batched:
            return _alone(inputs, call)
        key = signature.shape_key(inputs, pad=batching.pad_variable_length_inputs)
        return Task(
            inputs, call.delivery, rows=rows_of(inputs), key=key, deadline=call.deadline, priority=call.priority
        )

    def _scheduler(self, signature: str, outputs: Outputs, relaxed: Backend | None = None) -> Scheduler:
        """The one for these outputs, made at their first use. TF Serving: a queue for each set of output tensors."""
        key = (signature, outputs, relaxed is not None)
        scheduler = self._schedulers.get(key)
        if scheduler is None:
            with self._lock:
                scheduler = self._schedulers.setdefault(key, self._new_scheduler(signature, outputs, relaxed))
        return scheduler

    def _new_scheduler(self, signature: str, outputs: Outputs, relaxed: Backend | None) -> Scheduler:
        batched = self._batching is not None and self._backend.signatures[signature].batched and relaxed is None
        options = self._batching or _unbatched(self._backend)
        backend = relaxed or self._backend
        return Scheduler(
            self._threads,
            partial(backend.run, signature, outputs=outputs),
            options if batched else _one_by_one(options),
            batched=batched,
            steady=isinstance(backend, Steady) and backend.steady,
            empty=backend.empty if isinstance(backend, BatchMemory) else np.empty,
            observe=self._metrics.runs(self._counts[signature], batched=batched),
        )


async def _answered(task: Task, scheduler: Scheduler, call: Call) -> Arrays:
    future = call.delivery.submit(scheduler, task)
    try:
        return await future
    finally:
        if not task.ended:
            task.cancel()


def _fitted(batching: Options | None, backend: Backend) -> Options | None:
    return backend.fit_batching(batching) if batching is not None and isinstance(backend, FitsBatching) else batching


def _unbatched(backend: Backend) -> Options:
    """As many runs at once as the backend bears."""
    fitting = _fitted(Options(max_batch_size=1), backend) or Options()
    return Options(max_running_batches=fitting.max_running_batches)


def _alone(inputs: Arrays, call: Call) -> Task:
    return Task(inputs, call.delivery, rows=1, deadline=call.deadline, priority=call.priority)


def _one_by_one(options: Options) -> Options:
    """As many requests may wait as with batching, but each runs alone."""
    waiting = min(options.enqueued_limit * options.max_batch_size, MAX_VALUE)
    return Options(
        max_batch_size=1,
        max_enqueued_batches=waiting,
        num_batch_threads=options.num_batch_threads,
        max_running_batches=options.max_running_batches,
    )
