"""Converts arrays to ONNX Runtime's values and back, including dtypes that numpy does not have."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from headrace_batching.task import Array, Arrays
from headrace_protos import DataType
from headrace_protos.tensor import dtype_of
from headrace_server.errors import invalid

_ONNX_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16

_BFLOAT16: np.dtype[Any] = dtype_of(DataType.DT_BFLOAT16)


def element_type(dtype: np.dtype[Any]) -> Any:
    """A dtype as ONNX Runtime expects it: numpy's, or ONNX's number if numpy has none."""
    return _ONNX_BFLOAT16 if dtype == _BFLOAT16 else dtype


def ort_value(array: Array) -> ort.OrtValue:
    """Converts an array of numbers to a value of ONNX Runtime, without a copy if it is contiguous."""
    array = np.ascontiguousarray(array)
    if array.dtype == _BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def array_of(value: ort.OrtValue) -> Array:
    """A tensor in the CPU's memory as an array."""
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape = value.shape()
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.empty(shape, _BFLOAT16)
    # A copy: numpy does not know that a view of this memory would be valid only as long as `value` lives.
    return np.frombuffer(ctypes.string_at(value.data_ptr(), count * _BFLOAT16.itemsize), _BFLOAT16).reshape(shape)


def as_text(alias: str, array: Array) -> Array:
    """Strings as ONNX Runtime expects them: it would convert a bytes object to its Python repr.

    Raises:
        ServingError: INVALID_ARGUMENT if a string is not UTF-8.
    """
    try:
        text = [item.decode() for item in array.flat]
    except UnicodeDecodeError as error:
        raise invalid(f"input {alias} holds a string that is not UTF-8: {error}") from error
    return np.array(text, dtype=object).reshape(array.shape)


def run_ort_values(session: ort.InferenceSession, outputs: Sequence[str], inputs: Arrays) -> list[Array]:
    """Runs a session with arrays for which numpy has no dtype."""
    feed = {name: ort_value(array) for name, array in inputs.items()}
    return [array_of(value) for value in session.run_with_ort_values(outputs, feed)]
