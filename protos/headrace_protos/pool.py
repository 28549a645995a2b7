"""The descriptor pool of headrace's messages, in which TensorFlow's of the same names cannot collide with them.

Generated modules come here where protoc would send them to protobuf's default pool and symbol database. Whatever looks
a message up by name needs this pool told to it: `text_format`, `json_format` with an Any inside, server reflection.
Wrappers and Any are classes of this pool too: a field takes `{"value": 3}` or `.value = 3`, not an Int64Value of
protobuf's own module.
"""

from typing import Any

from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()
for _well_known in (any_pb2, wrappers_pb2):
    POOL.AddSerializedFile(_well_known.DESCRIPTOR.serialized_pb)


def add(serialized: bytes, module: dict[str, Any]) -> FileDescriptor:
    """Add one serialized FileDescriptorProto to the pool and its classes and enums to its module's namespace.

    Imports must have been added before. Descriptors go in as well, under the private names by which the end of a
    generated module completes them for protobuf's pure-Python implementation.
    """
    file = POOL.AddSerializedFile(serialized)
    for enum in file.enum_types_by_name.values():
        module[f"_{enum.name.upper()}"] = enum
        module[enum.name] = EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
    for name, service in file.services_by_name.items():
        module[f"_{name.upper()}"] = service
    for message in file.message_types_by_name.values():
        module[message.name] = _message_class(message, module)
    return file


def _message_class(descriptor: Descriptor, module: dict[str, Any]) -> type:
    path = _path(descriptor)
    cls = GetMessageClass(descriptor)
    cls.__module__, cls.__qualname__ = module["__name__"], ".".join(path)
    module[_private_name(path)] = descriptor
    for enum in descriptor.enum_types:
        module[_private_name([*path, enum.name])] = enum
    for nested in descriptor.nested_types:
        setattr(cls, nested.name, _message_class(nested, module))
    return cls


def _path(descriptor: Descriptor) -> list[str]:
    return [*(_path(descriptor.containing_type) if descriptor.containing_type else []), descriptor.name]


def _private_name(path: list[str]) -> str:
    return "_" + "_".join(path).upper()
