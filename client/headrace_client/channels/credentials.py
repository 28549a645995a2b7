"""Reads from gRPC's credentials what headrace-native needs to make the same connections over TLS."""

import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path

import grpc

_ROOTS_FILE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
"""The environment variable that names the authorities which gRPC trusts by default."""

_TEXTS = ("_pem_root_certificates", "_private_key", "_certificate_chain")
"""The attributes in which grpcio keeps the arguments of `grpc.ssl_channel_credentials`."""


@dataclass(frozen=True, slots=True)
class Pem:
    """Certificates and a key as texts in PEM.

    Attributes:
        authorities: The certificates of the trusted authorities.
        pair: The client's key and its certificate chain; None if the client shows no certificate.
    """

    authorities: bytes
    pair: tuple[bytes, bytes] | None


def pem_of(credentials: grpc.ChannelCredentials) -> Pem | None:
    """Returns what `grpc.ssl_channel_credentials` was called with; None for credentials of another kind.

    grpcio has no public way to ask; if its classes change, calls are made by grpcio itself.
    """
    inner = getattr(credentials, "_credentials", None)
    if type(inner).__name__ != "SSLChannelCredentials" or getattr(inner, "_private_key_signer", None) is not None:
        return None
    try:
        authorities, key, chain = (getattr(inner, name) for name in _TEXTS)
    except AttributeError:
        return None
    found = _default_authorities() if authorities is None else authorities
    if found is None or (key is None) != (chain is None):
        return None
    return Pem(found, None if key is None else (key, chain))


def _default_authorities() -> bytes | None:
    """The authorities that grpcio trusts if it is given none; None if they cannot be read."""
    file = os.environ.get(_ROOTS_FILE)
    try:
        return Path(file).read_bytes() if file else pkgutil.get_data("grpc._cython", "_credentials/roots.pem")
    except OSError:
        return None
