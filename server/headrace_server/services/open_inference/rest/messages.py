"""Messages as JSON: the fields' own names, every default, and 64-bit numbers as numbers.

protobuf's own writer would write these numbers as strings, which perf_analyzer does not accept.
"""

from collections.abc import Sequence
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Json = dict[str, Any]


def to_json(message: Message) -> Json:
    """A message as the values that JSON is written from; messages that are not set are left out."""
    fields = cast("Sequence[FieldDescriptor]", message.DESCRIPTOR.fields)  # protobuf has two such classes
    return {field.name: _field(message, field) for field in fields if _is_written(message, field)}


def _is_written(message: Message, field: FieldDescriptor) -> bool:
    is_message = field.message_type is not None and not field.is_repeated
    return not (is_message or field.containing_oneof is not None) or message.HasField(field.name)


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of_messages = field.message_type.fields_by_name["value"].message_type is not None
        return {str(key): to_json(value[key]) if of_messages else value[key] for key in value}
    if field.is_repeated:
        return [_value(field, each) for each in value]
    return _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return to_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
