"""Which requests are plain: the native transport decodes and answers them, and nobody in Python looks at each.

All of that decision on this side stands here: by model (`may_be_plain`) and by signature (`takes_plain`). What remains
is for the native half to decide from a request's bytes.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from headrace_batching import BatchingError, Options
from headrace_batching.contract import TaskLane
from headrace_protos import DataType
from headrace_server.backends.signature import Signature
from headrace_server.metrics.calls import CountCalls, Tallied


@dataclass(frozen=True, slots=True)
class Plain:
    """What is to be known of a signature whose requests join a queue without being looked at twice.

    Attributes:
        lane: The queue's part that they join, all outputs asked for.
        signature: What they are checked against.
        max_rows: Rows that one may have; None where each runs by itself, whatever its axis 0 is.
        answers: From who counts calls, and their method, to who is told of those that the model has answered.
        refused: Counts a request that was turned away.
        queued: Whether callers know of a queue: TF Serving has none without batching.
    """

    lane: TaskLane
    signature: Signature
    max_rows: int | None
    answers: Callable[[CountCalls, str], Callable[[Tallied], None]]
    refused: Callable[[BatchingError], None]
    queued: bool = True


def may_be_plain(model: str, *, checks_methods: bool, logs: Callable[[str], bool]) -> bool:
    """Whether a model's requests can be plain.

    Args:
        model: Its name.
        checks_methods: Whether the method of each request's signature is checked.
        logs: Whether requests for a model of that name are logged.
    """
    return not checks_methods and not logs(model)


def takes_plain(signature: Signature, options: Options | None, dtypes: Collection[int]) -> bool:
    """Whether a signature's requests can be plain; options that cut tasks in pieces, or pad them, ask to see each.

    Args:
        signature: The signature.
        options: How its requests become batches; None for one by one.
        dtypes: The element types that are decoded outside the interpreter.
    """
    specs = (*signature.inputs.values(), *signature.outputs.values())
    if any(spec.any_rank for spec in signature.inputs.values()):
        return False
    batched = signature.batched and options is not None
    if batched and options is not None and (options.enable_large_batch_splitting or options.pad_variable_length_inputs):
        return False
    if batched and signature.padding is not None and any(spec.dtype == DataType.DT_STRING for spec in specs):
        return False
    return all(spec.dtype in dtypes for spec in specs)
