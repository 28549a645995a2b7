"""Reads from a serialized ONNX model its inputs, outputs, metadata and types, but not its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError

from headrace_protos import DataType
from headrace_server.backends.onnx import schema
from headrace_server.backends.onnx.schema import BYTES, DTYPES, INT, MANY, ONE, TEXT, Field
from headrace_server.backends.signature import TensorSpec
from headrace_server.errors import invalid

# The fields that are read, by ONNX's names and numbers; protobuf treats all others as unknown fields.
_MESSAGES: dict[str, tuple[Field, ...]] = {
    "ModelProto": (
        ("graph", 7, "GraphProto", ONE),
        ("metadata_props", 14, "Entry", MANY),
        ("functions", 25, "FunctionProto", MANY),
    ),
    "FunctionProto": (
        ("name", 1, TEXT, ONE),
        ("input", 4, TEXT, MANY),
        ("node", 7, "NodeProto", MANY),
        ("domain", 10, TEXT, ONE),
    ),
    "Entry": (("key", 1, TEXT, ONE), ("value", 2, TEXT, ONE)),
    "GraphProto": (
        ("node", 1, "NodeProto", MANY),
        ("initializer", 5, "TensorProto", MANY),
        ("input", 11, "ValueInfoProto", MANY),
        ("output", 12, "ValueInfoProto", MANY),
    ),
    "NodeProto": (
        ("input", 1, TEXT, MANY),
        ("output", 2, TEXT, MANY),
        ("op_type", 4, TEXT, ONE),
        ("attribute", 5, "AttributeProto", MANY),
        ("domain", 7, TEXT, ONE),
    ),
    "AttributeProto": (
        ("name", 1, TEXT, ONE),
        ("i", 3, INT, ONE),
        ("t", 5, "TensorProto", ONE),
        ("g", 6, "GraphProto", ONE),
        ("ints", 8, INT, MANY),
        ("strings", 9, BYTES, MANY),
        ("graphs", 11, "GraphProto", MANY),
    ),
    "TensorProto": (
        ("dims", 1, INT, MANY),
        ("data_type", 2, INT, ONE),
        ("int64_data", 7, INT, MANY),
        ("name", 8, TEXT, ONE),
        ("raw_data", 9, BYTES, ONE),
    ),
    "ValueInfoProto": (("name", 1, TEXT, ONE), ("type", 2, "TypeProto", ONE)),
    "TypeProto": (("tensor_type", 1, "Tensor", ONE),),
    "Tensor": (("elem_type", 1, INT, ONE), ("shape", 2, "Shape", ONE)),
    "Shape": (("dim", 1, "Dimension", MANY),),
    "Dimension": (("dim_value", 1, INT, ONE), ("dim_param", 2, TEXT, ONE)),
}


@dataclass(frozen=True)
class OnnxHeader:
    """The description that a model has of itself.

    Attributes:
        inputs: Inputs by name, without those for which the model itself has values.
        outputs: Outputs by name.
        metadata: The model's metadata, by key.
        operators: The types of the model's nodes.
        types: The types of the model's inputs, outputs and weights.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    metadata: Mapping[str, str] = field(default_factory=dict)
    operators: frozenset[str] = frozenset()
    types: frozenset[DataType] = frozenset()


def read_header(model: bytes) -> OnnxHeader:
    """Reads the header of a model.

    Args:
        model: A serialized ModelProto.

    Raises:
        ServingError: INVALID_ARGUMENT if it is not a model, or has an input or output that is not a tensor of a known
            type.
    """
    try:
        message: Any = message_class("ModelProto").FromString(model)
    except DecodeError as error:
        raise invalid(f"it is not an ONNX model: {error}") from error
    graph = message.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: _spec(value) for value in graph.input if value.name not in weights}
    outputs = {value.name: _spec(value) for value in graph.output}
    if not outputs:
        raise invalid("it is not an ONNX model: it has no outputs")
    types = [spec.dtype for spec in (*inputs.values(), *outputs.values())]
    types += [DTYPES[tensor.data_type] for tensor in graph.initializer if tensor.data_type in DTYPES]
    metadata = {entry.key: entry.value for entry in message.metadata_props}
    return OnnxHeader(inputs, outputs, metadata, frozenset(node.op_type for node in graph.node), frozenset(types))


def _spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    if tensor.elem_type not in DTYPES:
        raise invalid(f"{value.name!r} is not a tensor of a type that a request can contain")
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    dims = tuple(dim.dim_param for dim in tensor.shape.dim)
    return TensorSpec(value.name, DTYPES[tensor.elem_type], shape, dims, any_rank=not tensor.HasField("shape"))


@cache
def message_class(name: str) -> Any:
    """The class of one of ONNX's messages with only the fields that are read here."""
    return schema.message_class("headrace.onnx_header", _MESSAGES, name)
