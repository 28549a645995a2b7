"""The addresses at which gRPC listens, and its channel arguments."""

import re

from headrace_server.config.run import Config
from headrace_server.errors import invalid
from headrace_server.services.rpc import MAX_MESSAGE_BYTES


def addresses(config: Config) -> list[str]:
    """A TCP port, a UNIX socket or both. As in TF Serving's server.cc, port 0 with a UNIX socket means no TCP port."""
    sockets = [f"unix:{config.grpc_socket_path}"] if config.grpc_socket_path else []
    return ([address_of(config.host, config.port)] if config.port or not sockets else []) + sockets


def address_of(host: str, port: int) -> str:
    """A host and port as text; without a host, all interfaces of both families."""
    return f"[{host}]:{port}" if ":" in host else f"{host or '0.0.0.0'}:{port}"


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """Parses `k=v,k=v`; a value that is an int32 is passed as one, as in TF Serving's server.cc.

    Raises:
        ServingError: INVALID_ARGUMENT if there is an item without `=`.
    """
    arguments: list[tuple[str, int | str]] = []
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise invalid(f"--grpc_channel_arguments: {item!r} is not of the form key=value")
        arguments.append((key, int(value) if _is_int32(value) else value))
    return arguments


def max_send_bytes(text: str) -> int:
    """The largest size of a message to a caller, in bytes, that the channel arguments `k=v,k=v` allow.

    Raises:
        ServingError: As for `channel_arguments`.
    """
    limit = dict(channel_arguments(text)).get("grpc.max_send_message_length", -1)
    return limit if isinstance(limit, int) and limit >= 0 else MAX_MESSAGE_BYTES


def _is_int32(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+", text) is not None and -(1 << 31) <= int(text) < 1 << 31
