"""Values of a JSON document, each with the type that it must have. The texts are those of Triton's JSON reader."""

from collections.abc import Mapping
from typing import Any

from headrace_server.errors import ServingError, invalid
from headrace_server.services.json.careful import JsonError, parse_carefully
from headrace_server.services.json.reader import parse_quickly

_MAX_UINT64 = 2**64 - 1


def read_document(data: bytes) -> Mapping[str, Any]:
    """Parses the object in a body.

    Raises:
        ServingError: INVALID_ARGUMENT if the body is not JSON, or not an object.
    """
    document: Any = parse_quickly(data)
    if document is None:
        try:
            document = parse_carefully(data)
        except JsonError as error:
            raise invalid(f"failed to parse the request JSON buffer: {error.reason} at {error.offset}") from error
    if not isinstance(document, dict):
        raise invalid("failed to parse the request JSON buffer: it is not an object")
    return document


def member(document: Any, name: str) -> Any:
    """A member that the document must have.

    Raises:
        ServingError: INVALID_ARGUMENT if the document has no such member.
    """
    if not isinstance(document, dict) or name not in document:
        raise unreadable(name, f"attempt to access non-existing object member '{name}'")
    return document[name]


def text(document: Any, name: str) -> str:
    """A member that must be a string."""
    value = member(document, name)
    if not isinstance(value, str):
        raise unreadable(name, "attempt to access JSON non-string as string")
    return value


def items(document: Any, name: str) -> list[Any]:
    """A member that must be a list."""
    value = member(document, name)
    if not isinstance(value, list):
        raise unreadable(name, "attempt to access JSON non-array as array")
    return value


def unsigned(document: Any, name: str, begin: str = "Unable to parse") -> int:
    """A member that must be an integer of at least 0."""
    return checked_unsigned(member(document, name), name, begin)


def checked_unsigned(value: Any, name: str, begin: str = "Unable to parse") -> int:
    """A value that must be an integer of at least 0."""
    if type(value) is not int or not 0 <= value <= _MAX_UINT64:
        raise invalid(f"{begin} '{name}': attempt to access JSON non-unsigned-integer as unsigned-integer")
    return value


def boolean(document: Any, name: str) -> bool:
    """A member that must be true or false."""
    value = member(document, name)
    if not isinstance(value, bool):
        raise unreadable(name, "attempt to access JSON non-boolean as boolean")
    return value


def parameters_of(document: Any) -> Mapping[str, Any]:
    """The parameters of a request or of a tensor; empty if there are none.

    Raises:
        ServingError: INVALID_ARGUMENT if they are not an object.
    """
    value = document.get("parameters", {}) if isinstance(document, dict) else {}
    if not isinstance(value, dict):
        raise invalid("failed to get request params.: attempt to get members for non-object")
    return value


def unreadable(name: str, why: str) -> ServingError:
    """The error for a member that cannot be used, with the reason."""
    return invalid(f"Unable to parse '{name}': {why}")
