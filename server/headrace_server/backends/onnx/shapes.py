"""Takes the declared shapes out of a serialized ONNX model, so that its operators alone decide what they accept."""

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_PACKAGE = "headrace.onnx"

# The fields of ONNX's messages that lead to a shape, by ONNX's names and numbers. All else, the weights above all,
# passes through as fields that protobuf does not know, and keeps.
_ONE, _MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
_MESSAGES: dict[str, tuple[tuple[str, int, str, FieldDescriptorProto.Label.ValueType], ...]] = {
    "ModelProto": (("graph", 7, "GraphProto", _ONE),),
    "GraphProto": (
        ("node", 1, "NodeProto", _MANY),
        ("input", 11, "ValueInfoProto", _MANY),
        ("output", 12, "ValueInfoProto", _MANY),
        ("value_info", 13, "ValueInfoProto", _MANY),
    ),
    "NodeProto": (("attribute", 5, "AttributeProto", _MANY),),
    "AttributeProto": (("g", 6, "GraphProto", _ONE), ("graphs", 11, "GraphProto", _MANY)),
    "ValueInfoProto": (("type", 2, "TypeProto", _ONE),),
    "TypeProto": (("tensor_type", 1, "Tensor", _ONE),),
    "Tensor": (("shape", 2, "TensorShapeProto", _ONE),),
    "TensorShapeProto": (("dim", 1, "Dimension", _MANY),),
    "Dimension": (),
}


def without_shapes(model: bytes) -> bytes:
    """The same model, with no shape declared for any input, output or value between, those of inner graphs included.

    What is declared as a scalar stays one: a loop's counter and condition must be.

    Args:
        model: A serialized ModelProto.

    Raises:
        google.protobuf.message.DecodeError: It is none.
    """
    message: Any = _model_class().FromString(model)
    _relax(message.graph)
    relaxed: bytes = message.SerializeToString()
    return relaxed


def _relax(graph: Any) -> None:
    # What is said of the values between is said for the declared inputs, and the runtime plans its memory by it.
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _relax(inner)


def _model_class() -> type[Message]:
    file = FileDescriptorProto(name="headrace_onnx.proto", package=_PACKAGE)
    for name, fields in _MESSAGES.items():
        file.message_type.append(DescriptorProto(name=name, field=[_field(*field) for field in fields]))
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelProto"))


def _field(name: str, number: int, kind: str, label: FieldDescriptorProto.Label.ValueType) -> FieldDescriptorProto:
    return FieldDescriptorProto(
        name=name,
        number=number,
        label=label,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=f".{_PACKAGE}.{kind}",
    )
