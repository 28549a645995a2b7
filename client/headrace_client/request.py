"""Converts arrays to requests and responses to arrays; shared by both clients."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import numpy as np
from numpy.typing import ArrayLike

from headrace_protos import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    SignatureDef,
    SignatureDefMap,
    TensorInfo,
    TensorProto,
)
from headrace_protos.tensor import TensorError, dtype_of, to_array, to_proto

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
PATHS = (PREDICT, METADATA, STATUS)
CLOSED = "the client is closed"

_SIGNATURES = "signature_def"
CODES = {code.value[0]: code for code in grpc.StatusCode}

Answer = TypeVar("Answer")


class ServerError(Exception):
    """A failed call: `code` is a grpc.StatusCode, and `message` is the server's text or gRPC's.

    UNAVAILABLE means that the server cannot be reached or, as in TF Serving, that its queue is full; DEADLINE_EXCEEDED
    means that a timeout passed. The cause is a grpc.RpcError, which has the trailing metadata. `hint` names a
    likely reason: inputs that differ from the model's declaration, or a port that does not speak gRPC, or speaks it
    only with TLS, or only without. It is empty if no reason is known.
    """

    def __init__(self, code: grpc.StatusCode, message: str, hint: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Retry:
    """How gRPC retries a call that ends with UNAVAILABLE, within the call's timeout.

    `attempts` includes the first one: 1 never retries, and gRPC allows at most 5. gRPC waits about `backoff` seconds
    (at least 0.01) before the second attempt, and doubles the wait for each later one, up to `max_backoff`. A client
    that mostly fails stops retrying until calls succeed again, so that retries never flood a full server.

    Raises ValueError for a number out of its range.
    """

    attempts: int = 4
    backoff: float = 0.02
    max_backoff: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 5:
            message = f"attempts must be from 1 to 5; was {self.attempts}"
            raise ValueError(message)
        # Below 10 ms, gRPC itself is faulty: some releases lose a call whose backoff is about a millisecond.
        if not 0.01 <= self.backoff <= self.max_backoff:
            message = f"backoff must be from 0.01 s to max_backoff; was {self.backoff}"
            raise ValueError(message)


RETRY = Retry()


@dataclass(frozen=True, slots=True)
class Hedge:
    """When a call is sent again although an earlier attempt may still be answered.

    A call without an answer after `delay` seconds is sent again, to the next server if the target has several, until
    there are `attempts` attempts: 2 to 5. The first answer is returned, and the other attempts are cancelled. An
    attempt that ends with UNAVAILABLE is followed by the next one at once; any other failure ends the call. At most a
    `share` of the calls are sent again, after a few at the start, so that hedging never doubles the load of servers
    that are slow because they are full.

    Raises ValueError for a number out of its range.
    """

    delay: float
    attempts: int = 2
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 2 <= self.attempts <= 5:
            message = f"attempts must be from 2 to 5; was {self.attempts}"
            raise ValueError(message)
        if not 0 < self.delay < float("inf"):
            message = f"delay must be a finite number above 0; was {self.delay}"
            raise ValueError(message)
        if not 0 < self.share <= 1:
            message = f"share must be above 0 and at most 1; was {self.share}"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a signature; None means an open dimension, or an open shape.

    Strings have the dtype object, like the arrays that `predict` returns. TF Serving's signatures also include
    entries that are not tensors, such as the operation that initialises a SavedModel; their dtype is None.
    """

    dtype: np.dtype | None
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        """The spec as text, such as `float32[?,4]`; `string[...]` if the shape is open."""
        dtype = "string" if self.dtype is None or self.dtype.kind in "SUO" else str(self.dtype)
        sizes = "..." if self.shape is None else ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{dtype}[{sizes}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of one signature, by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """One version of a model, with its signatures by name."""

    name: str
    version: int
    signatures: Mapping[str, Signature]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The state of one version of a model: `state` is START, LOADING, AVAILABLE, UNLOADING or END.

    `error_code` is OK and `error_message` empty unless the version failed to load.
    """

    version: int
    state: str
    error_code: grpc.StatusCode
    error_message: str


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One call to make: its method, its message, and how to read the answer's bytes.

    `head` is the message without the `inputs` of a Predict. `read` converts the returned message to an answer.
    """

    path: str
    head: bytes
    read: Callable[[bytes], Answer]
    inputs: Mapping[str, ArrayLike] | None = None

    def message(self) -> bytes:
        """Returns the whole message; raises ValueError for inputs that a tensor cannot represent."""
        if not self.inputs:
            return self.head
        request = PredictRequest()
        for name, value in self.inputs.items():
            _fill(request.inputs[name], name, value)
        return self.head + request.SerializeToString()

    def arrays(self) -> dict[str, Any]:
        """Returns the inputs by name as contiguous arrays."""
        return {name: _contiguous(typed(value)) for name, value in (self.inputs or {}).items()}


def model_spec(
    model: str, version: int | None = None, label: str | None = None, signature: str | None = None
) -> ModelSpec:
    """Returns the message that names a model, or raises ValueError for arguments that name no model."""
    if not model:
        message = "model must be a name, and not empty"
        raise ValueError(message)
    if version is not None and label is not None:
        message = f"version ({version}) and label ({label!r}) cannot be given together"
        raise ValueError(message)
    spec = ModelSpec(name=model, version_label=label, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return spec


def predict(spec: ModelSpec, inputs: Mapping[str, ArrayLike], outputs: Collection[str]) -> Call[dict[str, np.ndarray]]:
    """Returns the Predict call for `inputs`; its result is the arrays that `outputs` names, or all.

    `inputs` may be empty, for a model without inputs. Raises ValueError if `inputs` is not a mapping, or `outputs` is a
    string.
    """
    check_inputs(inputs)
    if isinstance(outputs, str):
        message = f"outputs must be a collection of names, not the one name {outputs!r}"
        raise ValueError(message)
    request = PredictRequest(model_spec=spec, output_filter=outputs)
    return Call(PREDICT, request.SerializeToString(), _read_outputs, inputs)


def check_inputs(inputs: object) -> None:
    """Raises ValueError for inputs without names."""
    if not isinstance(inputs, Mapping):
        message = f"inputs must be a mapping from the names of inputs to arrays, not {type(inputs).__name__}"
        raise ValueError(message)


def same_dtypes(one: Mapping[str, ArrayLike], other: Mapping[str, ArrayLike]) -> bool:
    """Returns whether two mappings contain the same array objects: a converted array is another object."""
    return all(one[name] is other[name] or np.asarray(one[name]).dtype == np.asarray(other[name]).dtype for name in one)


def metadata(spec: ModelSpec) -> Call[ModelMetadata]:
    """Returns the GetModelMetadata call for all signatures of a model."""
    message = GetModelMetadataRequest(model_spec=spec, metadata_field=[_SIGNATURES])
    return Call(METADATA, message.SerializeToString(), _read_metadata)


def status(spec: ModelSpec) -> Call[tuple[VersionStatus, ...]]:
    """Returns the GetModelStatus call for all versions of a model, or for the one that `spec` names."""
    message = GetModelStatusRequest(model_spec=spec)
    return Call(STATUS, message.SerializeToString(), _read_status)


def _fill(proto: TensorProto, name: str, value: ArrayLike) -> None:
    try:
        to_proto(typed(value), into=proto, as_content=True)
    except (TypeError, ValueError) as error:
        message = f"inputs[{name!r}]: {error}"
        raise ValueError(message) from error


def typed(value: ArrayLike) -> ArrayLike:
    """Converts numbers and lists to arrays, with TensorFlow's dtypes where numpy would use 64 bits."""
    if isinstance(value, np.ndarray):
        return value
    array = np.asarray(value)
    if hasattr(value, "__array__"):
        return array
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype == np.int64:
        narrow = array.astype(np.int32)
        return narrow if np.array_equal(narrow, array) else array
    return value


def _contiguous(value: ArrayLike) -> ArrayLike:
    if isinstance(value, np.ndarray) and not value.flags.c_contiguous:
        return np.ascontiguousarray(value)
    return value


def _read_outputs(response: bytes) -> dict[str, np.ndarray]:
    message = PredictResponse.FromString(response)
    return {name: to_array(proto) for name, proto in message.outputs.items()}


def _read_metadata(response: bytes) -> ModelMetadata:
    message = GetModelMetadataResponse.FromString(response)
    signatures = SignatureDefMap.FromString(message.metadata[_SIGNATURES].value).signature_def
    spec = message.model_spec
    return ModelMetadata(spec.name, spec.version.value, {name: _signature(entry) for name, entry in signatures.items()})


def _signature(entry: SignatureDef) -> Signature:
    inputs = {name: _tensor_spec(info) for name, info in entry.inputs.items()}
    outputs = {name: _tensor_spec(info) for name, info in entry.outputs.items()}
    return Signature(inputs, outputs)


def _tensor_spec(info: TensorInfo) -> TensorSpec:
    if info.tensor_shape.unknown_rank:
        return TensorSpec(_dtype(info), None)
    return TensorSpec(_dtype(info), tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim))


def _dtype(info: TensorInfo) -> np.dtype | None:
    try:
        return dtype_of(info.dtype)
    except TensorError:
        return None


def _read_status(response: bytes) -> tuple[VersionStatus, ...]:
    message = GetModelStatusResponse.FromString(response)
    return tuple(_version_status(entry) for entry in message.model_version_status)


def _version_status(entry: ModelVersionStatus) -> VersionStatus:
    state = ModelVersionStatus.State.Name(entry.state)
    return VersionStatus(entry.version, state, CODES[entry.status.error_code], entry.status.error_message)
