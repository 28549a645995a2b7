"""Converts the body of a :classify or :regress call to tf.Examples."""

from typing import Any

from headrace_protos import Example, Feature, Input
from headrace_server.errors import ServingError, invalid
from headrace_server.services.json.arrays import decode_base64, is_base64
from headrace_server.services.json.text import type_name
from headrace_server.services.tf_serving.rest.inputs import misformatted, signature_name

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}
_INT64 = 2**63


def read_input(document: dict[str, Any]) -> Input:
    """Reads the examples of a parsed body, with their shared context if there is one.

    Raises:
        ServingError: INVALID_ARGUMENT, as in TF Serving's json_tensor.cc.
    """
    message = Input()
    examples = message.example_list.examples
    if "context" in document:
        _fill(document["context"], message.example_list_with_context.context)
        examples = message.example_list_with_context.examples
    for value in _values(document):
        _fill(value, examples.add())
    return message


def read_example_body(document: dict[str, Any]) -> tuple[str, bytes]:
    """The signature that a parsed body names, and its Input, serialized because messages cannot be sent to processes.

    Raises:
        ServingError: INVALID_ARGUMENT if the body is not valid.
    """
    return signature_name(document), read_input(document).SerializeToString()


def _values(document: dict[str, Any]) -> list[Any]:
    if "examples" not in document:
        raise misformatted(document, "When method is classify, key 'examples' is expected and was not found")
    examples = document["examples"]
    if not isinstance(examples, list):
        raise misformatted(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise misformatted(document, "'examples' value is an empty array")
    return examples


def _fill(value: Any, example: Example) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_name(value)}")
    example.SetInParent()  # a context without features is still a context
    for name, content in value.items():
        feature = example.features.feature[name]
        if isinstance(content, list) and _fill_at_once(content, feature):
            continue
        for item in content if isinstance(content, list) else [content]:
            kind, element = _element(name, item)
            if feature.WhichOneof("kind") not in (None, kind):
                raise _mixed(name, feature)
            getattr(feature, kind).value.append(element)


def _fill_at_once(content: list[Any], feature: Feature) -> bool:
    """Adds a list of numbers of one kind; False for any other list."""
    types = set(map(type, content))
    if types == {float}:
        feature.float_list.value.extend(content)
    elif types == {int} and max(content) < _INT64:
        feature.int64_list.value.extend(content)
    else:
        return False
    return True


def _element(name: str, item: Any) -> tuple[str, Any]:
    """The list of a feature that a value belongs to, judging by how it is written, and its value there."""
    if isinstance(item, str):
        return "bytes_list", item.encode(errors="surrogateescape")
    if isinstance(item, float):
        return "float_list", item
    if isinstance(item, int):
        if item >= _INT64:
            raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        return "int64_list", int(item)
    if is_base64(item):
        return "bytes_list", decode_base64(item)
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_name(item)}")


def _mixed(name: str, feature: Feature) -> ServingError:
    kind = _KINDS[feature.WhichOneof("kind") or ""]
    return invalid(f"Unexpected element type in feature: {name} expecting type: {kind}")
