"""How often a version was called, and where the time went: the statistics of the Open Inference Protocol.

Triton's infer_stats.cc defines what each number counts. Times are summed by run, not by request, so that counting costs
a request nothing.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np

from headrace_server.metrics.runs import Counts, RunColumns

NANOSECONDS = 1e9

SIZES_KEPT = 1000
"""The maximum number of sizes that are counted separately; without batching, callers choose the sizes."""


@dataclass(slots=True)
class Spent:
    """How often something was done, and how many nanoseconds it took in total."""

    count: int = 0
    nanoseconds: int = 0

    def add(self, count: int, nanoseconds: int) -> None:
        """Adds to the count and the total."""
        self.count += count
        self.nanoseconds += nanoseconds


@dataclass(slots=True)
class Computing:
    """The times of the three parts of runs: joining inputs, running the model, splitting outputs."""

    inputs: Spent = field(default_factory=Spent)
    model: Spent = field(default_factory=Spent)
    outputs: Spent = field(default_factory=Spent)

    def add(self, count: int, inputs: int, model: int, outputs: int) -> None:
        """Adds to each part; the nanoseconds are sums."""
        self.inputs.add(count, inputs)
        self.model.add(count, model)
        self.outputs.add(count, outputs)


@dataclass(slots=True)
class Inferences:
    """The counts of one version's requests and batches.

    Attributes:
        rows: The number of rows answered; a request without a batch axis is one.
        runs: The number of runs that did not fail.
        last: When the last run ended, in seconds since 1970; 0 if there was none.
        success: The number of answered requests, and their time from the arrival in the queue to the end of the run.
        fail: The number of requests that failed after they had been accepted, and their time from the arrival to the
            failure.
        queue: The number of answered requests, and their time from the arrival to the beginning of the run.
        computing: The number of answered requests, and the times of the parts of their runs; each request counts the
            whole time of its run.
        by_rows: The number of runs and the times of their parts, by the number of rows; each run counts once. If there
            are more than `SIZES_KEPT` numbers of rows, the one that occurred first is dropped.
    """

    rows: int = 0
    runs: int = 0
    last: float = 0.0
    success: Spent = field(default_factory=Spent)
    fail: Spent = field(default_factory=Spent)
    queue: Spent = field(default_factory=Spent)
    computing: Computing = field(default_factory=Computing)
    by_rows: dict[int, Computing] = field(default_factory=dict)


class InferenceCounts:
    """Counts what one version does. Any thread."""

    def __init__(self) -> None:
        self._counted = Inferences()
        self._ended = -math.inf  # when the last run ended, in seconds on the monotonic clock
        self._lock = Lock()

    @property
    def counted(self) -> Inferences:
        """The counts so far. `by_rows` is a copy, which may be iterated over while further runs are counted."""
        with self._lock:
            return replace(self._counted, by_rows=dict(self._counted.by_rows))

    def add(self, runs: RunColumns, waited: float) -> None:
        """Counts runs that have not failed.

        Args:
            runs: The runs; there is at least one.
            waited: The total of seconds that their requests waited in the queue.
        """
        tasks, rows = runs.tasks, runs.rows
        parts = (runs.parts * NANOSECONDS).astype(np.int64)
        with self._lock:
            counted, requests = self._counted, int(tasks.sum())
            counted.rows += int(rows.sum())
            counted.runs += len(runs)
            self._ended_at(runs.ended)
            queued, charged = round(waited * NANOSECONDS), (tasks @ parts).tolist()
            counted.queue.add(requests, queued)
            counted.computing.add(requests, *charged)
            counted.success.add(requests, queued + sum(charged))
            for size, runs_of_it, spent in _by_size(rows, parts):
                self._of_size(size).add(runs_of_it, *spent)

    def ran_alone(self, seconds: float) -> None:
        """Counts a request that was answered without a queue: one run of one row."""
        spent = round(seconds * NANOSECONDS)
        with self._lock:
            counted = self._counted
            counted.rows += 1
            counted.runs += 1
            self._ended_at(time.monotonic())
            counted.queue.add(1, 0)
            counted.success.add(1, spent)
            for computing in (counted.computing, self._of_size(1)):
                computing.add(1, 0, spent, 0)

    def failed(self, seconds: float = 0.0) -> None:
        """Counts a request that failed after it had been accepted, in the queue or in its run.

        Args:
            seconds: The time from the request's arrival to its failure, if known.
        """
        with self._lock:
            self._counted.fail.add(1, round(seconds * NANOSECONDS))

    def _ended_at(self, seconds: float) -> None:
        """Records the latest end of a run: runs are not counted in the order in which they end. Under the lock."""
        self._ended = max(self._ended, seconds)
        self._counted.last = time.time() - (time.monotonic() - self._ended)

    def _of_size(self, rows: int) -> Computing:
        """The runs of this many rows; a new number replaces the oldest if there are too many. Under the lock."""
        by_rows = self._counted.by_rows
        if (computing := by_rows.get(rows)) is None:
            if len(by_rows) >= SIZES_KEPT:
                del by_rows[next(iter(by_rows))]
            computing = by_rows[rows] = Computing()
        return computing


def _by_size(rows: Counts, parts: Counts) -> Iterable[tuple[int, int, list[int]]]:
    """For each number of rows that runs had: the number of such runs, and the sum of each of their parts.

    Args:
        rows: The number of rows of each run; at least one run.
        parts: How long each part of each run took, in nanoseconds; of shape [runs, parts].
    """
    order = np.argsort(rows)
    sizes, begins, runs = np.unique(rows[order], return_index=True, return_counts=True)
    return zip(sizes.tolist(), runs.tolist(), np.add.reduceat(parts[order], begins).tolist(), strict=True)
