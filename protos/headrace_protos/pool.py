"""The descriptor pool of headrace's messages, which keeps them apart from TensorFlow's messages of the same names.

Generated modules use this pool instead of protobuf's default pool and symbol database. Code that looks up a message by
name must be given this pool: `text_format`, `json_format` with an Any inside, and server reflection. Wrappers and Any
are also classes of this pool: a field accepts `{"value": 3}` or `.value = 3`, but not an Int64Value of protobuf's own
module.
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
    """Adds one serialized FileDescriptorProto to the pool, and its classes and enums to the namespace of its module.

    The files that it imports must have been added before. The namespace also gets the descriptors, under the private
    names that the end of a generated module uses to complete them for protobuf's pure-Python implementation.
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
