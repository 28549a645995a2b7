"""Infer calls over HTTP: converts bodies to requests, runs models, and converts answers to bodies."""

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from pickle import PickleBuffer
from typing import Any

import numpy as np

from headrace_batching import LoopDelivery
from headrace_server.backends.signature import Signature
from headrace_server.errors import invalid, unimplemented
from headrace_server.models.call import SequenceStep
from headrace_server.models.servable import Servable
from headrace_server.processes import memory_file
from headrace_server.processes.pool import ELEMENT_BYTES, JsonProcesses
from headrace_server.services.http import SMALL_BYTES, HttpAnswer, HttpRequest
from headrace_server.services.json.reader import CAREFUL_BYTES, parse_quickly
from headrace_server.services.limits import deadline_after, limited_call, timed
from headrace_server.services.open_inference.answer import InferAnswer
from headrace_server.services.open_inference.datatypes import datatype_of
from headrace_server.services.open_inference.inference import infer, max_rows, signature_of
from headrace_server.services.open_inference.parameters import MICROSECONDS, SIGNATURE, VERSION_LABEL, priority_of
from headrace_server.services.open_inference.regions import Place
from headrace_server.services.open_inference.request import (
    InferRequest,
    InputTensor,
    Parameters,
    WantedOutput,
    tag,
)
from headrace_server.services.open_inference.rest.bodies import received
from headrace_server.services.open_inference.rest.compression import chosen, compress
from headrace_server.services.open_inference.rest.inputs import BodyInput, InferBody, RegionUse, read_infer
from headrace_server.services.open_inference.rest.outputs import (
    WRITTEN_ELEMENTS,
    InferContent,
    count_of_values,
    write_infer,
)
from headrace_server.services.open_inference.rest.routes import Route
from headrace_server.services.open_inference.server import OpenInference
from headrace_server.services.open_inference.strings import pack

HEADER_LENGTH = "Inference-Header-Content-Length"

RAW_INPUT = "raw_input"


class InferCalls:
    """Answers infer calls.

    Args:
        server: The models, the regions and the settings that gRPC and HTTP share.
        processes: The processes that parse and write large JSON.
        timeout: Seconds that a model may take; None means no limit.
    """

    def __init__(self, server: OpenInference, processes: JsonProcesses, timeout: float | None) -> None:
        self._server = server
        self._processes = processes
        self._timeout = timeout

    async def answer(self, asked: Route, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Answers one call.

        Raises:
            ServingError: The request was refused or has failed.
        """
        lookup = self._server.models.lookup
        deadline = deadline_after(self._timeout)
        with ExitStack() as held:
            servable = held.enter_context(await lookup.lease(asked.model, asked.version, deadline=deadline))
            if not servable.answers_once:
                raise unimplemented("HTTP end point doesn't support models with decoupled transaction policy")
            data = await received(request)
            json_size = _json_size(request, len(data))
            if json_size == 0:
                inference = _of_bytes(asked.model, servable, data)
            else:
                body = await self._read(data, json_size, asked.model)
                if label := _text(body.parameters, VERSION_LABEL):
                    labelled = await lookup.lease(asked.model, asked.version, label, deadline=deadline)
                    servable = held.enter_context(labelled)
                inference = self._request(asked.model, servable, body)
            async with limited_call(delivery, self._timeout, "ModelInfer") as call:
                answer = await infer(servable, inference, call)
        content = await self._write(answer)
        return await _http_answer(content, chosen(request.header("accept-encoding")))

    async def _read(self, data: memoryview, json_size: int, model: str) -> InferBody:
        document = parse_quickly(bytes(data[:json_size])) if json_size <= SMALL_BYTES else None
        if document is not None or json_size <= CAREFUL_BYTES:
            return read_infer(data, json_size, model, document)
        file = memory_file.create()
        memory_file.append(file, data)
        async with timed(self._timeout):
            return await self._processes.run(read_infer, json_size, model, size=json_size, body=file)

    async def _write(self, answer: InferAnswer) -> InferContent:
        values = count_of_values(answer)
        if values <= WRITTEN_ELEMENTS:
            return write_infer(answer)
        return InferContent(*await self._processes.run(_written, answer, size=values * ELEMENT_BYTES))

    def _request(self, model: str, servable: Servable, body: InferBody) -> InferRequest:
        outputs = {
            output.name: WantedOutput(output.name, output.classes, self._place(output.region), output.binary)
            for output in body.outputs
        }
        if not outputs and body.binary_output:
            _, signature = signature_of(servable, _text(body.parameters, SIGNATURE))
            outputs = {name: WantedOutput(name, binary=True) for name in signature.outputs}
        inputs = {each.name: self._input(each) for each in body.inputs}
        return InferRequest(model, body.id, inputs, outputs, _parameters(body.parameters))

    def _input(self, sent: BodyInput) -> InputTensor:
        place = self._place(sent.region)
        if place is not None:
            return InputTensor(sent.name, sent.datatype, sent.shape, place)
        content = sent.raw.data if sent.raw is not None else sent.array
        assert content is not None  # an input has one of these three
        return InputTensor(sent.name, sent.datatype, sent.shape, content)

    def _place(self, use: RegionUse | None) -> Place | None:
        return None if use is None else self._server.regions.place(use.name, use.offset, use.size)


def _json_size(request: HttpRequest, size: int) -> int:
    """The number of bytes of JSON at the beginning of a body; 0 for a body that is one input's bytes."""
    value = request.header(HEADER_LENGTH.lower())
    if not value:
        return size or 1  # empty text is not JSON either
    try:
        length = int(value)
    except ValueError as error:
        raise invalid(f"Unable to parse {HEADER_LENGTH}, got: {value}") from error
    if not 0 <= length <= size:
        raise invalid(f"inference header size should be in range (0, {size}), got: {length}")
    return length


def _of_bytes(model: str, servable: Servable, data: memoryview) -> InferRequest:
    """A request whose body is the model's single input; all outputs are returned as bytes."""
    _, signature = signature_of(servable, "")
    if len(signature.inputs) != 1:
        raise invalid(
            f"{tag('')}Raw request must only have 1 input (found 1) to be deduced but got {len(signature.inputs)} "
            f"inputs in '{model}' model configuration"
        )
    ((name, spec),) = signature.inputs.items()
    datatype = datatype_of(spec.dtype).name
    content: bytes | memoryview = pack([bytes(data)]) if datatype == "BYTES" else data
    size = 1 if datatype == "BYTES" else len(data) // spec.array_dtype.itemsize
    shape = _deduced(signature, size, batched=max_rows(servable, signature) > 0)
    tensor = InputTensor(name, datatype, shape, content, RAW_INPUT)
    return InferRequest(
        model, "", {name: tensor}, {each: WantedOutput(each, binary=True) for each in signature.outputs}
    )


def _deduced(signature: Signature, size: int, *, batched: bool) -> tuple[int, ...]:
    """The shape of one row with this many elements; their number determines the dimension that varies, if any."""
    (spec,) = signature.inputs.values()
    sizes = [1 if batched and not axis else wanted for axis, wanted in enumerate(spec.shape)]
    known = int(np.prod([each for each in sizes if each is not None]))
    if sizes.count(None) > 1:
        raise invalid(
            f"{tag('')}the shape of a raw request cannot be deduced: several dimensions of the model's input vary"
        )
    return tuple(size // max(1, known) if each is None else each for each in sizes)


def _parameters(sent: Mapping[str, Any]) -> Parameters:
    timeout = sent.get("timeout", 0)
    identity = sent.get("sequence_id")
    start, end = bool(sent.get("sequence_start", False)), bool(sent.get("sequence_end", False))
    return Parameters(
        signature=_text(sent, SIGNATURE),
        priority=priority_of(sent.get("priority", 0)),
        timeout=timeout / MICROSECONDS if timeout else None,
        sequence=SequenceStep(identity, start=start, end=end) if identity else None,
    )


def _text(sent: Mapping[str, Any], name: str) -> str:
    value = sent.get(name, "")
    if not isinstance(value, str):
        raise invalid(f"Unable to parse '{name}': attempt to access JSON non-string as string")
    return value


def _written(answer: InferAnswer) -> Any:
    content = write_infer(answer)
    return PickleBuffer(content.body), content.json_size


async def _http_answer(content: InferContent, encoding: str) -> HttpAnswer:
    headers = {"Content-Type": "application/json"}
    if content.json_size is not None:
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(content.json_size)}
    body = content.body
    if encoding:
        headers["Content-Encoding"] = encoding
        body = await asyncio.to_thread(compress, body, encoding)
    return HttpAnswer(200, body, headers)
