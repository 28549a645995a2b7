"""TensorFlow's data types: for each, the numpy dtype, and the field of a TensorProto that has its values."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from headrace_protos.tensorflow.core.framework import types_pb2
from headrace_protos.tensorflow.core.framework.tensor_pb2 import TensorProto
from headrace_protos.tensorflow.core.framework.types_pb2 import DataType


class TensorError(ValueError):
    """A tensor that cannot be decoded or encoded; its text is a short reason that does not name the tensor."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How the elements of one data type are written.

    `sent` is the numpy dtype of a value of the field, and `stored` the dtype that it is cast to; an array of `stored`
    has the same bytes as one of `dtype`. `is_raw` says whether the field's bytes on the wire are the array's bytes as
    well, and `is_string` whether the elements are Python objects of type bytes.
    """

    data_type: DataType
    dtype: np.dtype[Any]
    field: str
    number: int
    sent: np.dtype[Any]
    stored: np.dtype[Any]
    is_raw: bool
    is_string: bool


# The numpy dtype of a value of each field, and whether the field's bytes on the wire are those of an array.
_SENT = {
    "float_val": ("f4", True),
    "double_val": ("f8", True),
    "int_val": ("i4", False),
    "string_val": ("O", False),
    "scomplex_val": ("f4", True),
    "int64_val": ("i8", False),
    "bool_val": ("?", True),
    "dcomplex_val": ("f8", True),
    "half_val": ("i4", False),
    "uint32_val": ("u4", False),
    "uint64_val": ("u8", False),
    "float8_val": ("u1", True),
}

# Fields whose values are cast to a dtype other than the tensor's: the halves of an element, or its bits.
_STORED = {"scomplex_val": "f4", "dcomplex_val": "f8", "half_val": "u2", "float8_val": "u1"}

# If several data types share a numpy dtype, an array is written as the first of them.
_NUMPY = {
    "float": ("float32", "float_val"),
    "double": ("float64", "double_val"),
    "int32": ("int32", "int_val"),
    "uint8": ("uint8", "int_val"),
    "int16": ("int16", "int_val"),
    "int8": ("int8", "int_val"),
    "string": ("object", "string_val"),
    "complex64": ("complex64", "scomplex_val"),
    "int64": ("int64", "int64_val"),
    "bool": ("bool", "bool_val"),
    "uint16": ("uint16", "int_val"),
    "complex128": ("complex128", "dcomplex_val"),
    "half": ("float16", "half_val"),
    "uint32": ("uint32", "uint32_val"),
    "uint64": ("uint64", "uint64_val"),
    "qint8": ("int8", "int_val"),
    "quint8": ("uint8", "int_val"),
    "qint16": ("int16", "int_val"),
    "quint16": ("uint16", "int_val"),
    "qint32": ("int32", "int_val"),
}

# Data types that ml_dtypes adds to numpy, under the same names.
_ML_DTYPES = {
    "bfloat16": "half_val",
    "float8_e5m2": "float8_val",
    "float8_e4m3fn": "float8_val",
    "float8_e4m3fnuz": "float8_val",
    "float8_e4m3b11fnuz": "float8_val",
    "float8_e5m2fnuz": "float8_val",
    "float4_e2m1fn": "float8_val",
    "int4": "int_val",
    "uint4": "int_val",
    "int2": "int_val",
    "uint2": "int_val",
}


def codec_of(data_type: int) -> Codec:
    """Returns how the elements of a data type are written; raises TensorError for a data type that holds no data."""
    codec = _CODECS.get(data_type)
    if codec is None and data_type in _ML_DATA_TYPES:
        codec = _ml_codecs().get(data_type)
    if codec is None:
        reason = f"dtype {dtype_name(data_type)} holds no data"
        raise TensorError(reason)
    return codec


def codec_for(dtype: np.dtype[Any]) -> Codec:
    """Returns how an array of a numpy dtype is written; raises TensorError, which names the dtype, if there is none.

    Strings may be numpy's objects, byte strings or texts; a big-endian dtype is written like the native one.
    """
    codec = _BY_DTYPE.get(dtype)
    if codec is None and dtype.kind in "SUT":
        codec = _CODECS[DataType.DT_STRING]
    if codec is None and dtype.isbuiltin == 2:
        codec = next((found for found in _ml_codecs().values() if found.dtype == dtype), None)
    if codec is None and not dtype.isnative:
        codec = _BY_DTYPE.get(dtype.newbyteorder("="))
    if codec is None:
        reason = f"no data type for numpy's {dtype}"
        raise TensorError(reason)
    return codec


def dtype_of(data_type: int) -> np.dtype[Any]:
    """Returns the numpy dtype of a data type: object for strings, plain integers for quantised ones.

    Raises TensorError for a data type that holds no data: a reference, a resource, a variant, or one that is unknown or
    not set.
    """
    return codec_of(data_type).dtype


def enum_of(dtype: np.dtype[Any]) -> DataType:
    """Returns the data type for arrays of a numpy dtype; raises TensorError, which names the dtype, if it has none."""
    return codec_for(dtype).data_type


def dtype_name(data_type: int) -> str:
    """Returns TensorFlow's name of a data type, such as "float"; for an unknown number, a text that says so."""
    if data_type == DataType.DT_INVALID:
        return "INVALID"
    if data_type not in DataType.values():
        return f"unknown dtype enum ({data_type})"
    return DataType.Name(data_type).removeprefix("DT_").lower()


def _codec(name: str, dtype: np.dtype[Any], field: str) -> Codec:
    sent, is_raw = _SENT[field]
    number = TensorProto.DESCRIPTOR.fields_by_name[field].number
    stored = np.dtype(_STORED[field]) if field in _STORED else dtype
    data_type: DataType = getattr(types_pb2, f"DT_{name.upper()}")
    return Codec(data_type, dtype, field, number, np.dtype(sent), stored, is_raw, dtype.hasobject)


@cache
def _ml_codecs() -> dict[int, Codec]:
    # Imported when first needed: it is slow to import, and few models have such tensors.
    import ml_dtypes

    codecs = (_codec(name, np.dtype(getattr(ml_dtypes, name)), field) for name, field in _ML_DTYPES.items())
    return {int(codec.data_type): codec for codec in codecs}


_ML_DATA_TYPES = frozenset(int(DataType.Value(f"DT_{name.upper()}")) for name in _ML_DTYPES)
_CODECS: dict[int, Codec] = {
    int(codec.data_type): codec
    for codec in (_codec(name, np.dtype(dtype), field) for name, (dtype, field) in _NUMPY.items())
}
_BY_DTYPE = {codec.dtype: codec for codec in reversed(_CODECS.values())}
