"""Compares a latency objective with a sweep of fixed settings, trace by trace, on a virtual clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from headrace_batching import Options
from tests.support.latency.arrivals import Arrivals
from tests.support.latency.simulation import Model, Outcome, Simulation

SIZES = (4, 8, 16, 24, 32, 48, 64)
TIMEOUTS = (0, 5_000, 20_000, 60_000)
WAITING = (1, 2, 10)


@dataclass(frozen=True, slots=True, order=True)
class Fixed:
    """A fixed setting, by TF Serving's parameters.

    Attributes:
        size: `max_batch_size`.
        timeout: `batch_timeout_micros`.
        waiting: `max_enqueued_batches`.
    """

    size: int
    timeout: int
    waiting: int

    def options(self, threads: int) -> Options:
        """The setting as a scheduler's options."""
        return Options(
            max_batch_size=self.size,
            batch_timeout_micros=self.timeout,
            max_enqueued_batches=self.waiting,
            num_batch_threads=threads,
        )

    def __str__(self) -> str:
        return f"{self.size} rows, {self.timeout / 1000:g} ms, {self.waiting} waiting"


EVERY_SETTING = tuple(Fixed(*values) for values in product(SIZES, TIMEOUTS, WAITING))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of one trace.

    Attributes:
        arrivals: The trace.
        seconds: The objective in seconds.
        kept: The outcome with the objective.
        fixed: The number of requests answered in time with each fixed setting.
        outcomes: The outcome of each fixed setting.
    """

    arrivals: Arrivals
    seconds: float
    kept: Outcome
    fixed: dict[Fixed, int]
    outcomes: dict[Fixed, Outcome]

    @property
    def good(self) -> int:
        """The number of requests answered in time with the objective."""
        return self.kept.good(self.seconds)

    @property
    def best(self) -> Fixed:
        """The fixed setting that answered the most in time."""
        return max(self.fixed, key=lambda setting: self.fixed[setting])

    @property
    def ratio(self) -> float:
        """The number answered in time with the objective, divided by that of the best fixed setting."""
        return self.good / max(1, self.fixed[self.best])


def compare(model: Model, objective: str, arrivals: Arrivals, settings: Sequence[Fixed], seed: int = 1) -> Comparison:
    """Runs one trace with an objective, and with each fixed setting."""
    options = Options(max_batch_size=256, latency_objective=objective, num_batch_threads=model.threads)
    parsed = options.objective
    assert parsed is not None
    outcomes = {each: Simulation(model, each.options(model.threads), seed).run(arrivals) for each in settings}
    fixed = {each: outcome.good(parsed.seconds) for each, outcome in outcomes.items()}
    kept = Simulation(model, options, seed).run(arrivals)
    return Comparison(arrivals, parsed.seconds, kept, fixed, outcomes)


def best_over_all(comparisons: Iterable[Comparison]) -> tuple[Fixed, int]:
    """The fixed setting that answered the most requests in time over all traces, and their number."""
    totals: dict[Fixed, int] = {}
    for comparison in comparisons:
        for setting, good in comparison.fixed.items():
            totals[setting] = totals.get(setting, 0) + good
    best = max(totals, key=lambda setting: totals[setting])
    return best, totals[best]
