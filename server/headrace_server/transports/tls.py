"""TLS for gRPC from an SSLConfig file, which is read again when it changes."""

import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import grpc

from headrace_protos import SSLConfig
from headrace_server.config_files import read_text_proto
from headrace_server.errors import ServingError, invalid

log = logging.getLogger(__name__)

State = tuple[int, ...]


def tls_credentials(path: str) -> grpc.ServerCredentials:
    """Credentials that follow an SSLConfig file: a client that connects gets the certificate that it holds then.

    TF Serving: server.cc, BuildServerCredentials, which reads the file once. Whether clients must show a certificate
    is decided here once, too. gRPC wants other credentials for each address.

    Raises:
        ServingError: NOT_FOUND or INVALID_ARGUMENT: the file cannot be read, or its contents cannot be used.
    """
    seen = _state(path)
    config = read_ssl_config(path)
    follower = _Follower(path, seen, client_verify=config.client_verify)
    # It may return None, whatever grpcio's type stubs say.
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", follower.changed)
    return grpc.dynamic_ssl_server_credentials(_certificates(config), fetch, config.client_verify)


def read_ssl_config(path: str) -> SSLConfig:
    """Reads an SSLConfig file, and checks that its key and certificates can be used.

    Raises:
        ServingError: As for `tls_credentials`.
    """
    config = read_text_proto(path, SSLConfig())
    _check(path, config)
    return config


class _Follower:
    """Knows which state of an SSLConfig file was read last."""

    def __init__(self, path: str, seen: State, *, client_verify: bool) -> None:
        self._path = path
        self._seen = seen
        self._client_verify = client_verify

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What it holds, if it has changed since it was read and can be used. gRPC asks at every handshake."""
        state = _state(self._path)
        if state == self._seen:
            return None
        self._seen = state
        try:
            config = read_ssl_config(self._path)
        except ServingError as error:
            log.error("the certificate stays as it was: %s", error.message)
            return None
        if config.client_verify != self._client_verify:
            log.warning("%s: client_verify takes effect when the server is started again", self._path)
        log.info("certificate read again from %s", self._path)
        return _certificates(config)


def _state(path: str) -> State:
    """What tells one state of a file from the next; nothing where there is no file."""
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _certificates(config: SSLConfig) -> grpc.ServerCertificateConfiguration:
    pair = (config.server_key.encode(), config.server_cert.encode())
    return grpc.ssl_server_certificate_configuration([pair], config.custom_ca.encode() or None)


def _check(path: str, config: SSLConfig) -> None:
    """GRPC itself would say only that it cannot listen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with _in_memory(config.server_key + "\n" + config.server_cert) as pair:
            context.load_cert_chain(pair, password="")  # an encrypted key is refused, not asked for
    except ssl.SSLError as error:
        raise invalid(f"{path}: server_key and server_cert cannot be used together: {error}") from error
    try:
        if config.custom_ca:
            context.load_verify_locations(cadata=config.custom_ca)
    except ssl.SSLError as error:
        raise invalid(f"{path}: custom_ca cannot be used: {error}") from error


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """The path of a file that holds a text and is on no disk, for a function that wants a path."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
