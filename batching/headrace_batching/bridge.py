"""What `headrace_native` uses from Python: every name in its Rust code, and what both halves must agree on.

The native half looks up names only here, all at once when the first queue is created. A number or a text that both
halves need is defined in Python, and passed in `SHARED`.
"""

from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as TimedOut
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from weakref import WeakValueDictionary

from numpy import ascontiguousarray, dtype

from headrace_batching.batch import (
    Batch,
    check_outputs,
    deliver,
    give,
    pad,
    pad_into,
    rows_between,
    string_array,
)
from headrace_batching.errors import (
    TOO_LATE,
    TOO_MANY_BATCHES,
    TOO_MANY_ROWS,
    CallerExhausted,
    Closed,
    DeadlineExceeded,
    ObjectiveMissed,
    QueueFull,
)
from headrace_batching.group import MAX_BATCH_BYTES
from headrace_batching.queue import Formed, Turn
from headrace_batching.task import Piece

__all__ = [
    "SHARED",
    "Batch",
    "CallerExhausted",
    "CancelledError",
    "Closed",
    "DeadlineExceeded",
    "Formed",
    "Lock",
    "ObjectiveMissed",
    "Piece",
    "QueueFull",
    "TimedOut",
    "Turn",
    "WeakValueDictionary",
    "ascontiguousarray",
    "check_outputs",
    "deliver",
    "dtype",
    "give",
    "monotonic",
    "pad",
    "pad_into",
    "rows_between",
    "string_array",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When a single task may be run by the thread that received it, instead of waking a batch thread.

    A lane's trust grows by one with each fast run, and slow runs destroy it.

    Attributes:
        quick: Seconds within which a run ends before another thread would have started.
        slow: Seconds that no other call should be kept waiting for: a run that takes longer loses all trust.
        most: The most trust that a lane can have.
        enough: The trust with which the next run is expected to be fast.
        lost: The trust lost by a run between the two, such as one that was interrupted.
    """

    quick: float
    slow: float
    most: int
    enough: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Numbers and texts that the native queue gets from this package.

    Attributes:
        max_batch_bytes: The largest size of a batch's joined inputs in bytes.
        too_many_batches: Why a queue is full, with the names of numbers in braces.
        too_many_rows: The same if large tasks are split.
        too_late: Why a task is refused that could not be answered within its latency objective.
        pace: When a single task is run by the thread that received it.
    """

    max_batch_bytes: int
    too_many_batches: str
    too_many_rows: str
    too_late: str
    pace: Pace


SHARED = Shared(
    max_batch_bytes=MAX_BATCH_BYTES,
    too_many_batches=TOO_MANY_BATCHES,
    too_many_rows=TOO_MANY_ROWS,
    too_late=TOO_LATE,
    pace=Pace(quick=0.0002, slow=0.002, most=16, enough=8, lost=4),
)
