"""The size with which a batch is full, and how long one may wait, for an objective: pure functions of what is known."""

from dataclasses import dataclass

from headrace_batching.latency.run_times import Curve

_NEARLY = 0.99
"""Of the best rate of rows, what is as good: the smallest size that reaches it is taken."""

_OUT_OF_REACH = 2.5
"""Where a single row runs for longer than the objective allows, what is aimed at instead: so many of its runs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows.

    Attributes:
        sizes: Batch sizes that may be chosen, increasing.
        threads: Batches that run at once.
    """

    sizes: tuple[int, ...]
    threads: int


def candidate_sizes(most: int, allowed: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The sizes that are considered: those allowed, or all up to 8 and eight in each doubling beyond.

    Args:
        most: Rows that a batch may have.
        allowed: The sizes that batches are padded to; empty for none.
    """
    if allowed:
        return tuple(size for size in allowed if size <= most) or (most,)
    sizes = []
    size = 1
    while size < most:
        sizes.append(size)
        size += max(1, 1 << max(0, size.bit_length() - 4))
    return (*sizes, most)


def within_reach(curve: Curve, seconds: float, limits: Limits) -> bool:
    """Whether a batch of the smallest size, for which a thread is idle, ends in time."""
    return curve.high_of(limits.sizes[0]) <= seconds


def aimed(curve: Curve, seconds: float, limits: Limits) -> float:
    """The time that is aimed at: the one wished for or, where no request could keep it, the nearest one."""
    if within_reach(curve, seconds, limits):
        return seconds
    return _OUT_OF_REACH * curve.high_of(limits.sizes[0])


def full_size(curve: Curve, seconds: float, limits: Limits) -> int:
    """The size that serves most rows a second among those whose batches end in time even when all threads are busy.

    The next thread is free after a typical run divided by the threads, and then the batch itself runs. So the queue
    may always hold the next batch.

    Args:
        curve: Run times.
        seconds: From a task's arrival to its answer.
        limits: What is allowed.
    """
    fitting = [size for size in limits.sizes if _ends_after(curve, size, limits) <= seconds]
    if not fitting:
        return limits.sizes[0]
    best = max(map(curve.rate_of, fitting))
    return next(size for size in fitting if curve.rate_of(size) >= _NEARLY * best)


def longest_wait(curve: Curve, seconds: float, rows: float, limits: Limits) -> float:
    """How long a batch that will have so many rows may wait for them, in seconds."""
    return max(0.0, seconds - _ends_after(curve, rows, limits))


def _ends_after(curve: Curve, rows: float, limits: Limits) -> float:
    return curve.high_of(rows) + curve.typical_of(rows) / limits.threads
