"""Which requests are plain: the native transport decodes and answers them without any Python code.

The whole decision on the Python side is made here: by model (`may_be_plain`) and by signature (`takes_plain`). Rust
decides the rest from a request's bytes.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from headrace_batching import BatchingError, Options
from headrace_batching.contract import TaskLane
from headrace_protos import DataType
from headrace_server.backends.signature import Signature
from headrace_server.config.run import MANY_BATCHES
from headrace_server.metrics.calls import CountCalls, Tallied


@dataclass(frozen=True, slots=True)
class Plain:
    """The data with which the native transport decodes and enqueues a signature's requests itself.

    Attributes:
        lane: The part of the queue that the requests join.
        signature: The signature that requests are checked against.
        max_rows: The maximum number of rows of a batch; None if each request runs alone, regardless of its axis 0.
        answers: Returns, for a counter of calls and a method, the function to call for requests that the model has
            answered.
        refused: Counts a refused request.
        queued: Whether errors may mention a queue: without batching, TF Serving has none.
        larger_alone: Whether a Predict with more rows than `max_rows` is a batch of its own.
    """

    lane: TaskLane
    signature: Signature
    max_rows: int | None
    answers: Callable[[CountCalls, str], Callable[[Tallied], None]]
    refused: Callable[[BatchingError], None]
    queued: bool = True
    larger_alone: bool = False


def may_be_plain(model: str, *, checks_methods: bool, logs: Callable[[str], bool]) -> bool:
    """Whether a model's requests can be plain.

    Args:
        model: The model's name.
        checks_methods: Whether the method of each request's signature is checked.
        logs: Whether requests for the model with that name are logged.
    """
    return not checks_methods and not logs(model)


def larger_alone(options: Options) -> bool:
    """Whether a plain Predict with more rows than a batch joins the queue, where it forms a batch of its own.

    Otherwise Python splits it, refuses it, or runs it in the queue of the requests that run alone: a limit on waiting
    batches and a latency objective are meant for batches.
    """
    bounded = options.max_enqueued_batches < MANY_BATCHES or options.objective is not None
    return options.larger_alone and not options.enable_large_batch_splitting and not bounded


def takes_plain(signature: Signature, options: Options | None, dtypes: Collection[int]) -> bool:
    """Whether a signature's requests can be plain; if tasks may be padded, Python must see each of them.

    Args:
        signature: The signature that the requests name.
        options: How the signature's requests become batches; None if each runs alone.
        dtypes: The element types that are decoded outside the interpreter.
    """
    specs = (*signature.inputs.values(), *signature.outputs.values())
    if any(spec.any_rank for spec in signature.inputs.values()):
        return False
    batched = signature.batched and options is not None
    if batched and options is not None and options.pad_variable_length_inputs:
        return False
    if batched and signature.padding is not None and any(spec.dtype == DataType.DT_STRING for spec in specs):
        return False
    return all(spec.dtype in dtypes for spec in specs)
