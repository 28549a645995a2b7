"""The reports of many runs as columns: an array for each field of a report, so that counting needs no Python loop."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_batching import BatchReport

Seconds = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_HALF = 32
"""Half of the bits of a count: a run has fewer than 2**31 rows."""


@dataclass(frozen=True, slots=True)
class RunColumns:
    """The numbers of several runs, as in `BatchReport`.

    Attributes:
        tasks: The number of requests in each run, [runs].
        rows: The number of rows in each run, [runs].
        padding: The number of rows that were added to each run as padding, [runs].
        ran: The duration of each run in seconds, [runs].
        parts: How many of these seconds went into inputs, backend and outputs, [runs, 3].
        ended: When the last of the runs ended, in seconds on the queue's clock.
        waited: The seconds that each request waited in the queue, [requests], run by run.
        sizes: The number of rows in each request, in the same order, [requests].
    """

    tasks: Counts
    rows: Counts
    padding: Counts
    ran: Seconds
    parts: Seconds
    ended: float
    waited: Seconds
    sizes: Counts

    @classmethod
    def of(cls, reports: Sequence[BatchReport]) -> "RunColumns":
        """The columns for one or more reports."""
        tasks, rows, padding, begins, ran, _, arrivals, sizes, joined, computed, _ = zip(*reports, strict=True)
        began, took = _seconds(begins), _seconds(ran)
        waited = np.repeat(began, _counts(map(len, arrivals))) - _joined(arrivals, "d")
        return cls(
            *(_counts(tasks), _counts(rows), _counts(padding)),
            took,
            _parts(took, _seconds(joined), _seconds(computed)),
            float((began + took).max()),
            waited,
            _joined(sizes, "q"),
        )

    @classmethod
    def of_native(cls, times: bytes, tasks: bytes, padded: bytes, arrivals: bytes, sizes: bytes) -> "RunColumns":
        """The columns for one or more runs without the interpreter.

        Args:
            times: When each run began, when its inputs and its outputs were ready, and when it ended, in seconds on the
                queue's clock.
            tasks: The number of requests in each run.
            padded: The number of rows in each run, padding included.
            arrivals: When each request arrived, on the same clock.
            sizes: The number of rows in each request.
        """
        began, joined, computed, ended = np.frombuffer(times).reshape(-1, 4).T
        requests, rows_of_each = np.frombuffer(tasks, np.int64), np.frombuffer(sizes, np.int64)
        rows = np.add.reduceat(rows_of_each, requests.cumsum() - requests)
        return cls(
            *(requests, rows, np.frombuffer(padded, np.int64) - rows),
            ended - began,
            _parts(ended - began, joined - began, computed - joined),
            float(ended.max()),
            np.repeat(began, requests) - np.frombuffer(arrivals),
            rows_of_each,
        )

    def __len__(self) -> int:
        return len(self.tasks)

    def padded(self) -> Iterator[tuple[int, int, int]]:
        """For each number of rows, padding included, and number of rows of padding: how many runs had them."""
        pairs, runs = np.unique((self.rows + self.padding) << _HALF | self.padding, return_counts=True)
        for pair, count in zip(pairs.tolist(), runs.tolist(), strict=True):
            yield pair >> _HALF, pair & (1 << _HALF) - 1, count


def _parts(ran: Seconds, joined: Seconds, computed: Seconds) -> Seconds:
    return np.column_stack((joined, computed, ran - joined - computed))


def _joined(parts: Iterable[Iterable[float]], code: str) -> npt.NDArray[Any]:
    """The numbers of all parts in one array; `code` is their type code. Parts that are arrays are copied at once."""
    whole: array[float] = array(code)
    for part in parts:
        whole.extend(part)
    return np.frombuffer(whole, code)


def _counts(values: Iterable[int]) -> Counts:
    return np.fromiter(values, np.int64)


def _seconds(values: Iterable[float]) -> Seconds:
    return np.fromiter(values, np.float64)
