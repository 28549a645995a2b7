"""Learns from a queue's runs, and several times per second sets the queue's wait, size and admission."""

import logging
from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from headrace_batching.latency.beliefs import Beliefs
from headrace_batching.latency.choice import (
    Limits,
    aimed,
    candidate_sizes,
    full_size,
    longest_wait,
    size_to_try,
    within_reach,
)
from headrace_batching.latency.margin import Margin
from headrace_batching.latency.run_times import Curve, RunTimes, quantile
from headrace_batching.latency.target import Target
from headrace_batching.latency.wait_search import Seen, WaitSearch
from headrace_batching.objective import LatencyObjective
from headrace_batching.options import Options
from headrace_batching.report import BatchReport

log = logging.getLogger(__name__)

PERIOD = 0.25
"""Seconds between two evaluations."""

_FIRST_RUNS = 32
"""The first runs, up to this many, are evaluated one by one, so that a newly loaded model is known soon."""

_SAMPLED = 64
"""An evaluation examines the arrivals of at most this many batches individually: those of the last ones."""

_ON_TIME = 1.5
"""If a batch left after at most this multiple of the chosen wait, the wait is assumed to be the reason."""

_SMOOTHING = 0.5


class Steered(Protocol):
    """A queue's lane that can be steered."""

    def steer(self, target: Target) -> None:
        """Sets the target by which batches are formed and tasks accepted from now on."""

    @property
    def shed(self) -> int:
        """The number of tasks that were refused because they could not be answered in time."""


@dataclass(slots=True)
class _Counted:
    """Sums since the last evaluation."""

    runs: list[tuple[int, float]] = field(default_factory=list)
    sampled: deque[BatchReport] = field(default_factory=lambda: deque(maxlen=_SAMPLED))
    rows: int = 0
    tasks: int = 0
    ran: float = 0.0
    refused: int = 0


class Controller:
    """Steers one lane towards a latency objective, on the clock of the lane's reports.

    Args:
        objective: The latency objective that the lane should meet.
        options: The operator's limits: the largest size, the sizes to which batches are padded, and the number of
            batches that run at the same time.
        name: The name for the log.

    Attributes:
        beliefs: The current beliefs. Any thread.
    """

    def __init__(self, objective: LatencyObjective, options: Options, name: str = "") -> None:
        threads = options.batches_at_once
        self._objective = objective
        self._name = name
        self._limits = Limits(candidate_sizes(options.execution_limit, options.allowed_batch_sizes), threads)
        self._times = RunTimes(objective.share)
        self._search = WaitSearch(objective.seconds, threads)
        self._margin = Margin(objective.share)
        self._counted = _Counted()
        self._lock = Lock()
        self._runs = 0
        self._last_look: float | None = None
        self._rate = 0.0
        self._latency = 0.0
        first = Target(wait=0.0, size=self._limits.sizes[0])
        self.beliefs = Beliefs(
            objective=objective, target=first, reason="nothing has run yet", threads=threads, aimed=objective.seconds
        )

    def start(self, lane: Steered) -> None:
        """Gives the lane the target that applies until something has run."""
        lane.steer(self.beliefs.target)

    def observe(self, report: BatchReport, lane: Steered) -> None:
        """Records a run, and evaluates the runs since the last evaluation if the next one is due. Any thread."""
        if report.failed:
            return
        size = report.rows + report.padding
        with self._lock:
            counted = self._counted
            counted.runs.append((size, report.ran))
            counted.sampled.append(report)
            counted.rows += report.rows
            counted.tasks += report.tasks
            counted.ran += report.ran
            self._runs += 1
            now = report.began + report.ran
            due = self._last_look is None or now >= self._last_look + PERIOD
            if due or self._runs <= _FIRST_RUNS or not self._times.knows(size):
                self._look(now, lane)

    def _look(self, now: float, lane: Steered) -> None:
        counted, self._counted = self._counted, _Counted()
        elapsed = max(now - self._last_look, 1e-6) if self._last_look is not None else PERIOD
        self._last_look = now
        refused = lane.shed
        counted.refused = refused - self.beliefs.refused
        self._times.learn(counted.runs, now, refusing_most=counted.refused > counted.tasks)
        curve = self._times.curve
        if curve is None:
            return
        self._count_late(counted, now)
        weight = min(1.0, _SMOOTHING * elapsed / PERIOD)  # the rate in a short interval is less certain
        self._rate += (counted.rows / elapsed - self._rate) * weight
        before = self.beliefs
        self.beliefs = self._choose(curve, self._seen(counted), refused, counted.ran / elapsed)
        if self.beliefs.target != before.target:
            lane.steer(self.beliefs.target)
        if _differs(self.beliefs.target, before.target):
            log.debug("%s%s", self._name and f"{self._name}: ", self.beliefs)

    def _choose(self, curve: Curve, seen: Seen, refused: int, busy: float) -> Beliefs:
        limits, whole = self._limits, self._objective.seconds
        reachable = within_reach(curve, whole, limits)
        seconds = aimed(curve, whole, limits)
        if reachable:  # the margin leaves time for one run of the smallest size
            seconds = max(whole * self._margin.part, curve.high_of(limits.sizes[0]))
        full = full_size(curve, seconds, limits)
        size = size_to_try(curve, full, seen.rows_per_batch, whole, limits) if seen.refusing else full
        expected = max(seen.rows_per_batch, seen.rows_per_task + seen.rows_per_second * self._search.wait)
        longest = longest_wait(curve, seconds, min(size, 1.25 * expected), limits)
        wait = self._search.look(curve, seen, longest)
        # The chosen size decides which tasks can be answered in time. A larger size may be tried instead, but such a
        # batch may never become full.
        run_full = curve.typical_of(full)
        target = Target(
            wait=wait,
            size=size,
            start_within=max(0.0, seconds - curve.high_of(full)),
            run_one=min(curve.typical_of(1), run_full),
            run_full=run_full,
        )
        return Beliefs(
            objective=self._objective,
            target=target,
            reason=_reason(curve, target, seconds, limits, reachable=reachable),
            kept_within_reach=reachable,
            aimed=seconds,
            curve=curve,
            threads=limits.threads,
            rows_per_second=self._rate,
            rows_per_batch=seen.rows_per_batch,
            refused=refused,
            busy=min(1.0, busy / limits.threads),
            latency=self._latency,
            late=self._margin.late_share,
            runs=self._runs,
        )

    def _count_late(self, counted: _Counted, now: float) -> None:
        """Counts how many answers of the sampled batches missed the objective, and updates the latency."""
        answers = [(came, report.began + report.ran - came) for report in counted.sampled for came in report.arrivals]
        taken = [seconds for _, seconds in answers]
        if self.beliefs.kept_within_reach:  # otherwise the plan itself expects late answers
            telling = [seconds for came, seconds in answers if came > self._margin.changed]
            self._margin.look(len(telling), sum(seconds > self._objective.seconds for seconds in telling), now)
        newest = quantile(taken, self._objective.share)
        self._latency += (newest - self._latency) * (_SMOOTHING if self._latency else 1.0)

    def _seen(self, counted: _Counted) -> Seen:
        wait = self._search.wait
        waited = [report for report in counted.sampled if wait and report.waited <= _ON_TIME * wait]
        late = 0.0
        for report in waited:
            first = min(report.arrivals)
            middle = first + (report.began - first) / 2
            late += sum(rows for came, rows in zip(report.arrivals, report.sizes, strict=True) if came > middle)
        return Seen(
            rows_per_second=self._rate,
            rows_per_task=counted.rows / counted.tasks,
            rows_per_batch=counted.rows / len(counted.runs),
            waited=len(waited),
            rows_of_waited=sum(report.rows for report in waited) / max(1, len(waited)),
            late_rows=late / max(1, len(waited)),
            refusing=counted.refused > 0,
        )


def _differs(new: Target, old: Target) -> bool:
    """Whether a change is worth a log line: more than a tenth."""
    return any(abs(one - other) > 0.1 * max(one, other) for one, other in zip(new[:2], old[:2], strict=True))


def _reason(curve: Curve, target: Target, seconds: float, limits: Limits, *, reachable: bool) -> str:
    if not reachable:
        least = limits.sizes[0]
        return (
            f"the objective is out of reach: {_batch_of(least)} runs for up to {_duration(curve.high_of(least))}; "
            f"{_duration(seconds)} is the target instead"
        )
    run, wait = curve.high_of(target.size), curve.typical_of(target.size) / limits.threads
    text = (
        f"{_batch_of(target.size)} runs for up to {_duration(run)} and waits about {_duration(wait)} for a thread, "
        f"within the planned {_duration(seconds)}"
    )
    if not target.wait:
        return f"{text}; waiting for more rows would save the threads too little time"
    return f"{text}; waiting for more rows saves the threads' time"


def _batch_of(rows: int) -> str:
    return "a batch of one row" if rows == 1 else f"a batch of {rows} rows"


def _duration(seconds: float) -> str:
    """A duration in the unit that suits it, with three digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
