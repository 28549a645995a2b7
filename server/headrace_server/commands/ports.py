"""Whether the ports of a run are free, asked before models are loaded, which may take minutes."""

import errno
import socket

from headrace_protos import Code
from headrace_server.config.run import Config
from headrace_server.errors import ServingError, invalid


def refuse_taken_ports(config: Config) -> None:
    """Refuses ports that cannot be listened on.

    Raises:
        ServingError: UNAVAILABLE or PERMISSION_DENIED; INVALID_ARGUMENT for two equal ports. The text names the flag.
    """
    if config.rest_api_port and config.rest_api_port == config.port:
        raise invalid(f"--rest_api_port must differ from --port; was {config.rest_api_port}")
    for name, port in (("port", config.port), ("rest_api_port", config.rest_api_port)):
        if port:
            _try(name, port)


def _try(name: str, port: int) -> None:
    try:
        # As the transports bind: in the time in which a connection that has ended is remembered, the port can be taken.
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServingError(Code.UNAVAILABLE, f"port {port} is in use: choose another with --{name}") from error
        raise ServingError(
            Code.PERMISSION_DENIED if error.errno == errno.EACCES else Code.UNAVAILABLE,
            f"cannot listen on port {port}: {error.strerror}: choose another with --{name}",
        ) from error
