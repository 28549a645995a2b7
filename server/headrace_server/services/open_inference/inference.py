"""Runs a checked request on its servable, in the same batches as every other API's calls."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from headrace_batching import BatchingError, Closed, DeadlineExceeded, ObjectiveMissed, QueueFull
from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_server.backends.signature import Signature
from headrace_server.errors import ServingError, invalid, status_of
from headrace_server.models.call import Call
from headrace_server.models.servable import Servable
from headrace_server.services.open_inference.answer import InferAnswer, OutputTensor
from headrace_server.services.open_inference.checks import Checks
from headrace_server.services.open_inference.classification import check_classes, classify
from headrace_server.services.open_inference.datatypes import BYTES, datatype_of
from headrace_server.services.open_inference.regions import Place
from headrace_server.services.open_inference.request import InferRequest, WantedOutput, tag


class RunError(ServingError):
    """A request was accepted, but failed while it waited or ran."""


def max_rows(servable: Servable, signature: Signature) -> int:
    """The maximum number of rows of a request, as in a ModelConfig's `max_batch_size`: 0 if requests run one by one."""
    return servable.batching.max_batch_size if servable.batching is not None and signature.batched else 0


def signature_of(servable: Servable, name: str) -> tuple[str, Signature]:
    """The signature that a request names, and its name.

    Raises:
        ServingError: INVALID_ARGUMENT if the model has no signature with that name.
    """
    try:
        return servable.signature(name)
    except ServingError as error:
        raise invalid(error.message) from error


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request that has passed all checks.

    Attributes:
        request: The original request.
        name: The signature's name.
        signature: The signature that runs.
        arrays: The inputs as arrays, by alias.
        outputs: The aliases of the wanted outputs.
        batched: Whether axis 0 is the batch axis.
    """

    request: InferRequest
    name: str
    signature: Signature
    arrays: Arrays
    outputs: tuple[str, ...]
    batched: bool

    def answer(self, servable: Servable, results: Arrays) -> InferAnswer:
        """The answer with the model's outputs."""
        outputs = tuple(self._output(alias, results[alias]) for alias in self.outputs)
        return InferAnswer(self.request.model, servable.version, self.request.id, outputs)

    def _output(self, alias: str, array: Array) -> OutputTensor:
        wanted = self.request.outputs.get(alias, WantedOutput(alias))
        datatype = datatype_of(self.signature.outputs[alias].dtype).name
        if wanted.classes:
            array = classify(array, wanted.classes, self.signature.labels, batched=self.batched)
            datatype = BYTES.name
        output = OutputTensor(alias, datatype, array, wanted.place is not None, wanted.binary)
        if wanted.place is not None:
            _write(output, wanted.place)
        return output


async def infer(servable: Servable, request: InferRequest, call: Call) -> InferAnswer:
    """Runs a request, and returns the answer.

    Args:
        servable: The leased servable, which answers once.
        request: The parsed request.
        call: How to deliver the answer, and the deadline.

    Raises:
        ServingError: The request was refused or has failed; in Triton's words if it has any.
    """
    prepared = _prepare(servable, request)
    return prepared.answer(servable, await _run(servable, prepared, call))


async def infer_many(servable: Servable, request: InferRequest) -> AsyncGenerator[InferAnswer, None]:
    """The answers to a request, each computed when it is asked for.

    Args:
        servable: A servable that streams answers, leased until the last one.
        request: The parsed request.

    Raises:
        ServingError: The request was refused or has failed, possibly after some answers.
    """
    prepared = _prepare(servable, request)
    try:
        async with aclosing(servable.stream(prepared.name, prepared.arrays, prepared.outputs)) as answers:
            async for results in answers:
                yield prepared.answer(servable, results)
    except ServingError as error:
        raise RunError(error.code, error.message) from error


def _prepare(servable: Servable, request: InferRequest) -> _Prepared:
    if servable.sequences is not None and request.parameters.sequence is None:
        raise invalid(
            f"{request.tag}inference request to model '{request.model}' must specify a non-zero or non-empty "
            "correlation ID"
        )
    name, signature = signature_of(servable, request.parameters.signature)
    rows = max_rows(servable, signature)
    checks = Checks(request, signature, rows)
    outputs = checks.outputs()
    arrays = checks.arrays()
    for output in request.outputs.values():
        if output.classes:
            check_classes(datatype_of(signature.outputs[output.name].dtype).name)
    return _Prepared(request, name, signature, arrays, outputs, rows > 0)


async def _run(servable: Servable, prepared: _Prepared, call: Call) -> Arrays:
    request = prepared.request
    try:
        return await servable.run(prepared.name, prepared.arrays, prepared.outputs, _limited(call, request))
    except (BatchingError, ServingError) as error:
        raise RunError(*run_status(error, request.id)) from error


def run_status(error: Exception, request_id: str = "") -> tuple[Code, str]:
    """The code and the text for a request that failed while it waited or ran.

    Args:
        error: The reason for the failure.
        request_id: The request's ID; empty if it has none.
    """
    if isinstance(error, ObjectiveMissed):
        return Code.UNAVAILABLE, f"{tag(request_id)}Exceeds maximum queue size: {error.reason}"
    if isinstance(error, QueueFull):
        return Code.UNAVAILABLE, f"{tag(request_id)}Exceeds maximum queue size"
    if isinstance(error, DeadlineExceeded) or isinstance(error.__cause__, DeadlineExceeded):
        return Code.UNAVAILABLE, "Request timeout expired"
    if isinstance(error, Closed):
        text = "Server is stopping, scheduler for model has stopped accepting new inference requests"
        return Code.UNAVAILABLE, f"{tag(request_id)}{text}"
    return status_of(error)


def _limited(call: Call, request: InferRequest) -> Call:
    """The call with the request's priority, its time limit in the queue, and its sequence."""
    asked = request.parameters
    priority, timeout, sequence = asked.priority, asked.timeout, asked.sequence
    if priority is None and timeout is None and sequence is None:
        return call
    deadline = call.deadline
    if timeout is not None:
        own = time.monotonic() + timeout
        deadline = own if deadline is None else min(deadline, own)
    priority = call.priority if priority is None else priority
    return replace(call, deadline=deadline, priority=priority, sequence=sequence)


def _write(output: OutputTensor, place: Place) -> None:
    """Writes an output to shared memory."""
    data = output.raw()
    if len(data) > place.size:
        raise ServingError(
            Code.INTERNAL,
            f"shared memory size specified with the request for output '{output.name}' ({place.size} bytes) "
            f"should be at least {len(data)} bytes to hold the results",
        )
    place.write(data)
