"""The Predict request that all calls of a case send: its bytes for h2load, and a check of a server's answer."""

import grpc
import numpy as np

from headrace_protos import PredictRequest, PredictResponse
from headrace_protos.tensorflow.core.framework.types_pb2 import DT_FLOAT

from .cases import Case
from .load import PREDICT

# gRPC's prefix of a message: uncompressed, then the length in four bytes.
PREFIX_BYTES = 5


class AnswerError(RuntimeError):
    """A server's answer to a real call is not the expected one."""


def request(case: Case, row: np.ndarray) -> bytes:
    """Returns a PredictRequest for `row`, float32 [1, *case.row], as tensor_content."""
    message = PredictRequest()
    message.model_spec.name = case.name
    tensor = message.inputs["x"]
    tensor.dtype = DT_FLOAT
    for size in row.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = row.tobytes()
    return message.SerializeToString()


def framed(message: bytes) -> bytes:
    """Returns the message after its gRPC prefix, as in an HTTP/2 body."""
    return b"\0" + len(message).to_bytes(PREFIX_BYTES - 1, "big") + message


def checked_answer(address: str, message: bytes, expected: np.ndarray, *, values: bool) -> int:
    """Makes one real call and returns the length of its answer in bytes, without the prefix.

    Raises AnswerError if the answer's `y` differs from `expected`, float32 [1, outputs], in its shape or, with
    `values`, in its values. Raises grpc.RpcError if the status is not OK.
    """
    with grpc.insecure_channel(address) as channel:
        predict = channel.unary_unary(PREDICT, request_serializer=bytes, response_deserializer=bytes)
        answer = predict(message, timeout=30)
    tensor = PredictResponse.FromString(answer).outputs["y"]
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    content = tensor.tensor_content
    got = np.frombuffer(content, np.float32) if content else np.array(tensor.float_val, np.float32)
    if shape != expected.shape or got.size != expected.size:
        raise AnswerError(f"{address} answered with shape {shape} and {got.size} floats, not {expected.shape}")
    if values and not np.allclose(got, expected.ravel(), rtol=1e-4, atol=1e-5):
        raise AnswerError(f"{address} answered {got}, not {expected}")
    return len(answer)
