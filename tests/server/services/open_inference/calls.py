"""Requests of the Open Inference Protocol, built from headrace's own messages, and a channel that sends them."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_protos.inference.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from tests.support.calls import ANSWER_WITHIN, MODEL, Refusal, refusal_of
from tests.support.running import eventually

SERVICE = "/inference.GRPCInferenceService/"

ROW = np.array([[1, 2, 3, 4]], np.float32)
"""An input of `models.linear`, which answers it with TEN."""

TEN = [[10.0]]

UNKNOWN_ID = "[request id: <id_unknown>] "

_NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_NUMPY = {"FP32": np.float32, "FP16": np.float16, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}


def tensor(
    name: str = "x", datatype: str = "FP32", shape: Sequence[int] = (1, 4), contents: Any = None, **parameters: Any
) -> ModelInferRequest.InferInputTensor:
    """An input, with typed contents if values are given."""
    made = ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    set_parameters(made.parameters, parameters)
    if contents is not None:
        made.contents.SetInParent()
        for field, values in contents.items():
            getattr(made.contents, field).extend(values)
    return made


def wanted(name: str = "y", **parameters: Any) -> ModelInferRequest.InferRequestedOutputTensor:
    """A requested output."""
    made = ModelInferRequest.InferRequestedOutputTensor(name=name)
    set_parameters(made.parameters, parameters)
    return made


def infer_request(
    inputs: Sequence[ModelInferRequest.InferInputTensor] | None = None,
    raw: Sequence[bytes] | None = None,
    *,
    outputs: Sequence[ModelInferRequest.InferRequestedOutputTensor] = (),
    parameters: Mapping[str, Any] | None = None,
    **fields: str,
) -> ModelInferRequest:
    """A ModelInfer of the served test model; by default a valid one for `models.linear`."""
    request = ModelInferRequest(model_name=MODEL)
    for name, value in fields.items():
        setattr(request, name, value)
    request.inputs.extend([tensor()] if inputs is None else inputs)
    request.raw_input_contents.extend([ROW.tobytes()] if raw is None else raw)
    request.outputs.extend(outputs)
    set_parameters(request.parameters, parameters or {})
    return request


def set_parameters(into: Any, values: Mapping[str, Any]) -> None:
    """Sets parameters, each in the field for its type."""
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in values.items():
        setattr(into[name], fields[type(value)], value)


def packed(*strings: bytes) -> bytes:
    """Strings in the wire format of BYTES."""
    return b"".join(struct.pack("<I", len(string)) + string for string in strings)


def unpacked(raw: bytes) -> list[bytes]:
    """The strings in BYTES of the wire format."""
    strings, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        strings.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return strings


def array(response: ModelInferResponse, index: int = 0) -> npt.NDArray[Any]:
    """An output, decoded from the raw contents."""
    output = response.outputs[index]
    raw = response.raw_output_contents[index]
    return np.frombuffer(raw, _NUMPY[output.datatype]).reshape(list(output.shape))


class InferenceCaller:
    """A connection to a server.

    Args:
        port: The gRPC port.
    """

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", _NO_LIMIT)

    def call(self, request: Message, **options: Any) -> Any:
        """Sends a request to the method with its name; returns the response."""
        method = type(request).DESCRIPTOR.name.removesuffix("Request")
        response = getattr(messages, f"{method}Response")
        stub = self._channel.unary_unary(
            SERVICE + method, type(request).SerializeToString, response_deserializer=response.FromString
        )
        return stub(request, **{"timeout": ANSWER_WITHIN, **options})

    def await_ready(self, *versions: int) -> None:
        """Waits until every version is ready; a server starts to serve as soon as one version is."""
        asked = [messages.ModelReadyRequest(name=MODEL, version=str(version)) for version in versions]
        eventually(lambda: all(self.call(request).ready for request in asked))

    def refusal(self, request: Message, **options: Any) -> Refusal:
        """The status of a call that must fail."""
        try:
            answer = self.call(request, **options)
        except grpc.RpcError as error:
            return refusal_of(error)
        raise AssertionError(f"it was answered: {answer}")

    def stream(self, requests: Iterable[ModelInferRequest], **options: Any) -> Any:
        """A call of ModelStreamInfer, whose responses can be iterated."""
        stub = self._channel.stream_stream(
            f"{SERVICE}ModelStreamInfer",
            ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )
        return stub(iter(requests), **{"timeout": ANSWER_WITHIN, **options})

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()
