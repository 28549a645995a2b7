"""Requests built from headrace's own messages, and a plain channel that sends them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from headrace_protos import (
    ClassificationRequest,
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
    TensorProto,
)
from headrace_protos.tensor import to_array, to_proto

MODEL = "model"
"""The name under which tests serve a model."""

ANSWER_WITHIN = 60.0
"""Seconds after which a call that must succeed has failed."""

PREDICT = "/tensorflow.serving.PredictionService/Predict"

SEEN = b"\x32\x01c"
"""An unknown field, or a Predict's `client_id`: a request that ends with it is not plain, so Python sees it."""

Metadata = Sequence[tuple[str, str]]
Sendable = npt.ArrayLike | TensorProto

_METHODS: dict[type[Message], tuple[str, type[Message]]] = {
    PredictRequest: (PREDICT, PredictResponse),
    ClassificationRequest: ("/tensorflow.serving.PredictionService/Classify", ClassificationResponse),
    RegressionRequest: ("/tensorflow.serving.PredictionService/Regress", RegressionResponse),
    MultiInferenceRequest: ("/tensorflow.serving.PredictionService/MultiInference", MultiInferenceResponse),
    GetModelMetadataRequest: ("/tensorflow.serving.PredictionService/GetModelMetadata", GetModelMetadataResponse),
    GetModelStatusRequest: ("/tensorflow.serving.ModelService/GetModelStatus", GetModelStatusResponse),
    ReloadConfigRequest: ("/tensorflow.serving.ModelService/HandleReloadConfigRequest", ReloadConfigResponse),
}

_NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Refusal(NamedTuple):
    """How a call failed."""

    code: grpc.StatusCode
    text: str


def refusal_of(error: Exception) -> Refusal:
    """The status of a failed call."""
    assert isinstance(error, grpc.Call)
    return Refusal(error.code(), error.details() or "")


def predict_request(
    inputs: Mapping[str, Sendable], *, outputs: Sequence[str] = (), as_content: bool = False, **spec: Any
) -> PredictRequest:
    """A Predict of the served test model.

    Args:
        inputs: An array, or an encoded tensor, for each alias.
        outputs: The output filter.
        as_content: Whether arrays are sent as `tensor_content`.
        spec: `name`, `version`, `version_label` or `signature_name`, if they are not the defaults.
    """
    request = PredictRequest(output_filter=outputs)
    name_model(request, **spec)
    for alias, value in inputs.items():
        if isinstance(value, TensorProto):
            request.inputs[alias].CopyFrom(value)
        else:
            to_proto(value, request.inputs[alias], as_content=as_content)
    return request


def name_model(request: Any, *, name: str = MODEL, version: int | None = None, **rest: str) -> None:
    """Fills a request's ModelSpec."""
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    for field, value in rest.items():
        setattr(request.model_spec, field, value)


def metadata_request(*fields: str, **spec: Any) -> GetModelMetadataRequest:
    """A GetModelMetadata of the served test model."""
    request = GetModelMetadataRequest(metadata_field=fields)
    name_model(request, **spec)
    return request


def status_request(**spec: Any) -> GetModelStatusRequest:
    """A GetModelStatus of the served test model."""
    request = GetModelStatusRequest()
    name_model(request, **spec)
    return request


def floats(*rows: Sequence[float]) -> npt.NDArray[np.float32]:
    """Rows as a float array."""
    return np.array(rows, np.float32)


class Caller:
    """A channel to one server; the type of a request selects its method."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_NO_LIMIT)

    def begin(self, request: Message, *, timeout: float = ANSWER_WITHIN, metadata: Metadata = ()) -> Any:
        """Sends a request; returns the future of its response."""
        path, response = _METHODS[type(request)]
        call = self.channel.unary_unary(path, type(request).SerializeToString, response.FromString)
        return call.future(request, timeout=timeout, metadata=tuple(metadata))

    def call(self, request: Message, *, timeout: float = ANSWER_WITHIN, metadata: Metadata = ()) -> Any:
        """Sends a request and waits for its response."""
        return self.begin(request, timeout=timeout, metadata=metadata).result()

    def predict(self, inputs: Mapping[str, Sendable], **how: Any) -> dict[str, npt.NDArray[Any]]:
        """Sends a Predict; returns its outputs as arrays."""
        return arrays(self.call(predict_request(inputs, **how)))

    def refusal(self, request: Message, *, timeout: float = ANSWER_WITHIN) -> Refusal:
        """Sends a request that must fail; returns the error."""
        error = self.begin(request, timeout=timeout).exception()
        assert error is not None, "the call succeeded"
        return refusal_of(error)

    def send_bytes(self, path: str, data: bytes, metadata: tuple[tuple[str, str | bytes], ...] = ()) -> bytes | Refusal:
        """Sends raw bytes; returns the bytes of the response, or the error."""
        send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        try:
            return send(data, timeout=ANSWER_WITHIN, metadata=metadata)
        except grpc.RpcError as error:
            return refusal_of(error)

    def close(self) -> None:
        """Closes the channel, and ends the calls in flight."""
        self.channel.close()


def arrays(response: PredictResponse) -> dict[str, npt.NDArray[Any]]:
    """A response's outputs."""
    return {alias: to_array(tensor) for alias, tensor in response.outputs.items()}
