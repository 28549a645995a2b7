"""Prints, as JSON, headrace's message definitions and those of TensorFlow's packages under the same names."""

import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto

import headrace_protos

THEIR_MODULES = [
    "tensorflow.core.example.example_pb2",
    "tensorflow.core.protobuf.meta_graph_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.config.platform_config_pb2",
]

Described = dict[str, Any]


def describe_message(message: Descriptor) -> Described:
    proto = DescriptorProto()
    message.CopyToProto(proto)
    fields = {}
    for field in proto.field:
        built = message.fields_by_name[field.name]
        fields[field.name] = {
            "number": field.number,
            "label": field.label,
            "type": [field.type, field.type_name],
            "json_name": built.json_name,
            "oneof": proto.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
            "has_presence": built.has_presence,
            "is_packed": built.is_packed,
            "is_map_entry": proto.options.map_entry,
            "options": str(field.options),
        }
    return fields


def describe_enum(enum: EnumDescriptor) -> Described:
    return {value.name: value.number for value in enum.values}


def describe_service(service: ServiceDescriptor) -> Described:
    return {method.name: [method.input_type.full_name, method.output_type.full_name] for method in service.methods}


def messages_in(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for message in messages:
        yield message
        yield from messages_in(message.nested_types)


def names_of_ours() -> dict[str, list[str]]:
    """The full names of every message, enum and service in our sources."""
    root = Path(headrace_protos.__path__[0])
    paths = [path.relative_to(root).as_posix() for path in root.glob("tensorflow*/**/*.proto")]
    files = [headrace_protos.POOL.FindFileByName(path) for path in paths]
    messages = list(messages_in([message for file in files for message in file.message_types_by_name.values()]))
    enums = [enum for file in files for enum in file.enum_types_by_name.values()]
    enums += [enum for message in messages for enum in message.enum_types]
    services = [service for file in files for service in file.services_by_name.values()]
    return {
        "message": [message.full_name for message in messages],
        "enum": [enum.full_name for enum in enums],
        "service": [service.full_name for service in services],
    }


def describe(pool: descriptor_pool.DescriptorPool) -> Described:
    kinds: dict[str, tuple[Callable[[str], Any], Callable[[Any], Described]]] = {
        "message": (pool.FindMessageTypeByName, describe_message),
        "enum": (pool.FindEnumTypeByName, describe_enum),
        "service": (pool.FindServiceByName, describe_service),
    }
    described: Described = {}
    for kind, names in names_of_ours().items():
        find, describe_one = kinds[kind]
        for name in names:
            try:
                described[name] = describe_one(find(name))
            except KeyError:
                described[name] = None
    return described


if __name__ == "__main__":
    ours = describe(headrace_protos.POOL)
    for module in THEIR_MODULES:
        importlib.import_module(module)
    print(json.dumps({"ours": ours, "theirs": describe(descriptor_pool.Default())}))
