"""Classes for the parts of ONNX's messages that are read here, and the element types of its tensors.

protobuf keeps all other fields as unknown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from headrace_protos import DataType

ONE, MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
INT, TEXT, BYTES = FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES

DTYPES = {
    1: DataType.DT_FLOAT,
    2: DataType.DT_UINT8,
    3: DataType.DT_INT8,
    4: DataType.DT_UINT16,
    5: DataType.DT_INT16,
    6: DataType.DT_INT32,
    7: DataType.DT_INT64,
    8: DataType.DT_STRING,
    9: DataType.DT_BOOL,
    10: DataType.DT_HALF,
    11: DataType.DT_DOUBLE,
    12: DataType.DT_UINT32,
    13: DataType.DT_UINT64,
    16: DataType.DT_BFLOAT16,
}
"""The element types that both ONNX and TensorFlow have, by their numbers in onnx.TensorProto.DataType."""

Field = tuple[str, int, str | FieldDescriptorProto.Type.ValueType, Any]
"""A field's name, number, scalar type or message type, and ONE or MANY."""


def message_class(package: str, messages: Mapping[str, tuple[Field, ...]], name: str = "ModelProto") -> Any:
    """The class of one of these messages, in a descriptor pool of its own.

    Args:
        package: The package of the messages.
        messages: The fields of each message.
        name: The name of the message whose class is returned.
    """
    file = FileDescriptorProto(name=f"{package}.proto", package=package)
    for message, fields in messages.items():
        file.message_type.append(DescriptorProto(name=message, field=list(_fields(package, fields))))
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))


def _fields(package: str, fields: tuple[Field, ...]) -> Iterator[FieldDescriptorProto]:
    for name, number, kind, label in fields:
        field = FieldDescriptorProto(name=name, number=number, label=label)
        if isinstance(kind, str):
            field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{package}.{kind}"
        else:
            field.type = kind
        yield field
