"""What a batcher with a latency objective has estimated and chosen, and why, for logs and pages."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

from headrace_batching.latency.run_times import Curve
from headrace_batching.latency.target import Target
from headrace_batching.objective import LatencyObjective


@dataclass(frozen=True, slots=True, kw_only=True)
class Beliefs:
    """The estimates for one queue at one time, and the choices that follow from them. Times are in seconds.

    Attributes:
        objective: The latency objective that the queue has been given.
        target: The wait, the size and the admission that the queue uses to meet the objective.
        reason: The reason for the target, in a sentence or two.
        kept_within_reach: Whether a single request can be answered in time.
        aimed: The time from arrival to answer that the plan aims at.
        curve: The estimated run times by batch size; None if nothing has run yet.
        threads: The number of batches that run at the same time.
        rows_per_second: The number of rows per second that arrive and are accepted.
        rows_per_batch: The mean number of rows of the last batches.
        refused: The number of tasks refused because of the objective, since the start.
        busy: The share of the threads' time in which they ran batches.
        latency: The time from arrival to answer at the objective's percentile, for the last answers.
        late: The share of the last answers that took longer than the objective.
        runs: The number of batches learned from, since the start.
    """

    objective: LatencyObjective
    target: Target
    reason: str
    kept_within_reach: bool = True
    aimed: float = 0.0
    curve: Curve | None = None
    threads: int = 1
    rows_per_second: float = 0.0
    rows_per_batch: float = 0.0
    refused: int = 0
    busy: float = 0.0
    latency: float = 0.0
    late: float = 0.0
    runs: int = 0

    def document(self) -> dict[str, Any]:
        """The beliefs as a dictionary for JSON; a value is in milliseconds if its name ends in `_ms`."""
        curve, start_within = self.curve, self.target.start_within
        return {
            "objective": self.objective.text,
            "objective_ms": _ms(self.objective.seconds),
            "reason": self.reason,
            "within_reach": self.kept_within_reach,
            "chosen": {
                "wait_ms": _ms(self.target.wait),
                "batch_size": self.target.size,
                "start_within_ms": _ms(start_within) if isfinite(start_within) else None,
            },
            "aimed_ms": _ms(self.aimed),
            "latency_ms": _ms(self.latency),
            "late_share": round(self.late, 5),
            "rows_per_second": round(self.rows_per_second, 1),
            "rows_per_batch": round(self.rows_per_batch, 2),
            "busy_share": round(self.busy, 3),
            "threads": self.threads,
            "refused": self.refused,
            "runs": self.runs,
            "run_times": []
            if curve is None
            else [
                {"batch_size": round(size, 1), "typical_ms": _ms(typical), "high_ms": _ms(high)}
                for size, typical, high in zip(curve.sizes, curve.typical, curve.high, strict=True)
            ],
        }

    def __str__(self) -> str:
        chosen = f"batches of up to {self.target.size} rows, wait {_ms(self.target.wait):g} ms"
        return f"{self.objective.text}: {chosen}: {self.reason}"


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
