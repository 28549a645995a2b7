"""How callers reach the server under the soak: TCP, TLS over TCP, or a UNIX socket; its flags, and the connections."""

import asyncio
import ssl
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

OVER = ("tcp", "tls", "unix")
LIMIT = 64 * 1024
"""The maximum number of bytes that a reader buffers."""


@dataclass(frozen=True)
class Route:
    """How the ports for gRPC and REST are reached.

    Attributes:
        rest_port: The port for REST and the metrics.
        port: The port for gRPC; 0 until the server has one.
        flags: The server's flags, in addition to its ports.
        socket: The UNIX socket for gRPC, used instead of the port.
        certificate: The server's certificate, for both ports, in PEM.
    """

    rest_port: int
    port: int = 0
    flags: Sequence[str] = ()
    socket: Path | None = None
    certificate: Path | None = None

    def channel(self) -> grpc.aio.Channel:
        """A gRPC channel with a connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        if self.socket is not None:
            return grpc.aio.insecure_channel(f"unix:{self.socket}", options=options)
        if self.certificate is None:
            return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options)
        trusted = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        return grpc.aio.secure_channel(f"localhost:{self.port}", trusted, options=options)

    async def to_grpc(self) -> Connection:
        """A connection for HTTP/2."""
        if self.socket is not None:
            return await asyncio.open_unix_connection(str(self.socket), limit=LIMIT)
        return await self._to(self.port, "h2")

    async def to_rest(self) -> Connection:
        """A connection for HTTP/1.1."""
        return await self._to(self.rest_port, "http/1.1")

    def metrics(self) -> str:
        """The metrics page."""
        scheme = "http" if self.certificate is None else "https"
        page = f"{scheme}://localhost:{self.rest_port}/metrics"
        with urllib.request.urlopen(page, timeout=10, context=self._trust("http/1.1")) as answer:
            text: str = answer.read().decode()
        return text

    async def _to(self, port: int, protocol: str) -> Connection:
        trust = self._trust(protocol)
        name = None if trust is None else "localhost"
        return await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=name, limit=LIMIT)

    def _trust(self, protocol: str) -> ssl.SSLContext | None:
        if self.certificate is None:
            return None
        context = ssl.create_default_context(cafile=self.certificate)
        context.set_alpn_protocols([protocol])
        return context


def route(over: str, folder: Path, rest_port: int) -> Route:
    """Prepares a way to reach the server; makes a key and a certificate for TLS.

    Args:
        over: The name of the way, one of `OVER`.
        folder: The folder for a socket, or for a key and its certificate.
        rest_port: The port for REST.
    """
    if over == "unix":
        path = folder / "grpc.socket"
        return Route(rest_port, flags=[f"--grpc_socket_path={path}"], socket=path)
    if over == "tls":
        config = _tls(folder)
        flags = [f"--ssl_config_file={config}", f"--rest_api_ssl_config_file={config}"]
        return Route(rest_port, flags=flags, certificate=folder / "server.pem")
    return Route(rest_port)


def _tls(folder: Path) -> Path:
    """A new key and a certificate for localhost, in a file for the server."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "server.key", "-out", "server.pem"]
    subprocess.run([*command.split(), *more], cwd=folder, check=True, capture_output=True)
    key, certificate = ((folder / name).read_text().replace("\n", "\\n") for name in ("server.key", "server.pem"))
    file = folder / "ssl.config"
    file.write_text(f'server_key: "{key}"\nserver_cert: "{certificate}"\n')
    return file
