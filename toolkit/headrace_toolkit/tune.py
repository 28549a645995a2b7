"""Finds threads and batch sizes for a latency objective: runs a model with many sizes, and tries the best."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from headrace_batching import BatchThreads, LatencyObjective, Options, QueueFull, Scheduler
from headrace_batching.cpus import schedulable_cpus
from headrace_batching.latency.choice import Limits, full_size, longest_wait
from headrace_batching.latency.run_times import Curve, RunTimes
from headrace_batching.task import Array, Arrays
from headrace_server.backends import auto as backends
from headrace_server.backends.base import Backend, BackendOptions
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature
from headrace_server.errors import ServingError
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError, first_line
from headrace_toolkit.progress import Progress
from headrace_toolkit.running import random_inputs

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LOADS = (0.25, 0.5, 0.75, 1.0, 1.25)
"""Fractions of the predicted rate at which the setting is tried."""

MOST_CALLS = 4000
"""The calls per second that one Python thread can send and receive without becoming the bottleneck."""

_MEASURING = 0.6
"""The share of the seconds that is spent on run times; the rest is for the trial."""

_LEAST_RUNS = 5
_MOST_RUNS = 200

Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """How a machine's CPUs are divided.

    Attributes:
        batches: The number of concurrent batches.
        intra_op: The number of threads of each batch.
    """

    batches: int
    intra_op: int

    def __str__(self) -> str:
        batches = "1 batch" if self.batches == 1 else f"{self.batches} batches"
        return f"{batches} of {'1 thread' if self.intra_op == 1 else f'{self.intra_op} threads'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One division of the CPUs, and its results.

    Attributes:
        threads: How the CPUs are divided.
        curve: Run times by size, with all batches running concurrently.
        size: The largest batch worth forming within the objective.
        rate: The rows per second with batches of that size.
        fits: Whether the objective is within reach.
    """

    threads: Threads
    curve: Curve
    size: int
    rate: float
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The results of the chosen setting at one rate, through headrace's batcher.

    Attributes:
        offered: The number of requests per second.
        good: The number of requests per second that were answered within the objective.
        refused: The number of requests per second that were refused at once.
        latency: The latency of the answers, at the objective's percentile, in seconds.
        rows: The mean number of rows per batch.
    """

    offered: float
    good: float
    refused: float
    latency: float
    rows: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The result of tuning.

    Attributes:
        place: The version that was tuned.
        objective: The latency objective.
        tried: Every division of the CPUs.
        best: The chosen one.
        wait: The seconds that a batch of the chosen size may wait.
        loads: The results of the trial.
    """

    place: Path
    objective: LatencyObjective
    tried: tuple[Tried, ...]
    best: Tried
    wait: float
    loads: tuple[Load, ...]


def tune(place: Path, objective: LatencyObjective, data: Data | None, seconds: float, progress: Progress) -> Tuning:
    """Measures run times, chooses a setting, and tries it.

    Args:
        place: A version's folder, or a model's file.
        objective: The latency objective.
        data: Rows; None generates some.
        seconds: The approximate duration.
        progress: Called with the progress.

    Raises:
        ToolkitError: The model cannot be loaded or run, or even a single row takes too long.
    """
    divisions = divide(schedulable_cpus())
    tried = []
    for number, threads in enumerate(divisions, start=1):
        with progress.step(str(threads)) as advance:
            tried.append(_try(place, objective, data, threads, seconds * _MEASURING / len(divisions)))
            advance(number, len(divisions))
    fitting = [each for each in tried if each.fits]
    if not fitting:
        fastest = min(each.curve.high_of(1) for each in tried)
        raise ToolkitError(
            f"{place}: {objective.text} is out of reach: one row runs for up to {fastest * 1e3:.3g} ms on this machine"
        )
    best = max(fitting, key=lambda each: each.rate)
    wait = longest_wait(best.curve, objective.seconds, best.size, Limits((best.size,), best.threads.batches))
    part = seconds * (1 - _MEASURING) / len(LOADS)
    with progress.step("try it under load"), _Model(place, data, best.threads) as model:
        rates = [load * min(best.rate, MOST_CALLS) for load in LOADS]
        loads = tuple(_under(model, best, objective, rate, part) for rate in rates)
    return Tuning(place=place, objective=objective, tried=tuple(tried), best=best, wait=wait, loads=loads)


def divide(cpus: int) -> list[Threads]:
    """The divisions of this many CPUs to try: each power of two as the threads of a batch, and all of them."""
    inner = sorted({min(cpus, 1 << power) for power in range(cpus.bit_length())} | {cpus})
    return [Threads(batches=max(1, cpus // each), intra_op=each) for each in inner]


class _Model:
    """A loaded version, and rows for it."""

    def __init__(self, place: Path, data: Data | None, threads: Threads) -> None:
        options = BackendOptions(intra_op_threads=threads.intra_op, inter_op_threads=1)
        try:
            self._backend: Backend = backends.load(place, options)
        except ServingError as error:
            raise ToolkitError(f"{place}: {first_line(error)}") from error
        signatures = self._backend.signatures
        self._name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures))
        self.signature: Signature = signatures[self._name]
        self._rows = random_inputs(self.signature, 64, 0) if data is None else data.fitted(self.signature).inputs
        self._count = len(next(iter(self._rows.values())))

    def __enter__(self) -> "_Model":
        return self

    def __exit__(self, *exception: object) -> None:
        self._backend.close()

    def rows(self, count: int) -> dict[str, Array]:
        """Returns this many rows."""
        which = np.arange(count) % self._count
        return {name: array[which] for name, array in self._rows.items()}

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Runs the model once.

        Raises:
            ToolkitError: The model refuses the rows.
        """
        try:
            return self._backend.run(self._name, dict(inputs), self.signature.every_output)
        except ServingError as error:
            raise ToolkitError(f"the model refuses a batch: {first_line(error)}") from error


def _try(place: Path, objective: LatencyObjective, data: Data | None, threads: Threads, seconds: float) -> Tried:
    times = RunTimes(objective.share)
    sizes: list[int] = []
    runs: list[tuple[int, float]] = []
    with _Model(place, data, threads) as model:
        if any(not spec.shape or spec.shape[0] is not None for spec in model.signature.inputs.values()):
            raise ToolkitError(f"{place}: the first dimension of its inputs is fixed, so requests cannot be batched")
        for size in SIZES:
            found = _runs(model, size, threads.batches, seconds / len(SIZES))
            runs += [(size, each) for each in found]
            sizes.append(size)
            if sorted(found)[len(found) // 2] > objective.seconds:
                break
    # All at once: a size that ran while the machine was busy must not change the times of the others.
    times.learn(runs, 0.0)
    curve = times.curve
    assert curve is not None
    limits = Limits(tuple(sizes), threads.batches)
    size = full_size(curve, objective.seconds, limits)
    fits = curve.high_of(1) <= objective.seconds
    return Tried(
        threads=threads, curve=curve, size=size, rate=threads.batches * size / curve.typical_of(size), fits=fits
    )


def _runs(model: _Model, size: int, at_once: int, seconds: float) -> list[float]:
    """The seconds of runs of one size, with the number of parallel runs that a server will have."""
    rows = model.rows(size)
    model.run(rows)
    found: list[float] = []
    failed: list[ToolkitError] = []
    until = time.perf_counter() + seconds

    def repeat() -> None:
        try:
            for number in range(_MOST_RUNS):
                began = time.perf_counter()
                if number >= _LEAST_RUNS and began > until:
                    return
                model.run(rows)
                found.append(time.perf_counter() - began)
        except ToolkitError as error:
            failed.append(error)

    threads = [threading.Thread(target=repeat) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found


def _under(model: _Model, best: Tried, objective: LatencyObjective, rate: float, seconds: float) -> Load:
    """Sends calls of one row at random times with a given rate, and evaluates the answers."""
    threads = BatchThreads(best.threads.batches)
    batches: list[int] = []
    options = Options(
        max_batch_size=best.size, num_batch_threads=best.threads.batches, latency_objective=objective.text
    )
    threads.start()
    scheduler = Scheduler(threads, model.run, options, observe=lambda report: batches.append(report.rows))
    try:
        taken, refused = _send(scheduler, model.rows(1), rate, seconds)
    finally:
        scheduler.close()
        threads.close()
    ordered = sorted(taken)
    sent = max(1, len(taken) + refused)
    return Load(
        offered=sent / seconds,
        good=sum(each <= objective.seconds for each in ordered) / seconds,
        refused=refused / seconds,
        latency=ordered[min(len(ordered) - 1, int(objective.share * len(ordered)))] if ordered else 0.0,
        rows=sum(batches) / max(1, len(batches)),
    )


def _note(taken: list[float], due: float, _: Future[Arrays]) -> None:
    taken.append(time.perf_counter() - due)


def _send(scheduler: Scheduler, row: Arrays, rate: float, seconds: float) -> tuple[Sequence[float], int]:
    """The seconds from the due time of each call to its answer, and the number of refusals."""
    draws = np.random.default_rng(1)
    began = time.perf_counter()
    due, refused = began, 0
    taken: list[float] = []
    while (due := due + float(draws.exponential(1 / rate))) < began + seconds:
        if (early := due - time.perf_counter()) > 0:
            time.sleep(early)
        try:
            future = scheduler.call(row)
        except QueueFull:
            refused += 1
        else:
            future.add_done_callback(partial(_note, taken, due))
    scheduler.close()
    return taken, refused
