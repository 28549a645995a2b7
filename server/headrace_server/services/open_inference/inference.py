"""Runs a checked request on its servable, in the same batches as every other API's calls."""

import time
from dataclasses import replace

from headrace_batching import Closed, DeadlineExceeded, QueueFull
from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_server.backends.signature import Signature
from headrace_server.errors import ServingError, invalid
from headrace_server.models.call import Call
from headrace_server.models.servable import Servable
from headrace_server.services.open_inference.answer import InferAnswer, OutputTensor
from headrace_server.services.open_inference.checks import Checks
from headrace_server.services.open_inference.classification import check_classes, classify
from headrace_server.services.open_inference.datatypes import BYTES, datatype_of
from headrace_server.services.open_inference.request import InferRequest, WantedOutput


class RunError(ServingError):
    """A request was taken, and its run or its wait for one failed."""


def max_rows(servable: Servable, signature: Signature) -> int:
    """Rows that a request may have, as `max_batch_size` of a ModelConfig has it: 0 where requests run one by one."""
    return servable.batching.max_batch_size if servable.batching is not None and signature.batched else 0


def signature_of(servable: Servable, name: str) -> tuple[str, Signature]:
    """The signature that a request names, and its name.

    Raises:
        ServingError: INVALID_ARGUMENT, the model has none of that name.
    """
    try:
        return servable.signature(name)
    except ServingError as error:
        raise invalid(error.message) from error


async def infer(servable: Servable, request: InferRequest, call: Call) -> InferAnswer:
    """The answer to a request.

    Args:
        servable: Leased.
        request: What its door has read.
        call: Where to answer, and until when.

    Raises:
        ServingError: It is refused, or has failed; in Triton's words where it has them.
    """
    name, signature = signature_of(servable, request.parameters.signature)
    rows = max_rows(servable, signature)
    checks = Checks(request, signature, rows)
    outputs = checks.outputs()
    arrays = checks.arrays()
    for output in request.outputs.values():
        if output.classes:
            check_classes(datatype_of(signature.outputs[output.name].dtype).name)
    results = await _run(servable, name, arrays, outputs, request, call)
    answered = tuple(_output(alias, results[alias], signature, request, batched=rows > 0) for alias in outputs)
    return InferAnswer(request.model, servable.version, request.id, answered)


async def _run(
    servable: Servable, name: str, arrays: Arrays, outputs: tuple[str, ...], request: InferRequest, call: Call
) -> Arrays:
    try:
        return await servable.run(name, arrays, outputs, _limited(call, request))
    except QueueFull as error:
        raise RunError(Code.UNAVAILABLE, f"{request.tag}Exceeds maximum queue size") from error
    except DeadlineExceeded as error:
        raise _expired() from error
    except Closed as error:
        text = "Server is stopping, scheduler for model has stopped accepting new inference requests"
        raise RunError(Code.UNAVAILABLE, f"{request.tag}{text}") from error
    except ServingError as error:
        if isinstance(error.__cause__, DeadlineExceeded):
            raise _expired() from error
        raise RunError(error.code, error.message) from error


def _limited(call: Call, request: InferRequest) -> Call:
    """The call with the request's own priority, and its own limit on the time in the queue."""
    priority, timeout = request.parameters.priority, request.parameters.timeout
    if priority is None and timeout is None:
        return call
    deadline = call.deadline
    if timeout is not None:
        own = time.monotonic() + timeout
        deadline = own if deadline is None else min(deadline, own)
    return replace(call, deadline=deadline, priority=call.priority if priority is None else priority)


def _expired() -> ServingError:
    return RunError(Code.UNAVAILABLE, "Request timeout expired")


def _output(alias: str, array: Array, signature: Signature, request: InferRequest, *, batched: bool) -> OutputTensor:
    wanted = request.outputs.get(alias, WantedOutput(alias))
    datatype = datatype_of(signature.outputs[alias].dtype).name
    if wanted.classes:
        array = classify(array, wanted.classes, signature.labels, batched=batched)
        datatype = BYTES.name
    output = OutputTensor(alias, datatype, array, wanted.place is not None, wanted.binary)
    if wanted.place is not None:
        data = output.raw()
        if len(data) > wanted.place.size:
            raise ServingError(
                Code.INTERNAL,
                f"shared memory size specified with the request for output '{alias}' ({wanted.place.size} bytes) "
                f"should be at least {len(data)} bytes to hold the results",
            )
        wanted.place.write(data)
    return output
