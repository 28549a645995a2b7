"""What a service is to a transport: its name and, for each method, a message type and a function."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from headrace_server.models.call import Call


@dataclass(frozen=True, slots=True)
class Method:
    """A unary method.

    Attributes:
        name: As in the service's .proto file.
        request: The message type that its bytes are parsed as.
        answer: From a request to its response; raises what `errors.status_of` maps to a status.
    """

    name: str
    request: type[Message]
    answer: Callable[[Any, Call], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Service:
    """A service by its full name, package included."""

    name: str
    methods: tuple[Method, ...]
