"""One loaded version: its backend, its signatures, a scheduler for each."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Condition, Lock
from typing import Self

from headrace_batching import BatchingError, BatchReport, BatchThreads, LoopDelivery, Options, Priority, Scheduler, Task
from headrace_batching.batch import rows_of
from headrace_batching.contract import TaskLane
from headrace_batching.task import Arrays
from headrace_server.backends.base import Backend
from headrace_server.backends.signature import Signature, find_signature
from headrace_server.metrics import BatchCounts, Metrics, ServableMetrics
from headrace_server.monitoring import Tally

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
        ran: Counts requests that the model has answered, of a method: a tally of their times, and the total.
        refused: Counts a request that was turned away.
    """

    lane: TaskLane
    signature: Signature
    max_rows: int
    ran: Callable[[str, Tally, float], None]
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
        self._batching = batching
        self._lock = Lock()
        self._schedulers: dict[tuple[str, Outputs], Scheduler] = {}
        self._counts = {key: BatchCounts() for key in backend.signatures}
        self._metrics = (metrics or Metrics()).servable(name, version, self._waiting)
        self._left = Condition()
        self._leases = 0
        self._retired = False

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
            raise
        self._metrics.ran(call.api, time.monotonic() - began)
        return outputs_by_alias

    def plain(self, signature: str) -> "Plain | None":
        """Where a signature's tasks wait, for who puts them there unseen; None where each has to be seen.

        TF Serving: the options that None is returned for cut tasks in pieces, or pad them.
        """
        declared, options = self._backend.signatures[signature], self._batching
        if not declared.batched or options is None:
            return None
        if options.enable_large_batch_splitting or options.pad_variable_length_inputs:
            return None
        lane = self._scheduler(signature, declared.every_output).lane
        return Plain(lane, declared, options.max_batch_size, self._metrics.ran_several, self._metrics.refused)

    def lease(self) -> bool:
        """Keeps it loaded until the end of a `with` block on it; False if it is being unloaded. Any thread."""
        with self._left:
            self._leases += not self._retired
            return not self._retired

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._left:
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
        self._backend.close()
        self._metrics.close()
        for signature, counts in self._counts.items():
            log.info("served %s:%d %s: %s", self.name, self.version, signature, counts)

    async def _run(self, signature: str, inputs: Arrays, outputs: Outputs, call: Call) -> Arrays:
        declared = self._backend.signatures[signature]
        declared.check_arrays(inputs)
        task = self._task(declared, inputs, call)
        future = call.delivery.submit(self._scheduler(signature, outputs), task)
        try:
            return await future
        finally:
            if not task.ended:
                task.cancel()

    def _waiting(self) -> int:
        return sum(scheduler.waiting for scheduler in list(self._schedulers.values()))

    def _task(self, signature: Signature, inputs: Arrays, call: Call) -> Task:
        batching = self._batching
        if batching is None or not signature.batched:
            return Task(inputs, call.delivery, rows=1, deadline=call.deadline, priority=call.priority)
        key = signature.shape_key(inputs, pad=batching.pad_variable_length_inputs)
        return Task(
            inputs, call.delivery, rows=rows_of(inputs), key=key, deadline=call.deadline, priority=call.priority
        )

    def _scheduler(self, signature: str, outputs: Outputs) -> Scheduler:
        """The one for these outputs, made at their first use. TF Serving: a queue for each set of output tensors."""
        key = (signature, outputs)
        scheduler = self._schedulers.get(key)
        if scheduler is None:
            with self._lock:
                scheduler = self._schedulers.setdefault(key, self._new_scheduler(signature, outputs))
        return scheduler

    def _new_scheduler(self, signature: str, outputs: Outputs) -> Scheduler:
        batched = self._batching is not None and self._backend.signatures[signature].batched
        options = self._batching or Options()
        return Scheduler(
            self._threads,
            partial(self._backend.run, signature, outputs=outputs),
            options if batched else _one_by_one(options),
            batched=batched,
            observe=partial(_count, self._counts[signature], self._metrics, batched),
        )


def _one_by_one(options: Options) -> Options:
    """As many requests may wait as with batching, but each runs alone."""
    waiting = options.enqueued_limit * options.max_batch_size
    return Options(max_batch_size=1, max_enqueued_batches=waiting, num_batch_threads=options.num_batch_threads)


def _count(counts: BatchCounts, metrics: ServableMetrics, batched: bool, report: BatchReport) -> None:
    metrics.batch(report, batched=batched)
    if not report.failed:
        counts.add(report.tasks, report.rows)
