"""TLS for gRPC from an SSLConfig file, which is read again when it changes."""

import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from headrace_protos import SSLConfig
from headrace_server.config.files import check_can_be_read_again, read_text_proto
from headrace_server.errors import ServingError, invalid

log = logging.getLogger(__name__)

T = TypeVar("T")

State = tuple[int, ...]


def read_ssl_config(path: str) -> SSLConfig:
    """Reads an SSLConfig file, and checks that its key and certificates can be used.

    Raises:
        ServingError: As for `Followed`.
    """
    config = read_text_proto(path, SSLConfig(), secret=True)
    _check(path, config)
    return config


class Followed(Generic[T]):
    """The content of an SSLConfig file, converted for a transport once, and again when it has changed.

    Whether clients must show a certificate is fixed at the start; TF Serving reads the file only once (server.cc,
    BuildServerCredentials).

    Args:
        path: The SSLConfig file.
        make: Converts the file's contents.

    Raises:
        ServingError: NOT_FOUND or INVALID_ARGUMENT if the file cannot be read, or its contents cannot be used.
    """

    def __init__(self, path: str, make: Callable[[SSLConfig], T]) -> None:
        self._path = path
        self._make = make
        self._seen = _state(path)
        config = read_ssl_config(path)
        self.client_verify = config.client_verify
        self.first = make(config)

    def changed(self) -> T | None:
        """The converted content, if it has changed since it was last read and can be used.

        Called when a client connects.
        """
        state = _state(self._path)
        if state == self._seen:
            return None
        self._seen = state
        try:
            check_can_be_read_again(self._path)
            config = read_ssl_config(self._path)
            if config.client_verify != self.client_verify:
                log.warning("%s: client_verify takes effect only after a restart", self._path)
                config.client_verify = self.client_verify
            made = self._make(config)
        except ServingError as error:
            log.error("the certificate is not replaced: %s", error.message)
            return None
        log.info("certificate reloaded from %s", self._path)
        return made


def _state(path: str) -> State:
    """Identifies a state of a file; empty if there is no file."""
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _check(path: str, config: SSLConfig) -> None:
    """Checks a key and its certificates; otherwise, gRPC would only report that it cannot listen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, needed in (("server_key", True), ("server_cert", True), ("custom_ca", False)):
        text = getattr(config, name)
        if (needed or text) and "-----BEGIN " not in text:
            raise invalid(f"{path}: {name} must hold the text of a PEM file, not its path; it has no -----BEGIN line")
    try:
        with _in_memory(config.server_key + "\n" + config.server_cert) as pair:
            context.load_cert_chain(pair, password="")  # an encrypted key is refused instead of asking for its password
    except ssl.SSLError as error:
        raise invalid(f"{path}: server_key and server_cert cannot be used together: {error}") from error
    try:
        if config.custom_ca:
            context.load_verify_locations(cadata=config.custom_ca)
    except ssl.SSLError as error:
        raise invalid(f"{path}: custom_ca cannot be used: {error}") from error


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """The path of a file in memory with some text, for a function that needs a path."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
