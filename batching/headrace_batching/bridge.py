"""Everything that `headrace_native` uses from Python: the names that Rust looks up, and the values that both sides use.

The Rust code looks up names only here, all at once when the first queue is created. Numbers and texts that both sides
need are defined in Python, and passed in `SHARED`.
"""

from array import array
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
    "array",
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
    """The conditions under which the thread that received a single task may run it, instead of waking a batch thread.

    A lane's trust grows by one with each fast run; a slow run reduces it or resets it to zero.

    Attributes:
        quick: A run of at most this many seconds ends before another thread could have been woken.
        slow: After a run of more seconds than this, which blocks other calls for too long, a lane loses all trust.
        most: The upper limit of a lane's trust.
        enough: The least trust with which the next run is expected to be fast.
        lost: The trust lost by a run between `quick` and `slow`, such as one that was interrupted.
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
        too_many_batches: The text for a full queue, with the names of numbers in braces.
        too_many_rows: The same text for a queue whose large tasks are split.
        too_late: The text for a task that could not be answered within its latency objective.
        pace: The conditions under which the thread that received a single task may run it.
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
