"""The generate extension over HTTP: takes a plain JSON object; answers with an object, or with server-sent events.

Source: Triton's http_server.cc. A member with the name of an input holds that input's values; others are parameters.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from headrace_batching import LoopDelivery
from headrace_server.backends.signature import TensorSpec
from headrace_server.errors import ServingError, invalid, status_of
from headrace_server.models.call import Call
from headrace_server.models.servable import Servable
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.limits import limited_call
from headrace_server.services.open_inference.answer import InferAnswer, OutputTensor
from headrace_server.services.open_inference.datatypes import HALVES, datatype_of
from headrace_server.services.open_inference.inference import infer, infer_many, max_rows, signature_of
from headrace_server.services.open_inference.request import InferRequest, InputTensor, Parameters
from headrace_server.services.open_inference.rest.bodies import received
from headrace_server.services.open_inference.rest.inputs import values_of
from headrace_server.services.open_inference.rest.json_values import read_document, text
from headrace_server.services.open_inference.rest.outputs import head_text, json_text, values_text
from headrace_server.services.open_inference.rest.routes import Route
from headrace_server.services.open_inference.server import OpenInference

ONE_ANSWER = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number "
    "of responses"
)

_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class GenerateCalls:
    """Answers the calls of generate and generate_stream.

    Args:
        server: The models, the regions and the settings that gRPC and HTTP share.
        timeout: Seconds that a model may take for one answer to one call; None means no limit.
    """

    def __init__(self, server: OpenInference, timeout: float | None) -> None:
        self._server = server
        self._timeout = timeout

    async def once(self, asked: Route, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Runs a model, and returns its single answer.

        Raises:
            ServingError: The request was refused, or the model failed or gave no answer, or several.
        """
        async with (
            limited_call(delivery, self._timeout, "ModelInfer") as call,
            aclosing(self._answers(asked, request, call)) as answers,
        ):
            found = [answer async for answer in _at_most(answers, 2)]
        if len(found) != 1:
            raise invalid(ONE_ANSWER)
        return HttpAnswer(200, _written(found[0]), {"Content-Type": "application/json"})

    async def stream(self, asked: Route, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        """Runs a model, and sends each of its answers as an event as soon as it exists.

        Raises:
            ServingError: The request was refused, or failed before the first answer.
        """
        events = self._events(asked, request, Call(delivery, api="ModelStreamInfer"))
        return HttpAnswer(200, await anext(events, b""), _EVENTS, events)

    async def _events(self, asked: Route, request: HttpRequest, call: Call) -> AsyncGenerator[bytes, None]:
        begun = False
        try:
            async with aclosing(self._answers(asked, request, call)) as answers:
                async for answer in answers:
                    yield _event(_written(answer))
                    begun = True
        except ServingError as error:
            if not begun:
                raise
            yield _event(json_text({"error": status_of(error)[1]}))

    async def _answers(self, asked: Route, request: HttpRequest, call: Call) -> AsyncGenerator[InferAnswer, None]:
        lookup = self._server.models.lookup
        with await lookup.lease(asked.model, asked.version, deadline=call.deadline) as servable:
            document = read_document(bytes(await received(request)))
            inference = _request(asked.model, servable, document)
            if not servable.streams:
                yield await infer(servable, inference, call)
                return
            async with aclosing(infer_many(servable, inference)) as answers:
                async for answer in answers:
                    yield answer


async def _at_most(answers: AsyncGenerator[InferAnswer, None], count: int) -> AsyncGenerator[InferAnswer, None]:
    async for answer in answers:
        yield answer
        count -= 1
        if not count:
            return


def _request(model: str, servable: Servable, document: Mapping[str, Any]) -> InferRequest:
    _, signature = signature_of(servable, "")
    batched = max_rows(servable, signature) > 0
    identity = text(document, "id") if "id" in document and "id" not in signature.inputs else ""
    inputs = {
        alias: _input(alias, spec, document[alias], batched=batched)
        for alias, spec in signature.inputs.items()
        if alias in document
    }
    return InferRequest(model, identity, inputs, parameters=Parameters())


def _input(alias: str, spec: TensorSpec, value: Any, *, batched: bool) -> InputTensor:
    datatype = datatype_of(spec.dtype).name
    if datatype in HALVES:
        raise invalid(f"receiving {datatype} data via JSON is not supported for input {alias}")
    values = values_of(value if isinstance(value, list) else [value], spec.dtype)
    inner = _shape(alias, spec.shape[1:] if batched else spec.shape, len(values))
    return InputTensor(alias, datatype, (1, *inner) if batched else inner, values)


def _shape(alias: str, declared: tuple[int | None, ...], count: int) -> tuple[int, ...]:
    """The shape of this many values: as declared, with one varying dimension as long as needed."""
    if declared.count(None) > 1:
        raise invalid(
            f"the shape of input {alias} cannot be derived from a flat list, because several of its dimensions vary"
        )
    known = 1
    for size in declared:
        known *= 1 if size is None else size
    return tuple(count // max(1, known) if size is None else size for size in declared)


def _written(answer: InferAnswer) -> bytes:
    members = [b"," + json_text(output.name) + b":" + _value(output) for output in answer.outputs]
    return b"".join((head_text(answer), *members, b"}"))


def _value(output: OutputTensor) -> bytes:
    """The JSON of an output: a single value is written alone, and several values as a list."""
    values = values_text(output)
    return values[1:-1] if output.size == 1 else values


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
