"""Dynamic batching for any server: single requests in, batches of numpy arrays to a function, single answers out."""

from headrace_batching.batch import shape_key
from headrace_batching.delivery import LoopDelivery
from headrace_batching.errors import (
    BatchingError,
    BatchOutputError,
    Closed,
    DeadlineExceeded,
    InvalidTask,
    NotRepeated,
    QueueFull,
    RunHangs,
    RunTimedOut,
    TaskTooLarge,
)
from headrace_batching.options import Options, OptionsError
from headrace_batching.scheduler import BatchReport, RunLimit, Scheduler
from headrace_batching.task import Priority, Task
from headrace_batching.threads import BatchThreads

__all__ = [
    "BatchOutputError",
    "BatchReport",
    "BatchThreads",
    "BatchingError",
    "Closed",
    "DeadlineExceeded",
    "InvalidTask",
    "LoopDelivery",
    "NotRepeated",
    "Options",
    "OptionsError",
    "Priority",
    "QueueFull",
    "RunHangs",
    "RunLimit",
    "RunTimedOut",
    "Scheduler",
    "Task",
    "TaskTooLarge",
    "shape_key",
]
