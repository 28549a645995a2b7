"""The signatures whose requests join a queue without being looked at twice."""

from collections.abc import Callable
from dataclasses import dataclass

from headrace_batching import BatchingError, Options
from headrace_batching.contract import TaskLane
from headrace_server.backends.signature import Signature
from headrace_server.metrics.calls import CountCalls, Tallied


@dataclass(frozen=True, slots=True)
class Plain:
    """What is to be known of a signature whose requests join a queue without being looked at twice.

    Attributes:
        lane: The queue's part that they join, all outputs asked for.
        signature: What they are checked against.
        max_rows: Rows that one may have.
        answers: From who counts calls to who is told of those that the model has answered.
        refused: Counts a request that was turned away.
    """

    lane: TaskLane
    signature: Signature
    max_rows: int
    answers: Callable[[CountCalls], Callable[[Tallied], None]]
    refused: Callable[[BatchingError], None]


def takes_plain(signature: Signature, options: Options | None) -> bool:
    """Whether a signature's requests can be plain; options that cut tasks in pieces, or pad them, ask to see each."""
    if not signature.batched or options is None:
        return False
    return not options.enable_large_batch_splitting and not options.pad_variable_length_inputs
