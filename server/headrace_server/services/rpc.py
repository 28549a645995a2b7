"""What a service is to a transport: its name and, for each method, a message type and a function."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
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
class StreamMethod:
    """A method whose requests and responses are both streams.

    Attributes:
        name: As in the service's .proto file.
        request: The message type that the bytes of each request are parsed as.
        answer: From the requests, as they come, to the responses; raises what `errors.status_of` maps to a status. It
            is closed when nobody reads any more.
    """

    name: str
    request: type[Message]
    answer: Callable[[AsyncIterator[Any], Call], AsyncGenerator[Message, None]]


@dataclass(frozen=True, slots=True)
class Service:
    """A service.

    Attributes:
        name: Its full name, package included.
        methods: The unary ones.
        streams: Those whose requests and responses are streams.
    """

    name: str
    methods: tuple[Method, ...]
    streams: tuple[StreamMethod, ...] = ()
