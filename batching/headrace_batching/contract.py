"""The protocols of queues, lanes and batches, which headrace_native implements, too."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from threading import Lock
from typing import Protocol, runtime_checkable

from headrace_batching.batch import Empty
from headrace_batching.latency.target import Target
from headrace_batching.options import Options
from headrace_batching.task import Arrays, Task

Clock = Callable[[], float]
Run = Callable[[Arrays], Arrays]
RunChoice = Callable[[Arrays, Hashable], Arrays]


class TaskBatch(Protocol):
    """Tasks that left a queue together: see the docstrings of `batch.Batch`."""

    @property
    def rows(self) -> int:
        """The number of rows of all tasks together."""

    @property
    def padded(self) -> int:
        """The number of rows, padding included."""

    @property
    def arrivals(self) -> Sequence[float]:
        """When each task of the batch arrived."""

    @property
    def traced(self) -> Sequence[float]:
        """When each traced task of the batch arrived."""

    @property
    def sizes(self) -> Sequence[int]:
        """The number of rows of each task of the batch."""

    @property
    def tasks(self) -> Sequence[Task]:
        """The tasks of the batch that were created in Python."""

    @property
    def choice(self) -> Hashable:
        """The choice that the batch's tasks share, such as the outputs to compute; None if they have none."""

    is_series: bool
    """Whether this object is not a `TaskBatch` but a `TaskSeries`."""

    def __len__(self) -> int: ...

    def join(self, empty: Empty) -> Arrays:
        """Joins the tasks' rows into one array per input, of `padded` rows."""

    def split(self, outputs: Arrays, lock: Lock) -> list[Task]:
        """Gives every task its rows, and returns the tasks to deliver; tasks of the native queue deliver themselves."""

    def fail(self, error: Exception, lock: Lock) -> list[Task]:
        """Gives the error to every task, and returns the tasks to deliver."""

    def halves(self) -> "tuple[TaskBatch, TaskBatch]":
        """Splits the tasks into two batches; this one is not used again."""


class TaskSeries(Protocol):
    """Tasks that left a queue together and run one by one; only headrace_native makes such series."""

    def __len__(self) -> int:
        """The number of tasks that have not run."""

    def run(self, run: Run, run_choice: RunChoice | None, empty: Empty) -> None:
        """Runs and answers each task.

        If a run raises, the exception is passed on, and the tasks after it are not run.
        """

    def take_runs(self) -> Sequence[tuple[float, float, float, float, float, bool]]:
        """Removes and returns the records of successful runs.

        A record has the times when the run began, when its inputs and its outputs were ready, when it ended and when
        its task arrived, and whether the task is traced.
        """

    def failed(self) -> tuple[TaskBatch, float]:
        """The task whose run failed, as a batch, and when that run began."""

    def batches(self) -> list[TaskBatch]:
        """Removes and returns the tasks that have not run, each as a batch of its own."""


Execute = Callable[[TaskBatch], None]


class TaskLane(Protocol):
    """One scheduler's part of a queue."""

    @property
    def execute(self) -> Execute:
        """Runs a batch, on a batch thread."""

    @property
    def batched(self) -> bool:
        """Whether axis 0 is the batch axis."""

    @property
    def rows(self) -> int:
        """The number of rows that wait."""

    @property
    def shed(self) -> int:
        """The number of tasks that were refused because they could not be answered in time."""

    def put(self, task: Task) -> bool:
        """Adds a task; returns whether the queue's `wake` must be called."""

    def steer(self, target: Target) -> None:
        """Sets the target by which batches are formed and tasks accepted from now on."""

    def finish(self) -> None:
        """Records that one of the lane's batches has ended."""

    def close(self) -> None:
        """Accepts no more tasks, and returns when the last batch has ended."""


@runtime_checkable
class NativeLane(Protocol):
    """A lane of headrace_native's queue, which can also run batches itself, without the interpreter."""

    native_running: int
    """The number of batches that are running without the interpreter."""

    native_ended: float
    """When the last run without the interpreter ended, in seconds on the queue's clock; 0 before the first."""

    def run_natively(self, fields: Mapping[str, object]) -> None:
        """Runs later batches without the interpreter, except those that need Python. See `headrace_native.pyi`."""

    def count_native_runs(self) -> None:
        """Reports the runs without the interpreter that have not been reported yet."""


class TaskFormed(Protocol):
    """A batch that has left the queue, and the lane that runs it."""

    @property
    def batch(self) -> TaskBatch:
        """The batch."""

    @property
    def lane(self) -> TaskLane:
        """The lane of the batch."""


class TaskQueue(Protocol):
    """The bounded queue: see the docstrings of `queue.Queue`."""

    @property
    def clock(self) -> Clock:
        """The clock of deadlines, in seconds."""

    @property
    def lock(self) -> Lock:
        """Held while the pieces of a task are combined."""

    def lane(self, options: Options, execute: Execute, *, batched: bool = True, steady: bool = False) -> TaskLane:
        """Creates a scheduler's part of the queue; `steady` says whether all runs take about the same time."""

    def wake(self) -> None:
        """Wakes an idle thread."""

    def take(self) -> TaskFormed | None:
        """Waits for a batch, without the interpreter lock; None once the queue is closed and empty."""

    def close(self) -> None:
        """Accepts no more tasks on any lane, and makes the waiting ones due at once."""
