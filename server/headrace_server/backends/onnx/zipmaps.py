"""Removes from an ONNX model the operators that turn probabilities into dictionaries, which are no tensors."""

from dataclasses import dataclass
from typing import Any

from headrace_server.backends.onnx.schema import BYTES, INT, MANY, ONE, TEXT, Field, message_class

OPERATOR = b"ZipMap"

_MESSAGES: dict[str, tuple[Field, ...]] = {
    "ModelProto": (("graph", 7, "GraphProto", ONE), ("opset_import", 8, "OperatorSetIdProto", MANY)),
    "OperatorSetIdProto": (("domain", 1, TEXT, ONE), ("version", 2, INT, ONE)),
    "GraphProto": (("node", 1, "NodeProto", MANY), ("output", 12, "ValueInfoProto", MANY)),
    "NodeProto": (
        ("output", 2, TEXT, MANY),
        ("op_type", 4, TEXT, ONE),
        ("attribute", 5, "AttributeProto", MANY),
        ("domain", 7, TEXT, ONE),
    ),
    "AttributeProto": (("ints", 8, INT, MANY), ("strings", 9, BYTES, MANY)),
    "ValueInfoProto": (("name", 1, TEXT, ONE), ("type", 2, "TypeProto", ONE)),
    "TypeProto": (("tensor_type", 1, "Tensor", ONE),),
    "Tensor": (("elem_type", 1, INT, ONE), ("shape", 2, "Shape", ONE)),
    "Shape": (("dim", 1, "Dimension", MANY),),
    "Dimension": (("dim_value", 1, INT, ONE),),
}

_FLOAT = 1  # onnx.TensorProto.DataType
_IDENTITY_SINCE = 13  # a version of ONNX's own operators, for a model that did not use any of them


@dataclass(frozen=True, slots=True)
class ZipMap:
    """A ZipMap that has been removed from the graph.

    Attributes:
        output: The model's output that the operator produced; it is now the operator's input, a float tensor with one
            column per class.
        classes: The names of the classes, in the order of the columns.
    """

    output: str
    classes: tuple[str, ...]


def without_zipmaps(content: bytes) -> tuple[bytes, list[ZipMap]]:
    """The same model, in which each output of a ZipMap is replaced by the ZipMap's input.

    Args:
        content: A serialized ModelProto.

    Raises:
        google.protobuf.message.DecodeError: It is not a model.
    """
    model: Any = message_class("headrace.onnx_zipmaps", _MESSAGES).FromString(content)
    outputs = {value.name: value for value in model.graph.output}
    found = []
    for node in model.graph.node:
        if node.op_type.encode() != OPERATOR or node.domain != "ai.onnx.ml" or node.output[0] not in outputs:
            continue
        classes = _classes(node)
        _become_identity(node)
        _become_tensor(outputs[node.output[0]], len(classes))
        found.append(ZipMap(node.output[0], classes))
    if not found:
        return content, []
    if not any(imported.domain in ("", "ai.onnx") for imported in model.opset_import):
        model.opset_import.add(domain="", version=_IDENTITY_SINCE)
    return model.SerializeToString(), found


def _classes(node: Any) -> tuple[str, ...]:
    names = [name for attribute in node.attribute for name in (*attribute.ints, *attribute.strings)]
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names)


def _become_identity(node: Any) -> None:
    node.op_type, node.domain = "Identity", ""
    node.ClearField("attribute")


def _become_tensor(value: Any, columns: int) -> None:
    value.ClearField("type")
    value.type.tensor_type.elem_type = _FLOAT
    value.type.tensor_type.shape.dim.add()
    value.type.tensor_type.shape.dim.add(dim_value=columns)
