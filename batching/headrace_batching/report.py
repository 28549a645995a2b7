"""A report on one run of a batch: its tasks and rows, when they arrived, and how long it took."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class BatchReport(NamedTuple):
    """The data of one run of the backend.

    Attributes:
        tasks: The number of requests, or pieces of them, in the batch.
        rows: The number of rows.
        padding: The number of rows added to reach an allowed size.
        began: When the run began, in seconds on the queue's clock.
        ran: Seconds that the run took, joining and splitting included.
        failed: Whether the run raised; the tasks are then run again in halves, or have failed.
        arrivals: When each of the tasks arrived, on the same clock.
        sizes: The number of rows of each of the tasks.
        joined: Seconds of `ran` for joining the inputs.
        computed: Seconds of `ran` in the backend.
        traced: When each of the traced tasks arrived.
    """

    tasks: int
    rows: int
    padding: int
    began: float
    ran: float
    failed: bool
    arrivals: Sequence[float]
    sizes: Sequence[int]
    joined: float = 0.0
    computed: float = 0.0
    traced: Sequence[float] = ()

    @property
    def waited(self) -> float:
        """The seconds that the oldest of the tasks had waited in the queue when the run began."""
        return self.began - min(self.arrivals)


Observe = Callable[[BatchReport], None]
