"""The same three calls over every API (run a model, describe it, load it), and how each is answered."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http.client import HTTPConnection
from typing import Any

import grpc

from headrace_protos import GetModelMetadataRequest, ReloadConfigRequest
from headrace_protos.inference.grpc_service_pb2 import (
    ModelInferRequest,
    ModelMetadataRequest,
    RepositoryModelLoadRequest,
)
from tests.support.calls import ANSWER_WITHIN, PREDICT, floats, predict_request

OIP = "/inference.GRPCInferenceService/"
METADATA_PATH = "/tensorflow.serving.PredictionService/GetModelMetadata"
RELOAD_PATH = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


class Outcome(Enum):
    """How a call was answered."""

    OK = "ok"
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    EXHAUSTED = "exhausted"
    NOT_FOUND = "not found"
    OTHER = "other"


_BY_CODE = {
    grpc.StatusCode.UNAUTHENTICATED: Outcome.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: Outcome.DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Outcome.EXHAUSTED,
    grpc.StatusCode.NOT_FOUND: Outcome.NOT_FOUND,
}
_BY_STATUS = {
    200: Outcome.OK,
    401: Outcome.UNAUTHENTICATED,
    403: Outcome.DENIED,
    404: Outcome.NOT_FOUND,
    429: Outcome.EXHAUSTED,
}


@dataclass(frozen=True)
class Answered:
    """How a call was answered.

    Attributes:
        outcome: The kind of answer.
        text: The text of a refusal.
        headers: The headers of HTTP, or the trailers of gRPC, by their names in lower case.
    """

    outcome: Outcome
    text: str
    headers: Mapping[str, str]


class Target:
    """A server, by its two ports.

    Args:
        channel: A channel to its gRPC port.
        connect: Opens a new connection to its REST port.
    """

    def __init__(self, channel: grpc.Channel, connect: Callable[[], HTTPConnection]) -> None:
        self._channel = channel
        self.connect = connect

    def grpc(self, path: str, data: bytes, header: str = "") -> Answered:
        """A unary call."""
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(path)
        try:
            call(data, timeout=ANSWER_WITHIN, metadata=(("authorization", header),) if header else ())
        except grpc.RpcError as error:
            sent: Any = error.trailing_metadata() or ()
            trailers = {str(name): str(value) for name, value in sent}
            return Answered(_BY_CODE.get(error.code(), Outcome.OTHER), error.details() or "", trailers)
        return Answered(Outcome.OK, "", {})

    def http(self, method: str, path: str, body: Any = None, header: str = "") -> Answered:
        """Sends a request on a new connection."""
        connection = self.connect()
        try:
            data = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json", **({"Authorization": header} if header else {})}
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            text, got = response.read().decode(), {name.lower(): value for name, value in response.getheaders()}
            return Answered(_BY_STATUS.get(response.status, Outcome.OTHER), text, got)
        finally:
            connection.close()


Ask = Callable[[Target, str, str, str], Answered]
"""Maps a server, a method (predict, metadata, admin), a model and a header to the answer."""


def ask_tf_serving(target: Target, method: str, model: str, header: str) -> Answered:
    """TensorFlow Serving's gRPC API."""
    if method == "predict":
        return target.grpc(
            PREDICT, predict_request({"x": floats([1, 2, 3, 4])}, name=model).SerializeToString(), header
        )
    if method == "metadata":
        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = model
        return target.grpc(METADATA_PATH, request.SerializeToString(), header)
    return target.grpc(RELOAD_PATH, ReloadConfigRequest().SerializeToString(), header)


def ask_open_inference(target: Target, method: str, model: str, header: str) -> Answered:
    """The Open Inference Protocol over gRPC."""
    if method == "predict":
        request = ModelInferRequest(model_name=model)
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(floats([1, 2, 3, 4]).tobytes())
        return target.grpc(OIP + "ModelInfer", request.SerializeToString(), header)
    if method == "metadata":
        return target.grpc(OIP + "ModelMetadata", ModelMetadataRequest(name=model).SerializeToString(), header)
    load = RepositoryModelLoadRequest(model_name=model)
    return target.grpc(OIP + "RepositoryModelLoad", load.SerializeToString(), header)


def ask_rest(target: Target, method: str, model: str, header: str) -> Answered:
    """TensorFlow Serving's REST API, which has no administrative calls."""
    if method == "predict":
        return target.http("POST", f"/v1/models/{model}:predict", {"instances": [[1, 2, 3, 4]]}, header)
    return target.http("GET", f"/v1/models/{model}" + "/metadata" * (method == "metadata"), None, header)


def ask_v2(target: Target, method: str, model: str, header: str) -> Answered:
    """The Open Inference Protocol over HTTP."""
    if method == "predict":
        inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]
        return target.http("POST", f"/v2/models/{model}/infer", {"inputs": inputs}, header)
    if method == "metadata":
        return target.http("GET", f"/v2/models/{model}", None, header)
    return target.http("POST", f"/v2/repository/models/{model}/load", {}, header)


APIS: Mapping[str, Ask] = {
    "tf-serving-grpc": ask_tf_serving,
    "open-inference-grpc": ask_open_inference,
    "tf-serving-rest": ask_rest,
    "open-inference-rest": ask_v2,
}


def methods_of(api: str) -> Sequence[str]:
    """The kinds of methods that an API has."""
    return ("predict", "metadata") if api == "tf-serving-rest" else ("predict", "metadata", "admin")


def target_of(grpc_port: int, rest_port: int) -> Target:
    """A server without TLS."""
    channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)])
    return Target(channel, lambda: HTTPConnection("127.0.0.1", rest_port, timeout=ANSWER_WITHIN))
