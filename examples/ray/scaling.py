"""Computes how many replicas a load needs from the metrics of the current replicas. Does not need Ray."""

import math
import re
from collections.abc import Collection

WAITING = "headrace_queue_rows_per_busy_thread"
"""The gauge that rises before latency does; `/metrics` has it for each model."""


def waiting_rows(page: bytes) -> float:
    """The highest value of WAITING on a page of metrics, over all models; 0 if no model has run."""
    found = re.findall(rf"^{WAITING}(?:\{{[^}}]*\}})? (\S+)$", page.decode(), re.MULTILINE)
    return max(map(float, found), default=0.0)


def replicas_for(current: int, waiting: Collection[float], *, target: float, least: int, most: int) -> int:
    """The number of replicas that brings the waiting rows per busy thread to a target.

    Args:
        current: The number of running replicas.
        waiting: The number of waiting rows per busy thread, for each of these replicas.
        target: The number of rows that may wait per busy thread. Between half of it and all of it, nothing changes.
        least: The smallest number of replicas.
        most: The largest number of replicas.
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
