"""Runs a queue on a virtual clock: tasks arrive at given times, and a model says how long runs take."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace_batching import BatchReport, Options, QueueFull, Task
from headrace_batching.latency.beliefs import Beliefs
from headrace_batching.latency.controller import Controller
from headrace_batching.queue import Formed, Queue
from tests.support.latency.arrivals import Array, Arrivals


@dataclass(frozen=True, slots=True)
class Model:
    """How long a batch runs: `fixed` seconds and `per_row` for each row, with some noise and rare stalls.

    Attributes:
        fixed: The seconds of any run.
        per_row: The seconds per row.
        noise: The standard deviation of the logarithm of a run's time.
        stalls: The share of runs that take four times as long.
        threads: The number of batches that run at once.
    """

    fixed: float = 0.020
    per_row: float = 0.002
    noise: float = 0.05
    stalls: float = 0.001
    threads: int = 2

    def capacity(self, seconds: float) -> float:
        """The rows per second with the largest batch that fits into these seconds, including the wait for a thread."""
        rows = (seconds / (1 + 1 / self.threads) - self.fixed) / self.per_row
        return self.threads * rows / (self.fixed + self.per_row * rows)

    def seconds(self, rows: int, rng: np.random.Generator) -> float:
        """The seconds of one run."""
        typical = self.fixed + self.per_row * rows
        return float(typical * np.exp(rng.normal(0.0, self.noise)) * (4.0 if rng.random() < self.stalls else 1.0))


@dataclass(slots=True)
class Outcome:
    """The outcome of a trace.

    Attributes:
        offered: The number of requests.
        latencies: The seconds from arrival to answer, of the answered requests.
        busy: The seconds that runs have taken, over all threads.
        batches: The number of runs.
        beliefs: The batcher's estimates, recorded from time to time; empty without an objective.
    """

    offered: int
    latencies: list[float] = field(default_factory=list)
    busy: float = 0.0
    batches: int = 0
    beliefs: list[tuple[float, Beliefs]] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)

    def good(self, seconds: float) -> int:
        """The number of requests answered within these seconds."""
        return int((np.array(self.latencies) <= seconds).sum())

    def percentile(self, share: float) -> float:
        """A percentile of the latencies."""
        return float(np.quantile(self.latencies, share)) if self.latencies else 0.0


class Simulation:
    """One queue with one lane, and its threads, on a virtual clock.

    Args:
        model: How long runs take.
        options: The batching options; with a latency objective, or fixed.
        seed: The seed of the runs' times.
    """

    def __init__(self, model: Model, options: Options, seed: int = 1) -> None:
        self.now = 0.0
        self._model = model
        self._rng = np.random.default_rng(seed)
        self._queue = Queue(lambda: self.now)
        self._lane = self._queue.lane(options, lambda _: None)
        self._idle = model.threads
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._wake = float("inf")
        self._slow_until = 0.0
        self._stalls: tuple[tuple[float, float], ...] = ()
        objective = options.objective
        self._controller = None if objective is None else Controller(objective, options)
        if self._controller is not None:
            self._controller.start(self._lane)

    def run(self, arrivals: Arrivals) -> Outcome:
        """Sends the requests, and runs until everything has ended."""
        outcome = Outcome(len(arrivals.times))
        self._slow_until, self._stalls = arrivals.slow_start, arrivals.stalls
        for time, rows in zip(_floats(arrivals.times), _ints(arrivals.rows), strict=True):
            self._until(time, outcome)
            self.now = time
            self._arrive(rows, outcome)
        self._until(float("inf"), outcome)
        return outcome

    def _until(self, time: float, outcome: Outcome) -> None:
        while self._events and self._events[0][0] <= time:
            self.now, _, happens = heapq.heappop(self._events)
            happens()
            self._dispatch(outcome)

    def _at(self, time: float, happens: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, happens))

    def _arrive(self, rows: int, outcome: Outcome) -> None:
        try:
            self._lane.put(Task({}, lambda _: None, rows=rows))
        except QueueFull:
            return
        self._dispatch(outcome)

    def _dispatch(self, outcome: Outcome) -> None:
        while self._idle:
            with self._queue.lock:
                turn = self._queue.turn(self.now)
            if turn.formed is None:
                if self.now < turn.wake < self._wake:
                    self._wake = turn.wake
                    self._at(turn.wake, self._woken)
                return
            self._idle -= 1
            self._begin(turn.formed, outcome)

    def _woken(self) -> None:
        self._wake = float("inf")

    def _begin(self, formed: Formed, outcome: Outcome) -> None:
        batch, began = formed.batch, self.now
        slow = 5.0 if began < self._slow_until else 1.0
        ran = self._stalled(began, slow * self._model.seconds(batch.padded, self._rng))
        outcome.busy += ran
        outcome.batches += 1

        def end() -> None:
            self._idle += 1
            self._lane.finish()
            outcome.latencies.extend(self.now - arrival for arrival in batch.arrivals)
            outcome.answered_at.extend(batch.arrivals)
            self._report(BatchReport(len(batch), batch.rows, batch.padded - batch.rows, began, ran, False,
                                     batch.arrivals, batch.sizes), outcome)  # fmt: skip

        self._at(began + ran, end)

    def _stalled(self, began: float, ran: float) -> float:
        """A run's seconds including the pauses in it."""
        for at, seconds in self._stalls:
            if began < at + seconds and at < began + ran:
                ran += at + seconds - max(began, at)
        return ran

    def _report(self, report: BatchReport, outcome: Outcome) -> None:
        if self._controller is None:
            return
        before = self._controller.beliefs
        self._controller.observe(report, self._lane)
        if self._controller.beliefs is not before:
            outcome.beliefs.append((self.now, self._controller.beliefs))


def _floats(values: Array) -> Sequence[float]:
    return [float(value) for value in values]


def _ints(values: Array) -> Sequence[int]:
    return [int(value) for value in values]
