"""How many replicas a load needs, from the metrics of those that there are. Needs no Ray."""

import math
import re
from collections.abc import Collection

WAITING = "headrace_queue_rows_per_busy_thread"
"""The gauge that rises before latency does; `/metrics` has it for each model."""


def waiting_rows(page: bytes) -> float:
    """The highest value of WAITING on a page of metrics, over all models; 0 where none has run."""
    found = re.findall(rf"^{WAITING}(?:\{{[^}}]*\}})? (\S+)$", page.decode(), re.MULTILINE)
    return max(map(float, found), default=0.0)


def replicas_for(current: int, waiting: Collection[float], *, target: float, least: int, most: int) -> int:
    """The number of replicas that brings the waiting rows per busy thread to a target.

    Args:
        current: Replicas that run.
        waiting: What each of them has waiting per busy thread.
        target: What each may have waiting. Between half of it and all of it, nothing changes.
        least: Replicas to keep.
        most: Replicas to have at most.
    """
    if not waiting:
        return min(max(current, least), most)
    mean = sum(waiting) / len(waiting)
    wanted = current
    if mean > target:
        wanted = math.ceil(current * mean / target)
    elif mean < target / 2:
        wanted = current - 1
    return min(max(wanted, least), most)
