"""What carries HTTP requests to the APIs, whichever implementation it is."""

from dataclasses import dataclass
from typing import Protocol

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.services.open_inference.rest.service import OpenInferenceRest
from headrace_server.services.tf_serving.rest.service import RestService


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Where HTTP is served, and what is taken.

    Attributes:
        host: An address; empty for all interfaces.
        port: There; 0 takes a free one.
        max_body_bytes: A larger body, as it is sent, is refused.
        timeout: Seconds that a model may take for a call; None for no limit.
        ssl_config_file: The SSLConfig that secures it; empty for none.
        stall_seconds: After which a connection ends that does not go on with what it owes; 0 for never.
    """

    host: str
    port: int
    max_body_bytes: int
    timeout: float | None = None
    ssl_config_file: str = ""
    stall_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PlainApis:
    """What plain requests are answered like by a transport that answers them itself.

    Attributes:
        predict: Has TensorFlow Serving's :predict.
        infer: Has the Open Inference Protocol's infer.
    """

    predict: RestService
    infer: OpenInferenceRest


class HttpTransport(Protocol):
    """A socket on one side, APIs on the other. Made, started and stopped in the event loop of its services."""

    async def start(self) -> int:
        """Listens; the port that it got.

        Raises:
            ServingError: UNKNOWN, the port is taken.
        """

    async def stop(self, grace: float) -> None:
        """Takes no more requests, and returns when those in flight have ended, or after `grace` seconds."""


def failed_to_listen(options: HttpOptions, error: OSError) -> ServingError:
    """Why there is no REST. TF Serving: server.cc has the text's beginning."""
    where = f"{options.host or 'localhost'}:{options.port}"
    return ServingError(Code.UNKNOWN, f"Failed to start HTTP Server at {where}: {error}")
