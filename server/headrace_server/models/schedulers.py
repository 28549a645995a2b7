"""The schedulers of one version: one per signature, created at its first use."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from threading import Lock
from typing import cast

import numpy as np

from headrace_batching import BatchThreads, Beliefs, Options, RunLimit, Scheduler
from headrace_batching.group import MAX_BATCH_BYTES
from headrace_batching.options import MAX_VALUE
from headrace_batching.report import Observe
from headrace_batching.task import Array, Arrays
from headrace_server.backends.base import (
    Backend,
    BatchMemory,
    FitsBatching,
    RunsElsewhere,
    RunsNatively,
    Steady,
    Terminable,
)
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature
from headrace_server.models.watched import Take, watched

Outputs = tuple[str, ...]
ObserveNative = Callable[[bytes, bytes, bytes, bytes, bytes], None]
ObserveRuns = Callable[[str, bool], tuple[Observe, ObserveNative]]


class Schedulers:
    """Creates and keeps a version's schedulers.

    Args:
        backend: Runs the batches.
        signatures: The backend's signatures, and which of them are batched.
        threads: The threads that run batches.
        batching: How requests become batches, already adapted to the backend; None runs every request alone.
        observe: Returns, for a signature's name and whether its requests are batched, the function to call for each of
            its runs, and the one to call for its runs without the interpreter.
        limit: How long a run may take; None means no limit.
        name: The version's name, for the log.

    Attributes:
        take: A function that inspects the batches of the default signature; to be set before the first request.
    """

    def __init__(
        self,
        backend: Backend,
        signatures: Mapping[str, Signature],
        threads: BatchThreads,
        batching: Options | None,
        observe: ObserveRuns,
        limit: RunLimit | None = None,
        name: str = "",
    ) -> None:
        self._backend = backend
        self._signatures = signatures
        self._threads = threads
        self._batching = batching
        self._observe = observe
        self._limit = limit
        self._name = name
        self.take: Take | None = None
        self._lock = Lock()
        self._made: dict[tuple[str, bool], Scheduler] = {}
        self._added = 0  # threads, for runs that only wait

    @property
    def hanging(self) -> int:
        """The number of runs that were abandoned and have not ended."""
        return sum(scheduler.hanging for scheduler in list(self._made.values()))

    @property
    def waiting(self) -> int:
        """The number of rows that no batch has taken yet."""
        return sum(scheduler.waiting for scheduler in list(self._made.values()))

    @property
    def running(self) -> int:
        """The number of batches that are running now."""
        return sum(scheduler.running for scheduler in list(self._made.values()))

    @property
    def native_ended(self) -> float:
        """When the last run without the interpreter ended, on the queue's clock; 0 before the first."""
        return max((scheduler.native_ended for scheduler in list(self._made.values())), default=0.0)

    def count_native_runs(self) -> None:
        """Reports the runs without the interpreter that have not been reported yet. Any thread."""
        for scheduler in list(self._made.values()):
            scheduler.count_native_runs()

    def beliefs(self) -> dict[str, Beliefs]:
        """The beliefs about each signature that has been called, by name; empty without a latency objective."""
        made = list(self._made.items())
        found = {name: scheduler.beliefs for (name, alone), scheduler in made if not alone}
        return {name: beliefs for name, beliefs in found.items() if beliefs is not None}

    def of(self, signature: str, *, alone: bool = False) -> Scheduler:
        """The scheduler of a signature. A task's choice is the aliases of the wanted outputs; None means all outputs.

        TF Serving has a queue for each set of output tensors; callers could create 2^n of them.

        Args:
            signature: The signature's name.
            alone: Whether tasks run one by one although others of the signature may share batches.
        """
        key = (signature, alone)
        scheduler = self._made.get(key)
        if scheduler is None:
            with self._lock:
                scheduler = self._made.get(key)
                if scheduler is None:
                    scheduler = self._made[key] = self._make(signature, alone)
        return scheduler

    def close(self) -> None:
        """Returns when the last batch of each scheduler has run."""
        for scheduler in self._made.values():
            scheduler.close()
        self._threads.release(self._added)
        self._added = 0

    def _make(self, signature: str, alone: bool) -> Scheduler:
        declared = self._signatures[signature]
        batched = self._batching is not None and declared.batched and not alone
        options, backend = self._batching or _unbatched(self._backend), self._backend
        options = _leaving_one(options)
        if isinstance(backend, RunsElsewhere) and backend.runs_elsewhere:
            self._threads.add(options.batches_at_once)
            self._added += options.batches_at_once
        run = partial(backend.run, signature, outputs=declared.every_output)
        take = self.take if batched and signature == DEFAULT_SIGNATURE else None
        observe, observe_native = self._observe(signature, batched)
        scheduler = Scheduler(
            self._threads,
            watched(run, take),
            options if batched else _one_by_one(options),
            batched=batched,
            steady=self._limit is None and isinstance(backend, Steady) and backend.steady,
            empty=backend.empty if isinstance(backend, BatchMemory) else np.empty,
            observe=observe,
            limit=self._limit,
            name=f"{self._name}, {signature}",
            run_choice=lambda inputs, outputs: backend.run(signature, inputs, cast("Outputs", outputs)),
        )
        if take is None and isinstance(backend, RunsNatively) and (fields := backend.native_run(signature)):
            scheduler.run_natively({**fields, "tell": observe_native})
        return scheduler


@lru_cache(maxsize=16)  # so that models with equal options share the result
def _leaving_one(options: Options) -> Options:
    """The options, with a limit on the batches at a time that leaves one thread free for other models."""
    at_once = min(options.batches_at_once, options.num_batch_threads)
    return options if options.max_running_batches == at_once else replace(options, max_running_batches=at_once)


def limit_of(backend: Backend, seconds: float) -> RunLimit | None:
    """The limit on a backend's runs; None if there is none."""
    if not seconds:
        return None
    if not isinstance(backend, Terminable):
        return RunLimit(seconds)
    backend.expect_termination()
    return RunLimit(seconds, backend.terminate)


def fitted(batching: Options | None, backend: Backend) -> Options | None:
    """The options, adapted to the limits of a backend."""
    return backend.fit_batching(batching) if batching is not None and isinstance(backend, FitsBatching) else batching


def may_share(inputs: Arrays, rows: int | None, options: Options) -> bool:
    """Whether a request of a batched signature can be in a batch at all. Otherwise it runs alone.

    TF Serving refuses inputs with unequal rows, and more rows than its default limit. Here, a limit set by an operator
    is enforced; so is the default, if the request expands to more bytes than were sent.

    Args:
        inputs: Arrays by alias.
        rows: The number of rows of all inputs; None if they differ.
        options: The batching options, with the limit on a batch's rows.
    """
    if rows is None:
        return False
    if not options.larger_alone or rows <= options.max_batch_size:
        return True
    return rows > MAX_BATCH_BYTES or any(map(_unpacks, inputs.values()))


def _unpacks(array: Array) -> bool:
    """Whether an array is one repeated value that would use much memory if it were expanded."""
    return 0 in array.strides and array.nbytes > MAX_BATCH_BYTES


def _unbatched(backend: Backend) -> Options:
    """The options with no more runs at the same time than the backend supports."""
    fitting = fitted(Options(max_batch_size=1), backend) or Options()
    return Options(max_running_batches=fitting.max_running_batches)


def _one_by_one(options: Options) -> Options:
    """The options for requests that wait in a queue like those for batches, but run one by one."""
    waiting = min(options.enqueued_limit * options.max_batch_size, MAX_VALUE)
    return Options(
        max_batch_size=1,
        max_enqueued_batches=waiting,
        num_batch_threads=options.num_batch_threads,
        max_running_batches=options.max_running_batches,
    )
