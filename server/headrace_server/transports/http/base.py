"""The common part of all HTTP transports."""

from dataclasses import dataclass
from typing import Protocol

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.services.open_inference.rest.service import OpenInferenceRest
from headrace_server.services.tf_serving.rest.service import RestService


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """The address of an HTTP server, and its limits.

    Attributes:
        host: An address; empty means all interfaces.
        port: The port; 0 uses any free port.
        max_body_bytes: The largest accepted body, before decompression.
        timeout: Seconds that a model may take for a call; None means no limit.
        ssl_config_file: The SSLConfig that secures the server; empty if there is none.
        stall_seconds: Seconds after which a connection that stalls is closed; 0 means never.
    """

    host: str
    port: int
    max_body_bytes: int
    timeout: float | None = None
    ssl_config_file: str = ""
    stall_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PlainApis:
    """How a transport that answers plain requests itself should answer them.

    Attributes:
        predict: Whether TensorFlow Serving's :predict is served.
        infer: Whether the Open Inference Protocol's infer is served.
    """

    predict: RestService
    infer: OpenInferenceRest


class HttpTransport(Protocol):
    """Connects a socket and APIs. Created, started and stopped in the event loop of its services."""

    async def start(self) -> int:
        """Listens, and returns the port.

        Raises:
            ServingError: UNKNOWN if the port is taken.
        """

    async def stop(self, grace: float) -> None:
        """Accepts no more requests, and returns when those in flight have ended, or after `grace` seconds."""


def failed_to_listen(options: HttpOptions, error: OSError) -> ServingError:
    """The error if REST cannot be served. TF Serving's server.cc has the text's beginning."""
    where = f"{options.host or 'localhost'}:{options.port}"
    return ServingError(Code.UNKNOWN, f"Failed to start HTTP Server at {where}: {error}")
