"""The two APIs, as far as a load generator needs them: the inputs of a model, and the message of a request."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from headrace_client import request
from headrace_client.bench.errors import BenchError
from headrace_client.bench.server import Server, ServerFailure, native
from headrace_client.request import Signature, TensorSpec
from headrace_protos.inference.grpc_service_pb2 import (
    ModelInferRequest,
    ModelMetadataRequest,
    ModelMetadataResponse,
)

Arrays = Mapping[str, np.ndarray]

_SERVICE = "/inference.GRPCInferenceService/"
_NUMPY = {
    "BOOL": "?", "INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8", "UINT8": "u1", "UINT16": "u2",
    "UINT32": "u4", "UINT64": "u8", "FP16": "f2", "FP32": "f4", "FP64": "f8", "BYTES": "O",
}  # fmt: skip
_DATATYPES = {np.dtype(code): name for name, code in _NUMPY.items()}


class Api(Protocol):
    """An API of a server: describes models, and makes requests in its format."""

    name: str

    def signature(self, server: Any, model: str) -> Signature:
        """The inputs and outputs of a model.

        Raises:
            BenchError: The server does not know the model, or does not answer.
        """

    def request(self, model: str, inputs: Arrays) -> Any:
        """A call's request, in the form that the server's `send` takes."""


class Predict:
    """TF Serving's Predict.

    Args:
        signature: The signature to call.
        version: The model's version; None means the newest.
    """

    name = "predict"

    def __init__(self, signature: str, version: int | None) -> None:
        self._signature = signature
        self._version = version

    def signature(self, server: Server, model: str) -> Signature:
        """The inputs and outputs of a model, from GetModelMetadata."""
        asked = request.metadata(request.model_spec(model, self._version))
        signatures = asked.read(server.ask(asked.path, asked.head)).signatures
        if self._signature not in signatures:
            raise BenchError(f"{model} has no signature {self._signature}: it has {', '.join(sorted(signatures))}")
        return signatures[self._signature]

    def request(self, model: str, inputs: Arrays) -> Any:
        """A PredictRequest."""
        spec = request.model_spec(model, self._version, signature=self._signature)
        return native().ClientRequest(request.PREDICT, request.predict(spec, inputs, ()).message())


class Infer:
    """The Open Inference Protocol's ModelInfer.

    Args:
        version: The model's version; None means the newest.
    """

    name = "infer"

    def __init__(self, version: int | None) -> None:
        self._version = "" if version is None else str(version)

    def signature(self, server: Server, model: str) -> Signature:
        """The inputs and outputs of a model, from ModelMetadata."""
        asked = ModelMetadataRequest(name=model, version=self._version)
        metadata = ModelMetadataResponse.FromString(server.ask(f"{_SERVICE}ModelMetadata", asked.SerializeToString()))
        return Signature(
            {tensor.name: spec_of(tensor.datatype, tensor.shape) for tensor in metadata.inputs},
            {tensor.name: spec_of(tensor.datatype, tensor.shape) for tensor in metadata.outputs},
        )

    def request(self, model: str, inputs: Arrays) -> Any:
        """A ModelInferRequest with raw contents."""
        message = ModelInferRequest(model_name=model, model_version=self._version)
        for name, array in inputs.items():
            message.inputs.add(name=name, datatype=datatype(array), shape=array.shape)
            message.raw_input_contents.append(_raw(array))
        return native().ClientRequest(f"{_SERVICE}ModelInfer", message.SerializeToString())


def choose(name: str, server: Server, model: str, signature: str, version: int | None) -> Api:
    """The API with that name; for `auto`, the first one through which the server describes the model.

    Raises:
        BenchError: The server describes the model through neither.
    """
    predict, infer = Predict(signature, version), Infer(version)
    if name != "auto":
        return predict if name == "predict" else infer
    try:
        predict.signature(server, model)
    except ServerFailure as failure:
        if not failure.is_unimplemented:
            raise
        return infer
    return predict


def datatype(array: np.ndarray) -> str:
    """Open Inference's name of an array's type."""
    return _DATATYPES[array.dtype]


def spec_of(datatype: str, shape: Iterable[int]) -> TensorSpec:
    """A tensor as described by Open Inference's metadata."""
    code = _NUMPY.get(datatype)
    return TensorSpec(None if code is None else np.dtype(code), tuple(None if size < 0 else size for size in shape))


def bytes_of(item: object) -> bytes:
    """The bytes of one string of an array."""
    return item if isinstance(item, bytes) else str(item).encode()


def _raw(array: np.ndarray) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    items = [bytes_of(item) for item in array.ravel().tolist()]
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)
