"""Converts gRPC messages to requests, and answers to messages.

The checks and texts are those of Triton's infer_handler.cc.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from headrace_protos.inference.grpc_service_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from headrace_protos.tensor import dtype_of
from headrace_server.errors import invalid
from headrace_server.services.open_inference.answer import InferAnswer
from headrace_server.services.open_inference.datatypes import BY_NAME
from headrace_server.services.open_inference.parameters import read_classes, read_parameters, read_place
from headrace_server.services.open_inference.regions import Regions
from headrace_server.services.open_inference.request import Content, InferRequest, InputTensor, WantedOutput, tag
from headrace_server.services.room import check_answer

_KINDS = {
    "bool_contents": "BOOL",
    "int_contents": "INT32",
    "int64_contents": "INT64",
    "uint_contents": "UINT32",
    "uint64_contents": "UINT64",
    "fp32_contents": "FP32",
    "fp64_contents": "FP64",
    "bytes_contents": "BYTES",
}
_SENT = {"int_contents": np.int32, "uint_contents": np.uint32}  # only their low bytes count if the tensor is narrower


def read_request(message: ModelInferRequest, regions: Regions) -> InferRequest:
    """Converts a message to a request, with checks 3 to 7: parameters, duplicate names, contents and raw contents.

    Raises:
        ServingError: INVALID_ARGUMENT or NOT_FOUND.
    """
    parameters = read_parameters(message.parameters)
    _check_names(message)
    raw = iter(message.raw_input_contents)
    return InferRequest(
        message.model_name,
        message.id,
        {tensor.name: _input(tensor, message, raw, regions) for tensor in message.inputs},
        {output.name: _output(output, regions) for output in message.outputs},
        parameters,
    )


def write_answer(answer: InferAnswer, message: ModelInferResponse | None = None) -> ModelInferResponse:
    """An answer as a message: each output has an entry in `raw_output_contents`, empty if it was written elsewhere.

    Args:
        answer: The model's answer.
        message: The message to fill; a new one if not given.
    """
    check_answer(sum(output.array.nbytes for output in answer.outputs if not output.elsewhere))
    message = ModelInferResponse() if message is None else message
    message.model_name, message.model_version, message.id = answer.model, str(answer.version), answer.id
    for output in answer.outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        message.raw_output_contents.append(b"" if output.elsewhere else output.raw())
    return message


def _check_names(message: ModelInferRequest) -> None:
    for what, tensors in (("input", message.inputs), ("output", message.outputs)):
        seen = set()
        for tensor in tensors:
            if tensor.name in seen:
                raise invalid(f"{tag(message.id)}{what} '{tensor.name}' already exists in request")
            seen.add(tensor.name)


def _input(
    tensor: ModelInferRequest.InferInputTensor, message: ModelInferRequest, raw: Iterator[bytes], regions: Regions
) -> InputTensor:
    content = _content(tensor, message, raw, regions)
    return InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), content)


def _content(
    tensor: ModelInferRequest.InferInputTensor, message: ModelInferRequest, raw: Iterator[bytes], regions: Regions
) -> Content:
    where = f"'{tensor.name}' for model '{message.model_name}'"
    place = read_place(tensor.parameters, tensor.name, regions) if tensor.parameters else None
    if place is not None:
        if tensor.HasField("contents"):
            raise invalid(f"unexpected 'content' provided when using shared memory for input tensor {where}")
        return place
    if tensor.HasField("contents"):
        if message.raw_input_contents:
            raise invalid(f"contents field must not be specified when using raw_input_contents for {where}")
        return _values(tensor.contents, tensor.datatype, where)
    content = next(raw, None)
    if content is None:
        raise invalid(f"unable to find data for input tensor {where} in request.")
    return content


def _values(contents: InferTensorContents, name: str, where: str) -> Content:
    """The one field that is not empty, as an array of the tensor's dtype."""
    found: Content = b""
    fields = [field.name for field, _ in contents.ListFields()]
    datatype = BY_NAME.get(name)
    for position, field in enumerate(fields):
        if position:
            raise invalid(
                f"unexpected explicit tensor data for input tensor {where}, binary data was already supplied."
            )
        if datatype is None or field not in datatype.fields:
            raise invalid(
                f"unexpected explicit tensor data for input tensor {where} of type '{_KINDS[field]}', "
                f"expected datatype '{name if datatype else '<invalid>'}'"
            )
        found = _array(getattr(contents, field), field, name)
    return found


def _array(values: Sequence[Any], field: str, name: str) -> Content:
    if name == "BYTES":
        strings = np.empty(len(values), np.object_)
        strings[:] = list(values)
        return strings
    dtype = numpy_dtype(name)
    return np.array(values, _SENT.get(field, dtype)).astype(dtype, copy=False)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of arrays of a datatype."""
    return dtype_of(BY_NAME[name].data_type)


def _output(output: ModelInferRequest.InferRequestedOutputTensor, regions: Regions) -> WantedOutput:
    if not output.parameters:
        return WantedOutput(output.name)
    classes = read_classes(output.parameters)
    return WantedOutput(output.name, classes, read_place(output.parameters, output.name, regions))
