"""Finds how long a batch should wait: as long as the rows that arrive meanwhile save enough of the threads' time."""

from dataclasses import dataclass

from headrace_batching.latency.run_times import Curve

_STEPS = 32
"""The first wait to try is the objective's time divided by this; each next one is twice as long."""

_WORTH = 0.02
"""The fraction of the threads' time that the second half of a wait must save to be worthwhile."""

_ENOUGH = 16
"""The number of batches that must have waited before the wait is judged."""

_LONGEST_PAUSE = 64
"""The maximum number of evaluations without another trial after trials have failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The events since the last evaluation.

    Attributes:
        rows_per_second: The number of rows that arrived per second.
        rows_per_task: The mean number of rows of a request.
        rows_per_batch: The mean number of rows of a batch.
        waited: The number of batches that left because of the wait, not because a thread became free.
        rows_of_waited: The mean number of rows of these batches.
        late_rows: How many of these rows, on average, arrived in the second half of the wait.
        refusing: Whether tasks were refused because they could not be answered in time.
    """

    rows_per_second: float = 0.0
    rows_per_task: float = 1.0
    rows_per_batch: float = 1.0
    waited: int = 0
    rows_of_waited: float = 0.0
    late_rows: float = 0.0
    refusing: bool = False


class WaitSearch:
    """Searches for the wait: starts with none, doubles it, and halves it if its second half brings too few rows.

    A caller that waits for its answer before it calls again sends nothing meanwhile, however many calls per second it
    makes. So a wait is judged by what arrived in it, not by a rate.

    Args:
        seconds: The time within which the objective wants answers, in seconds.
        threads: The number of batches that run at the same time.
    """

    def __init__(self, seconds: float, threads: int) -> None:
        self._first = seconds / _STEPS
        self._threads = threads
        self._wait = 0.0
        self._pause = 0
        self._next_pause = 1

    @property
    def wait(self) -> float:
        """The current wait in seconds, ignoring any limit."""
        return self._wait

    def look(self, curve: Curve, seen: Seen, longest: float) -> float:
        """Returns the wait to use from now on.

        Args:
            curve: The estimated run times by batch size.
            seen: The events since the last call.
            longest: The longest wait that leaves time for a run.
        """
        if self._wait:
            self._judge(curve, seen)
        elif self._pause:
            self._pause -= 1
        else:
            self._wait = self._trial(curve, seen, longest)
        self._wait = min(self._wait, longest) if longest >= self._first else 0.0
        return self._wait

    def _trial(self, curve: Curve, seen: Seen, longest: float) -> float:
        """The first wait that makes batches clearly larger, if the longest wait would be worthwhile."""

        def rows_after(wait: float) -> float:
            return seen.rows_per_task + seen.rows_per_second * wait

        if seen.refusing:
            return longest  # a batch that leaves half full wastes capacity that the refused tasks needed
        if self._saved(curve, seen, seen.rows_per_batch, rows_after(longest)) < _WORTH:
            return 0.0
        wait = self._first
        while rows_after(wait) < 1.5 * seen.rows_per_batch and wait < longest:
            wait *= 2
        return wait

    def _judge(self, curve: Curve, seen: Seen) -> None:
        if seen.waited < _ENOUGH:
            return
        saved = self._saved(curve, seen, seen.rows_of_waited - seen.late_rows, seen.rows_of_waited)
        if saved >= _WORTH:
            self._wait *= 2
            self._next_pause = 1
        elif saved < _WORTH / 4:
            self._wait /= 2
            if self._wait < self._first:
                self._wait = 0.0
                self._pause = self._next_pause
                self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)

    def _saved(self, curve: Curve, seen: Seen, few: float, many: float) -> float:
        """The fraction of the threads' time that batches of `many` rows save compared with those of `few`."""
        few, many = max(few, 1.0), max(many, 1.0)
        if many <= few:
            return 0.0
        per_row = curve.typical_of(few) / few - curve.typical_of(many) / many
        return seen.rows_per_second * per_row / self._threads
