"""The protocol's datatypes: their names, their numbers in a ModelConfig, and TensorFlow's equivalents."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_protos import DataType
from headrace_protos.inference import model_config_pb2 as config
from headrace_protos.tensor import dtype_name
from headrace_server.errors import unimplemented


@dataclass(frozen=True, slots=True)
class Datatype:
    """A datatype of the protocol, with its equivalents elsewhere.

    Attributes:
        name: The name in requests and answers.
        data_type: The equivalent type of TensorFlow's, which signatures use.
        number: The equivalent number in a ModelConfig.
        fields: The fields of an InferTensorContents that may carry its values; none for a type that is only sent raw.
    """

    name: str
    data_type: DataType
    number: "config.DataType"
    fields: tuple[str, ...] = ()


_EVERY = (
    Datatype("BOOL", DataType.DT_BOOL, config.TYPE_BOOL, ("bool_contents",)),
    Datatype("UINT8", DataType.DT_UINT8, config.TYPE_UINT8, ("uint_contents",)),
    Datatype("UINT16", DataType.DT_UINT16, config.TYPE_UINT16, ("uint_contents",)),
    Datatype("UINT32", DataType.DT_UINT32, config.TYPE_UINT32, ("uint_contents",)),
    Datatype("UINT64", DataType.DT_UINT64, config.TYPE_UINT64, ("uint64_contents",)),
    Datatype("INT8", DataType.DT_INT8, config.TYPE_INT8, ("int_contents",)),
    Datatype("INT16", DataType.DT_INT16, config.TYPE_INT16, ("int_contents",)),
    Datatype("INT32", DataType.DT_INT32, config.TYPE_INT32, ("int_contents",)),
    Datatype("INT64", DataType.DT_INT64, config.TYPE_INT64, ("int64_contents",)),
    Datatype("FP16", DataType.DT_HALF, config.TYPE_FP16),
    Datatype("BF16", DataType.DT_BFLOAT16, config.TYPE_BF16),
    Datatype("FP32", DataType.DT_FLOAT, config.TYPE_FP32, ("fp32_contents",)),
    Datatype("FP64", DataType.DT_DOUBLE, config.TYPE_FP64, ("fp64_contents",)),
    Datatype("BYTES", DataType.DT_STRING, config.TYPE_STRING, ("bytes_contents",)),
)

BY_NAME: Mapping[str, Datatype] = {datatype.name: datatype for datatype in _EVERY}

BYTES = BY_NAME["BYTES"]

HALVES = frozenset({"FP16", "BF16"})
"""The datatypes whose values Triton does not accept or send as JSON, only as binary data."""

_BY_DATA_TYPE = {datatype.data_type: datatype for datatype in _EVERY}


def datatype_of(data_type: DataType) -> Datatype:
    """The datatype of a declared tensor.

    Raises:
        ServingError: UNIMPLEMENTED if the protocol has no such datatype, so it cannot serve the model.
    """
    if data_type not in _BY_DATA_TYPE:
        raise unimplemented(f"the Open Inference Protocol has no datatype for {dtype_name(data_type)}")
    return _BY_DATA_TYPE[data_type]
