"""Chooses the batch size and the wait for an objective, in pure functions of the estimates."""

from dataclasses import dataclass

from headrace_batching.latency.run_times import Curve

_NEARLY = 0.99
"""Sizes that reach this fraction of the best rows per second count as equally good: the smallest of them is taken."""

_HARDLY = 1.1
"""If no size fits, sizes that take at most this many times as long as the smallest one are considered."""

_FULL = 0.75
"""Batches with at least this fraction of a full batch's rows on average are assumed to leave because they are full.
"""

_OUT_OF_REACH = 2.5
"""If a single row runs longer than the objective allows, the time to aim at is this many times its run time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that the operator has set.

    Attributes:
        sizes: The batch sizes to choose from, increasing.
        threads: The number of batches that run at the same time.
    """

    sizes: tuple[int, ...]
    threads: int


def candidate_sizes(most: int, allowed: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The sizes to consider: the allowed ones, or else all sizes up to 8, and eight in each doubling above that.

    Args:
        most: The maximum number of rows of a batch.
        allowed: The sizes that batches are padded to; empty if there are none.
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
    """Whether a batch of the smallest size ends within `seconds` if a thread is free to run it at once."""
    return curve.high_of(limits.sizes[0]) <= seconds


def aimed(curve: Curve, seconds: float, limits: Limits) -> float:
    """The time to aim at: the objective's or, if no request could meet that, the nearest possible."""
    if within_reach(curve, seconds, limits):
        return seconds
    return _OUT_OF_REACH * curve.high_of(limits.sizes[0])


def full_size(curve: Curve, seconds: float, limits: Limits) -> int:
    """The size that serves the most rows per second among those whose batches end in time even if all threads are busy.

    The next thread becomes free after a typical run time divided by the number of threads, and then the batch itself
    runs. So one full batch may always be waiting. If not even the smallest size fits, the sizes that take hardly longer
    are considered.

    Args:
        curve: The estimated run times by batch size.
        seconds: The time from a task's arrival to its answer.
        limits: The operator's limits.
    """
    within = max(seconds, _HARDLY * _ends_after(curve, limits.sizes[0], limits))
    fitting = [size for size in limits.sizes if _ends_after(curve, size, limits) <= within]
    best = max(map(curve.rate_of, fitting))
    return next(size for size in fitting if curve.rate_of(size) >= _NEARLY * best)


def size_to_try(curve: Curve, size: int, rows: float, seconds: float, limits: Limits) -> int:
    """The next size above those that have run, if no run so far rules it out; otherwise the chosen size.

    The run times of larger sizes are guessed cautiously. If a model's runs take 40 ms regardless of their size, the
    guess for two rows is 70 ms, which may rule out two rows forever: only a run corrects the guess. So a queue that
    refuses tasks tries a larger size. A size that then turns out to be too slow is not chosen again.

    Args:
        curve: The estimated run times by batch size.
        size: The size that `full_size` has chosen.
        rows: The mean number of rows of the last batches. If these are not full, a larger size would not help the tasks
            that wait.
        seconds: The time from a task's arrival to its answer, without any margin.
        limits: The operator's limits.
    """
    largest = curve.sizes[-1]
    typical = curve.typical_of(largest)
    if size < largest or rows < _FULL * size or typical + typical / limits.threads > seconds:
        return size
    return max(size, next((each for each in limits.sizes if each > largest), size))


def longest_wait(curve: Curve, seconds: float, rows: float, limits: Limits) -> float:
    """The longest wait, in seconds, after which a batch of this many rows would still end in time."""
    return max(0.0, seconds - _ends_after(curve, rows, limits))


def _ends_after(curve: Curve, rows: float, limits: Limits) -> float:
    return curve.high_of(rows) + curve.typical_of(rows) / limits.threads
