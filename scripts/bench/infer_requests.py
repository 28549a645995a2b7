"""The measured requests of the Open Inference Protocol, the Predict to compare with, and a check of answers."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np

from headrace_protos import PredictResponse
from headrace_protos.inference.grpc_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    SystemSharedMemoryRegisterRequest,
)

from .cases import Case
from .load import PREDICT
from .requests import AnswerError, request

INFER = "/inference.GRPCInferenceService/ModelInfer"
REGISTER = "/inference.GRPCInferenceService/SystemSharedMemoryRegister"

_JSON_BYTES = "Inference-Header-Content-Length"
_SHARED = Path("/dev/shm")
_REGION = "measured"


@dataclass(frozen=True)
class Request:
    """One request: over HTTP with these headers, or over gRPC, where `body` is the message."""

    path: str
    body: bytes
    read: Callable[[bytes], np.ndarray]
    over_http: bool = False
    headers: tuple[str, ...] = ()

    def checked(self, address: str, expected: np.ndarray) -> int:
        """Sends the request once and returns the length of the answer in bytes.

        Raises AnswerError if the answer's `y` is not `expected`, float32 [1, outputs], and grpc.RpcError if the status
        is not OK.
        """
        answer = self._http(address) if self.over_http else self._grpc(address)
        got = self.read(answer)
        if got.shape != (expected.size,) or not np.allclose(got, expected.ravel(), rtol=1e-4, atol=1e-5):
            raise AnswerError(f"{address}{self.path} answered {got}, not {expected}")
        return len(answer)

    def _grpc(self, address: str) -> bytes:
        answer: bytes = call(address, self.path, self.body)
        return answer

    def _http(self, address: str) -> bytes:
        connection = http.client.HTTPConnection(address, timeout=30)
        headers = dict(header.split(": ", 1) for header in self.headers)
        connection.request("POST", self.path, self.body, headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != http.client.OK:
            raise AnswerError(f"{address}{self.path} answered {answer.status}: {body[:200]!r}")
        return body


def call(address: str, method: str, message: bytes) -> bytes:
    """Makes one call over gRPC, without a limit on the size of a message."""
    with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        answer: bytes = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)(
            message, timeout=30
        )
    return answer


def predict(case: Case, row: np.ndarray) -> Request:
    """TensorFlow Serving's Predict of a row, float32 [1, *case.row]."""
    return Request(PREDICT, request(case, row), _of_predict)


def infer(case: Case, row: np.ndarray) -> Request:
    """ModelInfer with the row's bytes as raw contents."""
    message = _infer(case, row)
    message.raw_input_contents.append(row.tobytes())
    return Request(INFER, message.SerializeToString(), _of_infer)


def infer_shared(case: Case, row: np.ndarray) -> Request:
    """ModelInfer of a row in the registered region of `shared`."""
    message = _infer(case, row)
    parameters = message.inputs[0].parameters
    parameters["shared_memory_region"].string_param = _REGION
    parameters["shared_memory_byte_size"].int64_param = row.nbytes
    return Request(INFER, message.SerializeToString(), _of_infer)


def rest_json(case: Case, row: np.ndarray) -> Request:
    """Infer over REST with the row's values in JSON."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(row.shape), "data": row.ravel().tolist()}
    return Request(_path(case), json.dumps({"inputs": [tensor]}).encode(), _of_json, over_http=True)


def rest_binary(case: Case, row: np.ndarray) -> Request:
    """Infer over REST with the row's bytes after the JSON, and the same for the answer."""
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": list(row.shape)}
    tensor["parameters"] = {"binary_data_size": row.nbytes}
    output = {"name": "y", "parameters": {"binary_data": True}}
    document = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    values = 4 * case.outputs
    headers = (f"{_JSON_BYTES}: {len(document)}",)
    return Request(
        _path(case),
        document + row.tobytes(),
        lambda answer: np.frombuffer(answer[-values:], np.float32),
        over_http=True,
        headers=headers,
    )


@contextmanager
def shared(row: np.ndarray) -> Iterator[Callable[[str], bytes]]:
    """Puts a row into shared memory; yields a function that registers it with the server at a gRPC address."""
    path = _SHARED / f"headrace-bench-{uuid4().hex}"
    path.write_bytes(row.tobytes())
    message = SystemSharedMemoryRegisterRequest(name=_REGION, key=f"/{path.name}", byte_size=row.nbytes)
    try:
        yield lambda address: call(address, REGISTER, message.SerializeToString())
    finally:
        path.unlink()


def _infer(case: Case, row: np.ndarray) -> ModelInferRequest:
    message = ModelInferRequest(model_name=case.name)
    message.inputs.add(name="x", datatype="FP32", shape=row.shape)
    return message


def _path(case: Case) -> str:
    return f"/v2/models/{case.name}/infer"


def _of_predict(answer: bytes) -> np.ndarray:
    tensor = PredictResponse.FromString(answer).outputs["y"]
    return np.frombuffer(tensor.tensor_content, np.float32) if tensor.tensor_content else np.array(tensor.float_val)


def _of_infer(answer: bytes) -> np.ndarray:
    return np.frombuffer(ModelInferResponse.FromString(answer).raw_output_contents[0], np.float32)


def _of_json(answer: bytes) -> np.ndarray:
    return np.array(json.loads(answer)["outputs"][0]["data"])
