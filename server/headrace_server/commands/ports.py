"""Checks that the ports are free before models are loaded, since loading may take minutes."""

import errno
import socket

from headrace_protos import Code
from headrace_server.config.run import Config
from headrace_server.errors import ServingError, invalid


def refuse_taken_ports(config: Config) -> None:
    """Refuses ports that the server cannot listen on.

    Raises:
        ServingError: UNAVAILABLE or PERMISSION_DENIED; INVALID_ARGUMENT for two equal ports. The text names the flag.
    """
    if config.rest_api_port and config.rest_api_port == config.port:
        raise invalid(f"--rest_api_port must differ from --port; was {config.rest_api_port}")
    for prefix, host, port in (
        ("", config.host, config.port),
        ("rest_api_", config.rest_api_host, config.rest_api_port),
    ):
        if port:
            _try(prefix, host, port)


def _try(prefix: str, host: str, port: int) -> None:
    try:
        # Binds as the transports do (SO_REUSEADDR), so that a port whose last connection is in TIME_WAIT counts as
        # free.
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} is in use: choose another with --{prefix}port"
            raise ServingError(Code.UNAVAILABLE, text) from error
        # Below 0: the name cannot be resolved.
        if error.errno is not None and (error.errno < 0 or error.errno == errno.EADDRNOTAVAIL):
            reason = str(error.strerror).partition(" (while attempting")[0]
            text = f"--{prefix}host must be an address of this machine; was {host!r}: {reason}"
            raise ServingError(Code.UNAVAILABLE, text) from error
        raise ServingError(
            Code.PERMISSION_DENIED if error.errno == errno.EACCES else Code.UNAVAILABLE,
            f"cannot listen on port {port}: {error.strerror}: choose another with --{prefix}port",
        ) from error
