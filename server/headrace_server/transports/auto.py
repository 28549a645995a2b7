"""Chooses the transport by its name: the one file that knows which there are."""

from headrace_server.errors import invalid
from headrace_server.transports.base import Endpoint, Transport


def make_transport(name: str, endpoint: Endpoint) -> Transport:
    """The transport of that name.

    Args:
        name: `auto` for the fastest that is installed, or `grpcio`.
        endpoint: Where it listens, and what it serves.

    Raises:
        ServingError: There is no such transport.
    """
    if name not in ("auto", "grpcio"):
        raise invalid(f"unknown transport {name!r}: expected auto or grpcio")
    from headrace_server.transports.grpcio_impl import GrpcioTransport

    return GrpcioTransport(endpoint)
