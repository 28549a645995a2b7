"""A task: one waiting request, and later its answer."""

from collections.abc import Callable, Hashable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from headrace_batching.padding import Array, Arrays, Padding

__all__ = ["Array", "Arrays", "Deliver", "Piece", "Priority", "Task"]

Deliver = Callable[[Sequence["Task"]], None]


class Priority(IntEnum):
    """Which waiting tasks run first. A batch of tasks with normal priority is filled up with tasks of low priority."""

    NORMAL = 0
    LOW = 1


class Task:
    """One waiting request.

    The creator owns a task until `Scheduler.submit`; from then on the task belongs to the queue, and the creator may
    only `cancel` it. When the task has ended, `deliver` is called with it on a batch thread (once per batch, with all
    its tasks that have the same `deliver`), and exactly one of `outputs` and `error` is set.

    Args:
        inputs: Arrays by input name, all with the same axis 0. They must not change until the task has ended.
        deliver: Called with the ended tasks; must not block and must not raise.
        rows: The length of axis 0; 1 for a model that has no batch axis.
        key: A value that must be equal for two tasks to share a batch; `shape_key(inputs)` is always safe.
        deadline: The deadline on the scheduler's clock, in seconds; None if there is none.
        priority: The task's priority: normal tasks leave the queue before low ones.
        choice: The values that the run should compute, such as the names of outputs, for the scheduler's `run_choice`;
            None for its `run`. Only tasks of equal choices share a batch.
        padding: How the task is padded if the key lets tasks of different lengths share a batch; if missing, each input
            is padded with its own first element.

    Attributes:
        traced: Whether reports of the task's runs name the task, for its trace. To be set before the task is submitted.
    """

    __slots__ = (
        "arrived",
        "cancelled",
        "choice",
        "deadline",
        "deliver",
        "error",
        "future",
        "inputs",
        "key",
        "outputs",
        "padding",
        "parts",
        "priority",
        "returned",
        "rows",
        "slot",
        "taken",
        "traced",
    )

    def __init__(
        self,
        inputs: Arrays,
        deliver: Deliver,
        *,
        rows: int,
        key: Hashable = (),
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
        choice: Hashable = None,
        padding: Padding | None = None,
    ) -> None:
        self.inputs = inputs
        self.deliver = deliver
        self.rows = rows
        self.key = key if choice is None else (key, choice)
        self.choice = choice
        self.padding = padding
        self.deadline = deadline
        self.priority = priority
        self.cancelled = False
        self.traced = False
        self.future: Any = None  # data that `deliver` needs
        self.outputs: Arrays | None = None
        self.error: Exception | None = None
        # The queue's data: when the task arrived, the waiting batch that it was assigned to, and how many of its rows
        # have left the queue.
        self.arrived = 0.0
        self.slot = 0
        self.taken = 0
        # The batches' data: the outputs of the task's pieces, by the first row of each, and the number of rows of these
        # pieces.
        self.parts: dict[int, Arrays] | None = None
        self.returned = 0

    def cancel(self) -> None:
        """Cancels the task: if it is still in the queue, it is dropped. Any thread."""
        self.cancelled = True

    def take(self, rows: int) -> "Piece":
        """Takes the task's next `rows` rows for a batch. Under the queue's lock."""
        start = self.taken
        self.taken = min(start + rows, self.rows)
        return Piece(self, start, self.taken)

    @property
    def row_bytes(self) -> int:
        """The number of bytes that one of the task's rows takes in a batch."""
        return sum(array.nbytes for array in self.inputs.values()) // (self.rows or 1)

    @property
    def ended(self) -> bool:
        """Whether the task has an answer or an error."""
        return self.outputs is not None or self.error is not None

    def expired(self, now: float) -> bool:
        """Whether the task's deadline has passed at `now`."""
        return self.deadline is not None and self.deadline <= now


class Piece(NamedTuple):
    """The rows `start` to `stop` of a task in one batch: all of them unless large tasks are split."""

    task: Task
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """The number of rows that the piece fills in the batch."""
        return self.stop - self.start

    @property
    def whole(self) -> bool:
        """Whether the piece is the whole task."""
        return self.start == 0 and self.stop == self.task.rows
