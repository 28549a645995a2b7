"""The batching parameters, with TF Serving's names and checks."""

from dataclasses import Field, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from headrace_batching.cpus import schedulable_cpus
from headrace_batching.objective import EXPECTATION, LatencyObjective, is_objective
from headrace_batching.option import Rule, option, options_of, refusal

MAX_VALUE = 2**63 - 1
"""The largest value of any parameter: TF Serving's are int64."""

MAX_BATCH_THREADS = 4096
"""The largest number of threads: the operating system would refuse to start more."""


class OptionsError(ValueError):
    """A batching parameter has an invalid value."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How requests become batches: TF Serving's `BatchingParameters`.

    Raises:
        OptionsError: A value is out of range, or two contradict each other.
    """

    max_batch_size: int = option(
        1000, "largest number of rows of a task, and of a batch unless splitting is on", least=1
    )
    batch_timeout_micros: int = option(
        0,
        "microseconds that a batch which is not full waits for more tasks while a batch thread is idle, counted from "
        "the arrival of its first task; 0 means no wait",
        least=0,
    )
    max_enqueued_batches: int = option(10, "batches that may wait for a thread; a task beyond them is refused", least=0)
    num_batch_threads: int = option(
        schedulable_cpus,
        "batches that run at the same time, over all schedulers that share the threads",
        least=1,
        most=MAX_BATCH_THREADS,
        for_all=True,
    )
    allowed_batch_sizes: tuple[int, ...] = option(
        (), "increasing sizes that a batch is padded up to; the last is max_batch_size", item=int, least=1
    )
    pad_variable_length_inputs: bool = option(
        False,
        "let tasks whose inputs differ beyond axis 0 share a batch, each padded at the end to the longest",
    )
    enable_large_batch_splitting: bool = option(False, "run a task that is too large in pieces, in several batches")
    max_execution_batch_size: int | None = option(
        None,
        "largest number of rows of a batch if splitting is on (default: max_batch_size)",
        kind=int,
        least=1,
        nullable=True,
    )
    max_running_batches: int | None = option(
        None,
        "largest number of concurrent batches of one scheduler, for a function that cannot run more: the next batch "
        "then forms from all waiting tasks when a batch has ended; by default the number of threads",
        kind=int,
        least=1,
        nullable=True,
        for_all=True,  # a model's configuration does not set this number: its runtime reports it after the load
    )
    latency_objective: str = option(
        "",
        "the share of requests to answer within a time, such as p99 20ms; it determines how long batches wait, how "
        "large they are and which requests are refused; empty means no objective",
        fits=is_objective,
        words=f"{EXPECTATION}, or empty",
    )
    larger_alone: bool = option(
        False,
        "whether max_batch_size is only a default: a server may then run a task of more rows alone, which a "
        "Scheduler refuses in either case",
        for_all=True,
    )

    def __post_init__(self) -> None:
        for own in options_of(self).values():
            _check(own, getattr(self, own.name))
        if self.enable_large_batch_splitting:
            _at_least("max_enqueued_batches", self.max_enqueued_batches, 1)
        self._check_allowed()
        self._check_splitting()

    @cached_property
    def objective(self) -> LatencyObjective | None:
        """The parsed `latency_objective`; None if it is empty."""
        return LatencyObjective.parse(self.latency_objective) if self.latency_objective else None

    @cached_property
    def execution_limit(self) -> int:
        """The maximum number of rows of a batch."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size is not None:
            return self.max_execution_batch_size
        return self.max_batch_size

    @cached_property
    def timeout(self) -> float:
        """`batch_timeout_micros` in seconds."""
        return self.batch_timeout_micros / 1e6

    @cached_property
    def enqueued_limit(self) -> int:
        """The number of batches that may wait. As in TF Serving, 0 counts as 1 unless large tasks are split."""
        return max(1, self.max_enqueued_batches)

    @cached_property
    def batches_at_once(self) -> int:
        """The number of batches that are expected to run at the same time."""
        return self.max_running_batches or self.num_batch_threads

    def padded_rows(self, rows: int) -> int:
        """The smallest allowed size of at least `rows`; `rows` itself if there is none."""
        if not self.allowed_batch_sizes or not rows:
            return rows
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)

    def _check_allowed(self) -> None:
        sizes = self.allowed_batch_sizes
        if not sizes:
            return
        if any(b <= a for a, b in pairwise(sizes)):
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
        if self.max_batch_size < self.max_execution_batch_size:
            msg = (
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal "
                f"to max_execution_batch_size. input_batch_size_limit: {self.max_batch_size}, "
                f"max_execution_batch_size: {self.max_execution_batch_size}"
            )
            raise OptionsError(msg)


def _check(own: Field[Any], value: Any) -> None:
    rule: Rule = own.metadata["rule"]
    if rule.kind is tuple and not rule.allows(value):
        msg = f"{own.name} must be positive and increasing; was {list(value)}"
        raise OptionsError(msg)
    if rule.fits is not None and not rule.allows(value):
        raise OptionsError(refusal(own.name, rule, value))
    if rule.kind is not int or value is None:
        return
    _at_least(own.name, value, int(rule.least or 0))
    most = rule.most or MAX_VALUE
    if value > most:
        msg = f"{own.name} must be at most {most}; was {value}"
        raise OptionsError(msg)


def _at_least(name: str, value: int, least: int) -> None:
    """Refuses a parameter below its minimum, in the words of basic_batch_scheduler.h and shared_batch_scheduler.h."""
    if value < least:
        msg = f"{name} must be {'positive' if least else 'non-negative'}; was {value}"
        raise OptionsError(msg)
