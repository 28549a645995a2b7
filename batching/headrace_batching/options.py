"""The batching parameters, by TF Serving's names, checked once."""

import os
from dataclasses import dataclass, field
from itertools import pairwise

DEFAULT_MAX_BATCH_SIZE = 1000

MAX_VALUE = 2**63 - 1
"""Of any parameter: TF Serving's are int64."""

MAX_BATCH_THREADS = 4096
"""More are a slip of the pen, which would end in an operating system that starts no further thread."""


class OptionsError(ValueError):
    """A batching parameter has a value that makes no sense."""


def schedulable_cpus() -> int:
    """The CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How requests become batches. TF Serving: `BatchingParameters`.

    Attributes:
        max_batch_size: Rows that one task may have, and that a batch may have unless splitting is on.
        batch_timeout_micros: Microseconds that a batch which is not full waits for company, counted from its
            first task's arrival and only while a batch thread is idle; 0 takes what is there.
        max_enqueued_batches: Batches that may wait for a thread; one task more is refused.
        num_batch_threads: Batches that run at once, over all schedulers that share the threads.
        allowed_batch_sizes: Increasing sizes that a batch is padded up to; the last is `max_batch_size`.
        pad_variable_length_inputs: Whether tasks whose inputs differ beyond axis 0 may share a batch, each
            padded at the end to the longest.
        enable_large_batch_splitting: Whether a task may be run in pieces, in several batches.
        max_execution_batch_size: Rows that a batch may have when splitting is on; None is `max_batch_size`.
        max_running_batches: Batches of one scheduler that run at once, for a function that cannot run more: the next
            batch then forms when one has ended, of all that waits by then. None is as many as there are threads.

    Raises:
        OptionsError: A value is out of range, or two contradict each other.
    """

    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=schedulable_cpus)
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None
    max_running_batches: int | None = None

    def __post_init__(self) -> None:
        _at_least("max_batch_size", self.max_batch_size, 1, "positive")
        _at_least("batch_timeout_micros", self.batch_timeout_micros, 0, "non-negative")
        _at_least("num_batch_threads", self.num_batch_threads, 1, "positive")
        if self.max_running_batches is not None:
            _at_least("max_running_batches", self.max_running_batches, 1, "positive")
        if self.num_batch_threads > MAX_BATCH_THREADS:
            msg = f"num_batch_threads must be at most {MAX_BATCH_THREADS}; was {self.num_batch_threads}"
            raise OptionsError(msg)
        self._check_enqueued()
        self._check_allowed()
        self._check_splitting()

    @property
    def execution_limit(self) -> int:
        """The most rows that a batch may have."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size is not None:
            return self.max_execution_batch_size
        return self.max_batch_size

    @property
    def timeout(self) -> float:
        """`batch_timeout_micros` in seconds."""
        return self.batch_timeout_micros / 1e6

    @property
    def enqueued_limit(self) -> int:
        """Batches that may wait. TF Serving: 0 counts as 1 without splitting."""
        return max(1, self.max_enqueued_batches)

    def padded_rows(self, rows: int) -> int:
        """The smallest allowed size that holds `rows`; `rows` itself where none does, or none is given."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows) if rows else 0

    def _check_enqueued(self) -> None:
        least = 1 if self.enable_large_batch_splitting else 0
        _at_least("max_enqueued_batches", self.max_enqueued_batches, least, "positive" if least else "non-negative")

    def _check_allowed(self) -> None:
        sizes = self.allowed_batch_sizes
        if not sizes:
            return
        if sizes[0] < 1 or any(b <= a for a, b in pairwise(sizes)):
            msg = f"allowed_batch_sizes must be positive and increasing; was {list(sizes)}"
            raise OptionsError(msg)
        if sizes[-1] != self.max_batch_size:
            msg = (
                "Last entry in allowed_batch_sizes must match max_batch_size; "
                f"last entry was {sizes[-1]}; expected {self.max_batch_size}"
            )
            raise OptionsError(msg)

    def _check_splitting(self) -> None:
        if not self.enable_large_batch_splitting or self.max_execution_batch_size is None:
            return
        _at_least("max_execution_batch_size", self.max_execution_batch_size, 1, "positive")
        if self.max_batch_size < self.max_execution_batch_size:
            msg = (
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal "
                f"to max_execution_batch_size. input_batch_size_limit: {self.max_batch_size}, "
                f"max_execution_batch_size: {self.max_execution_batch_size}"
            )
            raise OptionsError(msg)


def _at_least(name: str, value: int, least: int, word: str) -> None:
    if value < least:
        msg = f"{name} must be {word}; was {value}"
        raise OptionsError(msg)
    if value > MAX_VALUE:
        msg = f"{name} must fit 64 bits; was {value}"
        raise OptionsError(msg)
