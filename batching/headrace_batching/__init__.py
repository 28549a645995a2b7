"""Dynamic batching for any server: takes single requests, calls a function with batches, and returns single answers."""

from headrace_batching.batch import shape_key
from headrace_batching.delivery import LoopDelivery
from headrace_batching.errors import (
    BatchingError,
    BatchOutputError,
    Closed,
    DeadlineExceeded,
    InvalidTask,
    NotRepeated,
    ObjectiveMissed,
    QueueFull,
    RunHangs,
    RunTimedOut,
    TaskTooLarge,
)
from headrace_batching.latency.beliefs import Beliefs
from headrace_batching.latency.target import Target
from headrace_batching.objective import LatencyObjective, ObjectiveError
from headrace_batching.options import Options, OptionsError
from headrace_batching.report import BatchReport
from headrace_batching.scheduler import RunLimit, Scheduler
from headrace_batching.task import Priority, Task
from headrace_batching.threads import BatchThreads

__all__ = [
    "BatchOutputError",
    "BatchReport",
    "BatchThreads",
    "BatchingError",
    "Beliefs",
    "Closed",
    "DeadlineExceeded",
    "InvalidTask",
    "LatencyObjective",
    "LoopDelivery",
    "NotRepeated",
    "ObjectiveError",
    "ObjectiveMissed",
    "Options",
    "OptionsError",
    "Priority",
    "QueueFull",
    "RunHangs",
    "RunLimit",
    "RunTimedOut",
    "Scheduler",
    "Target",
    "Task",
    "TaskTooLarge",
    "shape_key",
]
