"""ONNX models on ONNX Runtime."""

import ctypes
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from headrace_batching.task import Array, Arrays
from headrace_protos import Code, DataType
from headrace_protos.tensor import dtype_of
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.batch_axis import has_batch_axis
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from headrace_server.errors import LoadError, ServingError, invalid

log = logging.getLogger(__name__)

_DTYPES: dict[str, DataType] = {
    "tensor(float)": DataType.DT_FLOAT,
    "tensor(double)": DataType.DT_DOUBLE,
    "tensor(float16)": DataType.DT_HALF,
    "tensor(bfloat16)": DataType.DT_BFLOAT16,
    "tensor(int8)": DataType.DT_INT8,
    "tensor(int16)": DataType.DT_INT16,
    "tensor(int32)": DataType.DT_INT32,
    "tensor(int64)": DataType.DT_INT64,
    "tensor(uint8)": DataType.DT_UINT8,
    "tensor(uint16)": DataType.DT_UINT16,
    "tensor(uint32)": DataType.DT_UINT32,
    "tensor(uint64)": DataType.DT_UINT64,
    "tensor(bool)": DataType.DT_BOOL,
    "tensor(string)": DataType.DT_STRING,
}
_ONNX_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16

# ONNX Runtime's own codes (OrtErrorCode) that have a canonical one; any other is INTERNAL.
_CODES: dict[str, Code] = {
    "INVALID_ARGUMENT": Code.INVALID_ARGUMENT,
    "INVALID_PROTOBUF": Code.INVALID_ARGUMENT,
    "INVALID_GRAPH": Code.INVALID_ARGUMENT,
    "NO_SUCHFILE": Code.NOT_FOUND,
    "NO_MODEL": Code.NOT_FOUND,
    "NOT_IMPLEMENTED": Code.UNIMPLEMENTED,
}


def load_onnx(model: Path, options: BackendOptions) -> "OnnxBackend":
    """Loads an ONNX file, with its external data if it has any.

    Raises:
        LoadError: ONNX Runtime refuses it, or a provider is not there; the text names the file.
    """
    try:
        _check_providers(options.providers)
        session = ort.InferenceSession(
            str(model), sess_options=_session_options(options), providers=list(options.providers)
        )
        backend = OnnxBackend(session, _signature(session))
    except ServingError as error:
        raise LoadError(error.code, f"{model}: {error.message}") from error
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        raise LoadError(_code_of(error), f"{model} cannot be loaded: {error}") from error
    if not backend.signatures[DEFAULT_SIGNATURE].batched:
        log.warning(
            "%s has no batch axis (a first dimension that varies, in every input and output): "
            "its requests run one by one",
            model,
        )
    return backend


class OnnxBackend:
    """One ONNX model in one session, with one signature: the graph's inputs and outputs."""

    def __init__(self, session: ort.InferenceSession, signature: Signature) -> None:
        self._session: ort.InferenceSession | None = session
        specs = [*signature.inputs.values(), *signature.outputs.values()]
        # These two ask for more than `session.run` can do with an array as it is.
        self._strings = [alias for alias, spec in signature.inputs.items() if spec.dtype == DataType.DT_STRING]
        self._bfloat16 = any(spec.dtype == DataType.DT_BFLOAT16 for spec in specs)
        run = partial(self.run, DEFAULT_SIGNATURE, outputs=signature.every_output)
        self._signature = replace(signature, batched=has_batch_axis(signature.inputs, signature.outputs, run))

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """`serving_default` alone."""
        return {DEFAULT_SIGNATURE: self._signature}

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Runs the session; its outputs are views of ONNX Runtime's memory, freed with the last of them."""
        del signature  # there is one
        session = self._session
        if session is None:
            raise ServingError(Code.UNAVAILABLE, "the model has been unloaded")
        if self._strings:
            inputs = {**inputs, **{alias: _text(alias, inputs[alias]) for alias in self._strings}}
        try:
            if self._bfloat16:
                return _run_ort_values(session, inputs, outputs)
            return dict(zip(outputs, session.run(outputs, inputs), strict=True))
        except Exception as error:
            raise ServingError(_code_of(error), str(error)) from error

    def close(self) -> None:
        """Frees the session; arrays that it gave out stay valid."""
        self._session = None


def _session_options(options: BackendOptions) -> ort.SessionOptions:
    session = ort.SessionOptions()
    session.intra_op_num_threads = options.intra_op_threads
    session.inter_op_num_threads = options.inter_op_threads
    session.enable_cpu_mem_arena = options.cpu_memory_arena
    session.log_severity_level = 4  # fatal ones only: errors reach the caller as exceptions
    # Between runs its threads sleep: a core that they spin on is one that the transport needs.
    session.add_session_config_entry("session.force_spinning_stop", "1")
    return session


def _check_providers(wanted: Sequence[str]) -> None:
    available = ort.get_available_providers()
    for provider in wanted:
        if provider not in available:
            message = f"this ONNX Runtime has no {provider}; it has {', '.join(available)}"
            raise ServingError(Code.FAILED_PRECONDITION, message)


def _signature(session: ort.InferenceSession) -> Signature:
    inputs = {arg.name: _spec(arg) for arg in session.get_inputs()}
    outputs = {arg.name: _spec(arg) for arg in session.get_outputs()}
    return Signature(inputs, outputs)


def _spec(arg: ort.NodeArg) -> TensorSpec:
    if arg.type not in _DTYPES:
        raise invalid(f"{arg.name!r} is a {arg.type}, which a tensor cannot carry")
    shape = tuple(size if isinstance(size, int) else None for size in arg.shape)
    dims = tuple(size if isinstance(size, str) else "" for size in arg.shape)
    return TensorSpec(arg.name, _DTYPES[arg.type], shape, dims)


def _text(alias: str, array: Array) -> Array:
    """Strings as ONNX Runtime takes them: it would give a bytes object its Python spelling."""
    try:
        text = [item.decode() for item in array.flat]
    except UnicodeDecodeError as error:
        raise invalid(f"input {alias} holds a string that is not UTF-8: {error}") from error
    return np.array(text, dtype=object).reshape(array.shape)


def _run_ort_values(session: ort.InferenceSession, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
    """A run whose arrays numpy alone has no dtype for."""
    feed = {alias: _ort_value(array) for alias, array in inputs.items()}
    values = session.run_with_ort_values(outputs, feed)
    return {alias: _array(value) for alias, value in zip(outputs, values, strict=True)}


def _ort_value(array: Array) -> ort.OrtValue:
    array = np.ascontiguousarray(array)
    if array.dtype == dtype_of(DataType.DT_BFLOAT16):
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _array(value: ort.OrtValue) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    dtype: np.dtype[Any] = dtype_of(DataType.DT_BFLOAT16)
    shape = value.shape()
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.empty(shape, dtype)
    # A copy: a view would have to keep `value` alive behind numpy's back.
    return np.frombuffer(ctypes.string_at(value.data_ptr(), count * dtype.itemsize), dtype).reshape(shape)


def _code_of(error: Exception) -> Code:
    """ONNX Runtime writes its code into the text: `[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ...`."""
    parts = str(error).split(" : ", 3)
    return _CODES.get(parts[2], Code.INTERNAL) if len(parts) > 3 else Code.INTERNAL
