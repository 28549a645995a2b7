"""A service as seen by a transport: its name and, for each method, a message type and a function."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from headrace_protos.wire import has_more_fields
from headrace_server.errors import invalid
from headrace_server.models.call import Call
from headrace_server.services.room import parse

MAX_CONCURRENT_STREAMS = 1000
"""The maximum number of concurrent calls on one connection, unless an operator sets another: gRPC itself has none."""

MAX_MESSAGE_BYTES = 2**31 - 1
"""The largest size of a message in any language: protobuf counts bytes with 31 bits."""


@dataclass(frozen=True, slots=True)
class Method:
    """A unary method of a gRPC service.

    Attributes:
        name: The method's name, as in the service's .proto file.
        request: The message type that a request's bytes are parsed as.
        answer: Returns the response to a request; raises what `errors.status_of` maps to a status.
        max_fields: The maximum number of fields at the top level of a request; None means that any number is allowed.
            Without a maximum, a message of 1 MB could have half a million entries of a map, each of two bytes, and
            parsing them would take half a second. Requests of up to `2 * max_fields` bytes are not checked: they cannot
            have more fields.
        lasting: Whether an answer is valid until the server's state changes, and the call has no other effect.
    """

    name: str
    request: type[Message]
    answer: Callable[[Any, Call], Awaitable[Message]]
    max_fields: int | None = None
    lasting: bool = False

    def parse(self, data: bytes) -> Any:
        """Parses a request.

        Raises:
            DecodeError: The bytes are not a message of the request's type.
            MemoryError: The system has too little memory for the message.
            ServingError: INVALID_ARGUMENT if there are too many fields.
        """
        most = self.max_fields
        if most is not None and len(data) > 2 * most and has_more_fields(data, most):
            raise invalid(f"{self.request.DESCRIPTOR.full_name} must have at most {most} inputs and outputs")
        return parse(self.request, data)


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """A method whose requests and responses are both streams.

    Attributes:
        name: The method's name, as in the service's .proto file.
        request: The message type that the bytes of each request are parsed as.
        answer: Yields the responses, possibly before all requests have arrived; raises what `errors.status_of` maps to
            a status. The generator is closed when its responses are no longer read.
    """

    name: str
    request: type[Message]
    answer: Callable[[AsyncIterator[Any], Call], AsyncGenerator[Message, None]]


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service.

    Attributes:
        name: The service's full name, with its package.
        methods: The unary methods.
        streams: The methods whose requests and responses are streams.
    """

    name: str
    methods: tuple[Method, ...]
    streams: tuple[StreamMethod, ...] = ()
