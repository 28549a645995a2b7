"""The tasks of one scheduler that may share a batch: accepted and taken in order, as many as fit."""

from collections import deque
from collections.abc import Callable, Hashable
from math import inf

from headrace_batching.errors import TOO_MANY_BATCHES, QueueFull
from headrace_batching.latency.target import Target
from headrace_batching.options import Options
from headrace_batching.task import Piece, Priority, Task

MAX_BATCH_BYTES = 256 << 20
"""The largest size of a batch's joined inputs in bytes.

A few bytes of a request can stand for megabytes of equal values, and a batch would expand all of them.
"""


class Group:
    """A group of waiting tasks with the same shape key. Not thread-safe: the queue's lock guards it.

    The bound is TF Serving's: tasks are assigned to waiting batches in order of arrival, and a task that would open
    batch number `max_enqueued_batches` + 1 is refused. This assignment only counts tasks; the batches that
    run are formed when a thread asks for one. If tasks are split, all batches except the last are full, and the lane's
    bound in rows applies.

    Args:
        key: The key that the group's tasks share.
        options: How the group's tasks become batches.
        target: Returns the size and wait to use instead of the options' size and timeout; None for the options'.
    """

    __slots__ = ("_last_slot", "_options", "_slots", "_target", "_tasks", "closing", "key", "rows")

    def __init__(self, key: Hashable, options: Options, target: Callable[[], Target | None] = lambda: None) -> None:
        self.key = key
        self._options = options
        self._target = target
        self._tasks: dict[Priority, deque[Task]] = {priority: deque() for priority in Priority}
        self._last_slot = 0
        self._slots: dict[int, int] = {}  # the number of waiting rows that are assigned to each batch
        # The number of waiting rows. A task without rows counts as one row, so that the bound limits such tasks, too.
        self.rows = 0
        self.closing = False

    def __bool__(self) -> bool:
        return any(self._tasks.values())

    @property
    def full(self) -> bool:
        """Whether enough rows wait to fill a batch, though the last task may be too large for the room that is left."""
        return self.rows >= self._size

    @property
    def due(self) -> float:
        """The time at which the oldest task has waited long enough; a time in the past while the scheduler closes."""
        if self.closing:
            return -inf
        target = self._target()
        return self._oldest().arrived + (self._options.timeout if target is None else target.wait)

    @property
    def priority(self) -> Priority:
        """The highest priority of any waiting task."""
        return next(priority for priority, tasks in self._tasks.items() if tasks)

    def add(self, task: Task) -> None:
        """Adds a task at the end.

        Raises:
            QueueFull: The task fits into no batch that may still wait.
        """
        rows = task.rows or 1
        opened = self._slots.get(self._last_slot, 0)
        if opened + rows > self._options.execution_limit and not self._options.enable_large_batch_splitting:
            self._open_slot()
            opened = 0
        task.slot = self._last_slot
        self._slots[task.slot] = opened + rows
        self.rows += rows
        self._tasks[task.priority].append(task)

    def take(self, now: float) -> tuple[list[Piece], list[Task]]:
        """Removes and returns the next batch's pieces, and the tasks that were dropped because nothing waits for them.

        Tasks are taken in order. The first one is always taken, even if it is larger than the batches of a latency
        objective. A later task ends the batch if it does not fit and must not be split, or if the joined inputs would
        exceed `MAX_BATCH_BYTES` with it.
        """
        pieces: list[Piece] = []
        dropped: list[Task] = []
        limit = room = self._size
        widest = 0  # the number of bytes of a joined row; shorter rows may be padded to it
        for tasks in self._tasks.values():
            while tasks and room:
                task = tasks[0]
                left = (task.rows - task.taken) or 1
                if task.ended or task.cancelled or task.expired(now):
                    dropped.append(tasks.popleft())
                    self._leave(task, left)
                    continue
                rows = min(left, room) if self._options.enable_large_batch_splitting else left
                widest = max(widest, task.row_bytes)
                if pieces and (rows > room or (limit - room + rows) * widest > MAX_BATCH_BYTES):
                    return pieces, dropped
                pieces.append(task.take(rows))
                room = max(0, room - rows)
                self._leave(task, rows)
                if rows == left:
                    tasks.popleft()
        return pieces, dropped

    @property
    def _size(self) -> int:
        """The number of rows of a full batch."""
        limit, target = self._options.execution_limit, self._target()
        return limit if target is None else min(limit, target.size)

    def _oldest(self) -> Task:
        return min((tasks[0] for tasks in self._tasks.values() if tasks), key=lambda task: task.arrived)

    def _leave(self, task: Task, rows: int) -> None:
        self.rows -= rows
        self._slots[task.slot] -= rows
        if not self._slots[task.slot]:
            del self._slots[task.slot]

    def _open_slot(self) -> None:
        waiting, most = len(self._slots), self._options.enqueued_limit
        if waiting >= most:
            raise QueueFull(TOO_MANY_BATCHES.format(waiting=waiting, most=most))
        self._last_slot += 1
