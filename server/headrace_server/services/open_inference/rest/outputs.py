"""Converts an answer to the body of an infer call: JSON, followed by the bytes of outputs that are wanted as bytes."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from headrace_batching.task import Array
from headrace_server.errors import invalid
from headrace_server.services.open_inference.answer import InferAnswer, OutputTensor
from headrace_server.services.open_inference.datatypes import HALVES
from headrace_server.services.open_inference.rest.inputs import BINARY_SIZE

WRITTEN_ELEMENTS = 1 << 16
"""Up to this many values are written as JSON in the event loop, in a few milliseconds."""


@dataclass(frozen=True, slots=True)
class InferContent:
    """The body of an answer.

    Attributes:
        body: The whole body.
        json_size: The number of bytes of JSON at its beginning; None if there is nothing else.
    """

    body: bytes
    json_size: int | None


def write_infer(answer: InferAnswer) -> InferContent:
    """The body for an answer.

    Raises:
        ServingError: INVALID_ARGUMENT if an output has no values in JSON and is not wanted as bytes.
    """
    parts = [head_text(answer), b',"outputs":[']
    raw = []
    for position, output in enumerate(answer.outputs):
        parts.append(b"," if position else b"")
        parts.append(_described(output))
        if output.elsewhere:
            parts.append(b"}")
        elif output.binary:
            raw.append(output.raw())
            parts.append(b',"parameters":{"%s":%d}}' % (BINARY_SIZE.encode(), len(raw[-1])))
        else:
            parts += [b',"data":', values_text(output), b"}"]
    parts.append(b"]}")
    text = b"".join(parts)
    return InferContent(b"".join((text, *raw)), len(text) if any(output.binary for output in answer.outputs) else None)


def count_of_values(answer: InferAnswer) -> int:
    """The number of values to write as JSON."""
    return sum(output.size for output in answer.outputs if not output.elsewhere and not output.binary)


def head_text(answer: InferAnswer) -> bytes:
    """The beginning of an answer's object: the model and the request."""
    head = {"model_name": answer.model, "model_version": str(answer.version)}
    if answer.id:
        head = {"id": answer.id, **head}
    return json_text(head)[:-1]


def _described(output: OutputTensor) -> bytes:
    return json_text({"name": output.name, "datatype": output.datatype, "shape": list(output.shape)})[:-1]


def json_text(value: Any) -> bytes:
    """A small value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogateescape")


def values_text(output: OutputTensor) -> bytes:
    """The values of an output as a flat list.

    Raises:
        ServingError: INVALID_ARGUMENT if they cannot be written as JSON.
    """
    if output.datatype in HALVES:
        raise invalid(
            f"sending {output.datatype} data via JSON is not supported. Please use the binary data format for output"
        )
    flat = output.array.reshape(-1)
    if flat.dtype.hasobject:
        return _strings(output.name, flat)
    if flat.dtype.kind == "f":
        return _floats(flat)
    return orjson.dumps(flat.tolist() if flat.dtype.kind == "b" else np.ascontiguousarray(flat), None, _NUMPY)


_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def _floats(flat: Array) -> bytes:
    """Writes floats as doubles; a number that is not finite is a bare word, as in Triton and Python's json."""
    with np.errstate(invalid="ignore"):  # a signalling NaN is invalid
        doubles = np.ascontiguousarray(flat, np.float64)
    text = orjson.dumps(doubles, None, _NUMPY)
    others = doubles[~np.isfinite(doubles)]
    if not len(others):
        return text
    first, *rest = text.split(b"null")  # orjson writes null for each of them
    return first + b"".join(_word(value) + part for value, part in zip(others, rest, strict=True))


def _word(value: float) -> bytes:
    return b"NaN" if np.isnan(value) else b"Infinity" if value > 0 else b"-Infinity"


def _strings(name: str, flat: Iterable[Any]) -> bytes:
    try:
        return orjson.dumps([item if isinstance(item, str) else item.decode() for item in flat])
    except (UnicodeDecodeError, orjson.JSONEncodeError) as error:
        text = f"output '{name}' holds bytes that are not UTF-8, which JSON cannot express: ask for binary data"
        raise invalid(text) from error
