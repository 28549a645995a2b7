"""Errors of tasks and batches; the texts are TF Serving's where it has one."""

import traceback

TOO_MANY_BATCHES = "currently {waiting} batches enqueued and max_enqueued_batches is {most}"
"""The text for a full queue whose limit is a number of batches.

TF Serving's shared_batch_scheduler.h has this text and the next one.
"""

TOO_MANY_ROWS = (
    "task size is {rows} but scheduling capacity is only {capacity} (num_enqueued_batches={waiting}, "
    "max_enqueued_batches={most}, open_batch_size={open}, max_execution_batch_size={size})"
)
"""The text for a full queue whose limit is a number of rows, because large tasks are split."""

TOO_LATE = "an answer would come too late for the latency objective {objective}"
"""The text for a task that could not be answered in time."""


class BatchingError(Exception):
    """The base class of this library's errors about tasks."""


class InvalidTask(BatchingError):
    """The task's inputs have no common number of rows."""


class TaskTooLarge(BatchingError):
    """The task alone has more rows than `max_batch_size`."""

    def __init__(self, rows: int, limit: int) -> None:
        super().__init__(f"Task size {rows} is larger than maximum input batch size {limit}")


class QueueFull(BatchingError):
    """The queue is full; the caller may try again later."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The batch scheduling queue to which this task was submitted is full; {reason}")


class ObjectiveMissed(QueueFull):
    """The task could not be answered within the latency objective; the caller may try again later.

    Attributes:
        reason: The reason, in words that name the objective.
    """

    def __init__(self, objective: str) -> None:
        self.reason = TOO_LATE.format(objective=objective)
        super().__init__(self.reason)


class CallerExhausted(Exception):
    """The caller has reached a limit, so its call never became a task."""


class DeadlineExceeded(BatchingError):
    """The task's deadline passed while it waited; the backend never saw it."""

    def __init__(self) -> None:
        super().__init__("Run() timeout exceeded while waiting in batching queue")


class Closed(BatchingError):
    """The scheduler accepts no more tasks."""

    def __init__(self) -> None:
        super().__init__("the scheduler is closed")


class BatchOutputError(BatchingError):
    """An output of a batch does not have one row for each row of its inputs."""


class RunTimedOut(BatchingError):
    """The run took longer than allowed, and was abandoned."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the run took more than {seconds:g} s and was abandoned")


class RunHangs(BatchingError):
    """A run of the same function was abandoned and has not ended yet, so no other is started."""

    def __init__(self) -> None:
        super().__init__("a run of this model hangs; no other starts before it has ended")


class NotRepeated(Exception):
    """A mixin for errors after which a batch fails as a whole, instead of being run again in halves."""


def let_go(error: BaseException | None) -> None:
    """Drops the local variables in the traceback of an error: arrays among them would live as long as the error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
