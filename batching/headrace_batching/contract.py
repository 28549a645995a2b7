"""The protocols of queues, lanes and batches; headrace_native implements them, too."""

from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Protocol

from headrace_batching.batch import Empty
from headrace_batching.latency.target import Target
from headrace_batching.options import Options
from headrace_batching.task import Arrays, Task

Clock = Callable[[], float]
Run = Callable[[Arrays], Arrays]
RunChoice = Callable[[Arrays, Hashable], Arrays]


class TaskBatch(Protocol):
    """Tasks that left a queue together: `batch.Batch`, whose docstrings say more."""

    @property
    def rows(self) -> int:
        """Rows of all its tasks."""

    @property
    def padded(self) -> int:
        """Rows that the backend sees."""

    @property
    def arrivals(self) -> Sequence[float]:
        """When each of its tasks came."""

    @property
    def sizes(self) -> Sequence[int]:
        """Rows of each of its tasks."""

    @property
    def tasks(self) -> Sequence[Task]:
        """Those of its tasks that are Python's."""

    @property
    def choice(self) -> Hashable:
        """What its tasks want beside what their inputs say; None for nothing."""

    is_series: bool
    """Whether it is a `TaskSeries` instead."""

    def __len__(self) -> int: ...

    def join(self, empty: Empty) -> Arrays:
        """One array per input, of `padded` rows."""

    def split(self, outputs: Arrays, lock: Lock) -> list[Task]:
        """Gives every task its rows, and returns those to be delivered: a task may know a way of its own."""

    def fail(self, error: Exception, lock: Lock) -> list[Task]:
        """Gives the error to every task, and returns those to be delivered."""

    def halves(self) -> "tuple[TaskBatch, TaskBatch]":
        """The same tasks in two batches; this one is not used again."""


class TaskSeries(Protocol):
    """Tasks that left a queue together and run one by one, as some of headrace_native's do."""

    def __len__(self) -> int:
        """How many have not run."""

    def run(self, run: Run, run_choice: RunChoice | None, empty: Empty) -> None:
        """Runs and answers each. What one raises is raised, and ends this; those behind it have not run."""

    def take_runs(self) -> Sequence[tuple[float, float, float, float, float]]:
        """The runs that went well and have not been taken.

        When each began, had its inputs, had its outputs and had ended, and when its task came.
        """

    def failed(self) -> tuple[TaskBatch, float]:
        """The task whose run has failed, as a batch, and when that run began."""

    def batches(self) -> list[TaskBatch]:
        """Those that have not run, each as a batch of its own; none is left."""


Execute = Callable[[TaskBatch], None]


class TaskLane(Protocol):
    """One scheduler's part of a queue."""

    @property
    def execute(self) -> Execute:
        """Runs a batch, on a batch thread."""

    @property
    def batched(self) -> bool:
        """Whether axis 0 is the batch."""

    @property
    def rows(self) -> int:
        """Rows that wait."""

    @property
    def shed(self) -> int:
        """Tasks refused because they could not be answered in time."""

    def put(self, task: Task) -> bool:
        """Adds a task; whether a `wake` of the queue is due."""

    def steer(self, target: Target) -> None:
        """Forms batches, and takes tasks, as the target says from now on."""

    def finish(self) -> None:
        """Says that a batch of it has ended."""

    def close(self) -> None:
        """Takes no more tasks, and returns when the last batch has ended."""


class TaskFormed(Protocol):
    """A batch that has left the queue, and the lane that runs it."""

    @property
    def batch(self) -> TaskBatch:
        """The batch."""

    @property
    def lane(self) -> TaskLane:
        """Its lane."""


class TaskQueue(Protocol):
    """The bounded queue: `queue.Queue`, whose docstrings say more."""

    @property
    def clock(self) -> Clock:
        """What deadlines are on, in seconds."""

    @property
    def lock(self) -> Lock:
        """Held while the pieces of a task are put together."""

    def lane(self, options: Options, execute: Execute, *, batched: bool = True, steady: bool = False) -> TaskLane:
        """A new scheduler's part of it; `steady` says whether a run takes about as long as the one before."""

    def wake(self) -> None:
        """Calls an idle thread."""

    def take(self) -> TaskFormed | None:
        """Waits for a batch, without the interpreter lock; None once the queue is closed and empty."""

    def close(self) -> None:
        """Takes no more tasks at all."""
