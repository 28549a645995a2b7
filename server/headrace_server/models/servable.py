"""One loaded version: its backend, its signatures, the requests that run on it, and how it is closed."""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Self

from headrace_batching import (
    BatchingError,
    BatchReport,
    BatchThreads,
    Beliefs,
    Closed,
    DeadlineExceeded,
    Options,
    QueueFull,
    TaskTooLarge,
)
from headrace_batching.batch import rows_of
from headrace_batching.report import Observe
from headrace_batching.task import Arrays
from headrace_server.backends.base import (
    Backend,
    ChoosesProvider,
    KeepsMemory,
    MayBeDown,
    NamesRuntime,
    OnDevices,
    Streaming,
)
from headrace_server.backends.independence import Verdict
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature, find_signature
from headrace_server.config.model_toml import StepOptions
from headrace_server.errors import ServingError, invalid, timed_out
from headrace_server.metrics.catalogue import Metrics
from headrace_server.metrics.inferences import Inferences
from headrace_server.metrics.summary import BatchCounts
from headrace_server.metrics.versions import Now
from headrace_server.models.call import Call
from headrace_server.models.ensemble import Ensemble
from headrace_server.models.execution import Execution
from headrace_server.models.leases import Leases
from headrace_server.models.plain import Plain, larger_alone, takes_plain
from headrace_server.models.requests import Requests
from headrace_server.models.rows import as_decided
from headrace_server.models.schedulers import ObserveNative, Outputs, Schedulers, fitted, limit_of
from headrace_server.models.sequences import Sequences
from headrace_server.models.watched import Take
from headrace_server.security.visit import visit_now

log = logging.getLogger(__name__)


class Servable:
    """One loaded version.

    Args:
        name: The model's name.
        version: The version's number.
        backend: The backend, which the servable now owns.
        threads: The threads that run its batches.
        batching: How requests become batches; None runs every request alone.
        verdicts: The findings about the rows of each signature, by name; otherwise the backend's signature decides.
        metrics: Counts what the version does.
        keep_state: Returns the object that keeps the sequences for a signature of a stateful model; None for any other
            model.
        run_timeout: Seconds after which a run is abandoned; 0 means never.
        marks_use: Whether `used` is maintained.

    Attributes:
        signatures: The signatures by name, as callers see them.
        sequences: Keeps the state of a stateful model, which callers do not see; None for any other model.
        verdicts: Whether the requests of each signature are batched, and why not.
    """

    def __init__(
        self,
        name: str,
        version: int,
        backend: Backend,
        threads: BatchThreads,
        batching: Options | None,
        *,
        verdicts: Mapping[str, Verdict] | None = None,
        metrics: Metrics | None = None,
        keep_state: Callable[[Signature], Sequences] | None = None,
        run_timeout: float = 0.0,
        marks_use: bool = False,
    ) -> None:
        self._marks_use = marks_use
        self._used = time.monotonic()
        self.name = name
        self.version = version
        self.verdicts: Mapping[str, Verdict] = verdicts or {}
        self._own = {
            key: as_decided(each, self.verdicts.get(key), batching=batching is not None)
            for key, each in backend.signatures.items()
        }
        self.sequences = None if keep_state is None else keep_state(self._own[DEFAULT_SIGNATURE])
        self.signatures: Mapping[str, Signature] = self._own
        if self.sequences is not None:
            self.signatures = {DEFAULT_SIGNATURE: self.sequences.signature}
        self._backend = backend
        self.names_sizes = batching is not None and bool(batching.allowed_batch_sizes)
        self._batching = fitted(batching, backend)
        limit = limit_of(backend, run_timeout)
        title = f"model {name} version {version}"
        self._schedulers = Schedulers(backend, self._own, threads, self._batching, self._observe_runs, limit, title)
        self._counts = {key: BatchCounts() for key in backend.signatures}
        on_devices = backend.device_memory if isinstance(backend, OnDevices) else dict
        own = self._schedulers
        now = Now(lambda: own.waiting, lambda: own.running, on_devices, self.beliefs, own.count_native_runs)
        self._metrics = (metrics or Metrics()).servable(name, version, now)
        self._metrics.verdicts = {key: verdict.finding.value for key, verdict in self.verdicts.items()}
        requests = Requests(self._own, self._schedulers, self._batching)
        self._execution = Execution(self.signatures, backend, requests, self.sequences, self._metrics)
        self._leases = Leases()
        self._freed_with_it: list[Callable[[], None]] = []

    def watch(self, take: Take | None) -> None:
        """Sets a function that inspects the batches of the default signature. Call this before the first request."""
        self._schedulers.take = take

    @property
    def used(self) -> float:
        """When the version was last requested or run, on the monotonic clock."""
        return max(self._used, self._schedulers.native_ended) if self._marks_use else self._used

    @property
    def own_signatures(self) -> Mapping[str, Signature]:
        """The signatures as the model has them, with the inputs and outputs of its state."""
        return self._own

    @property
    def backend(self) -> Backend:
        """The runtime; requests go through `run`."""
        return self._backend

    @property
    def hangs(self) -> bool:
        """Whether the version cannot answer now: an abandoned run has not ended, or none of its processes is up."""
        return bool(self._schedulers.hanging) or (isinstance(self._backend, MayBeDown) and self._backend.is_down)

    @property
    def in_use(self) -> bool:
        """Whether a call uses the version or waits in its queues. Any thread."""
        return self._leases.taken or self._schedulers.waiting > 0

    @property
    def keeps_state(self) -> bool:
        """Whether a sequence of requests is under way whose state would be lost with the version."""
        return self.sequences is not None and self.sequences.open

    @property
    def batching(self) -> Options | None:
        """How the version's requests become batches; None runs every request alone."""
        return self._batching

    @property
    def where(self) -> str:
        """The provider or device on which the model runs, in words for the log; empty if the runtime has no choice."""
        return f" on {self._backend.provider}" if isinstance(self._backend, ChoosesProvider) else ""

    def batches(self, signature: str) -> str:
        """How large the batches of a signature are, as words for the log; empty if its requests run one by one."""
        if self._batching is None or not self.signatures[signature].batched:
            return ""
        return f", in batches of up to {self._batching.max_batch_size} rows"

    def beliefs(self) -> Mapping[str, Beliefs]:
        """The beliefs about each signature that has been called, by name; empty without an objective. Any thread."""
        return self._schedulers.beliefs()

    def signature(self, name: str) -> tuple[str, Signature]:
        """The name and the signature that a request selects.

        Raises:
            ServingError: FAILED_PRECONDITION if there is no such signature.
        """
        return find_signature(self.signatures, name)

    async def run(self, signature: str, inputs: Arrays, outputs: Outputs, call: Call) -> Arrays:
        """Computes the outputs of one request, in a batch with others if the model allows it.

        All requests of a signature share one queue; those for the same outputs share batches.

        Args:
            signature: The name of one of the version's signatures.
            inputs: An array for each of the signature's inputs, by alias; their names have been checked.
            outputs: Aliases of the signature's outputs.
            call: How to deliver the answer, and the deadline.

        Raises:
            ServingError: An input does not fit its declaration, or the backend refused the request.
            BatchingError: The queue refused the request.
        """
        began = time.monotonic()
        visit = visit_now()
        if visit is not None:
            visit.charge(self._rows(signature, inputs))
            call = replace(call, priority=max(call.priority, visit.priority))
        try:
            computed = await self._execution.run(signature, inputs, outputs, call)
        except BatchingError as error:
            if visit is not None and isinstance(error, QueueFull | Closed):
                visit.charge(-self._rows(signature, inputs))  # gives back the rows, which were not run
            self._metrics.refused(error)
            if isinstance(error, DeadlineExceeded) and self._batching is None:
                raise timed_out() from error  # without batching, TF Serving has no queue with an error of its own
            raise
        self._metrics.ran(call.api, time.monotonic() - began)
        return computed

    @property
    def streams(self) -> bool:
        """Whether the version streams answers, through `stream`."""
        return isinstance(self._backend, Streaming) and self._backend.streams

    @property
    def answers_once(self) -> bool:
        """Whether the version can answer a request once, through `run`."""
        return not isinstance(self._backend, Streaming) or self._backend.answers_once

    @property
    def has_runs(self) -> bool:
        """Whether the version's backend runs batches of requests itself."""
        return self.answers_once and not isinstance(self._backend, Ensemble)

    @property
    def steps(self) -> tuple[StepOptions, ...]:
        """The calls to other models that make up the version; empty for a model that has a file."""
        return self._backend.steps if isinstance(self._backend, Ensemble) else ()

    async def stream(self, signature: str, inputs: Arrays, outputs: Outputs) -> AsyncGenerator[Arrays, None]:
        """The answers to one request, which runs alone; each is computed when it is asked for.

        Args:
            signature: As for `run`.
            inputs: As for `run`.
            outputs: As for `run`.

        Raises:
            ServingError: As for `run`; also between answers.
        """
        assert isinstance(self._backend, Streaming)  # `streams` says so
        if misfit := self.signatures[signature].check_arrays(inputs):
            raise invalid(misfit)
        visit = visit_now()
        if visit is not None:
            visit.charge(self._rows(signature, inputs))
        began = time.monotonic()
        try:
            async with aclosing(self._backend.stream(signature, inputs, outputs)) as answers:
                async for answer in answers:
                    yield answer
        except ServingError:
            self._metrics.ran_alone(time.monotonic() - began, failed=True)
            raise
        self._metrics.ran_alone(time.monotonic() - began, failed=False)

    @property
    def runtime(self) -> str:
        """A short name of the version's runtime, such as `onnxruntime`; empty if the backend has none."""
        return self._backend.runtime if isinstance(self._backend, NamesRuntime) else ""

    @property
    def on_gpus(self) -> list[int]:
        """The numbers of the GPUs whose memory the version uses."""
        return sorted(self._backend.device_memory()) if isinstance(self._backend, OnDevices) else []

    def free_unused(self) -> None:
        """Frees memory that its runtime keeps for later runs, if there was no run for a while. Any thread."""
        if isinstance(self._backend, KeepsMemory):
            self._backend.free_unused()

    def inferences(self) -> Inferences:
        """The version's counts so far. Any thread."""
        return self._metrics.inferences()

    def check_rows(self, signature: str, rows: int) -> None:
        """Refuses a request with too many rows before they are decoded.

        Raises:
            TaskTooLarge: The request could not be in a batch.
        """
        options = self._batching
        if options is not None and self.signatures[signature].batched and rows > options.max_batch_size:
            error = TaskTooLarge(rows, options.max_batch_size)
            self._metrics.refused(error)
            raise error

    def count_examples(self, count: int) -> None:
        """Records the number of Examples that a MultiInference has run on."""
        self._metrics.examples(count)

    def plain(self, signature: str, dtypes: Collection[int]) -> Plain | None:
        """The queue of a signature's tasks, for the native transport; None if Python must see each task.

        Args:
            signature: The signature's name.
            dtypes: The element types that are decoded outside the interpreter.
        """
        if self.sequences is not None or isinstance(self._backend, Ensemble):
            return None
        declared, options = self._own[signature], self._batching
        if not takes_plain(declared, options, dtypes):
            return None
        lane, metrics = self._schedulers.of(signature).lane, self._metrics
        batched = options if declared.batched else None
        return Plain(
            lane,
            declared,
            None if batched is None else batched.execution_limit,
            metrics.answers,
            metrics.refused,
            queued=options is not None,
            larger_alone=batched is not None and larger_alone(batched),
        )

    def when_closed(self, free: Callable[[], None]) -> None:
        """Registers something to be freed together with the version."""
        self._freed_with_it.append(free)

    def lease(self) -> bool:
        """Keeps the version loaded until the end of a `with` block; False if it is being unloaded. Any thread."""
        if self._marks_use:
            self._used = time.monotonic()
        return self._leases.take()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._leases.give_back()

    def close(self) -> None:
        """Waits for the last lease to end and the last batch to run, then frees the model."""
        self._leases.retire()
        self._schedulers.close()
        self._backend.close()
        for free in self._freed_with_it:
            free()
        self._metrics.close()
        for signature, counts in self._counts.items():
            if counts:
                log.info("served %s:%d %s: %s", self.name, self.version, signature, counts)

    def _rows(self, signature: str, inputs: Arrays) -> int:
        """The number of rows of a request whose inputs have not been checked, for the quota of its caller."""
        has_rows = self.signatures[signature].batched and bool(inputs) and all(each.ndim for each in inputs.values())
        return rows_of(inputs) if has_rows else 1

    def _observe_runs(self, signature: str, batched: bool) -> tuple[Observe, ObserveNative]:
        observe = self._metrics.runs(self._counts[signature], batched=batched)
        if not self._marks_use:
            return observe, observe.add_native

        def mark_and_observe(report: BatchReport) -> None:
            # Calls that are answered outside the interpreter hold no lease, and may be reported later.
            self._used = max(self._used, report.began + report.ran)
            observe(report)

        return mark_and_observe, observe.add_native
