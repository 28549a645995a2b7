"""TLS for the commands: flags or environment variables name the files with the certificates and the key."""

import os
import re
import ssl
from argparse import ArgumentParser, _ArgumentGroup
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from headrace_client.channels.credentials import Pem
from headrace_client.request import ServerError
from headrace_client.token import token_hint

FLAGS = {
    "tls_ca": "call with TLS, and trust the certificates in this PEM file",
    "tls_cert": "PEM file with the certificate to show to a server that asks for one (mutual TLS)",
    "tls_key": "PEM file with the key of --tls_cert",
}

ENVIRONMENT = (
    "The variables HEADRACE_TLS_CA, HEADRACE_TLS_CERT and HEADRACE_TLS_KEY replace TLS flags that are not given."
)
"""The sentence on environment variables in the commands' descriptions."""

# The messages are those of headrace-native (rustls), of grpcio 1.85 (BoringSSL), and of Python (OpenSSL).
_OWN_AUTHORITY = re.compile("CaUsedAsEndEntity")
_OTHER_NAME = re.compile("Hostname Verification Check failed|not valid for name|certificate is not valid for")
_NOT_TRUSTED = re.compile("CERTIFICATE_VERIFY_FAILED|invalid peer certificate")
_REFUSED = re.compile("has not answered in HTTP/2|Socket closed|fatal alert|Unwrap failed|ALERT_")


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates and the key for calls over TLS, and how the user has named their files, for messages.

    Attributes:
        pem: The trusted certificates, and the client's key and certificate if there are any.
        ca: The flag or the variable for the trusted certificates, such as `--tls_ca=ca.pem`.
        cert: The same for the client's certificate; empty if there is none.
        context: The same certificates and key, for Python's own sockets.
    """

    pem: Pem
    ca: str
    cert: str
    context: ssl.SSLContext

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials for gRPC's channels and for the clients."""
        return grpc.ssl_channel_credentials(self.pem.authorities, *(self.pem.pair or (None, None)))


@dataclass(frozen=True, slots=True)
class _File:
    """A file from the user: its path, and the flag or the variable that names it."""

    path: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}={self.path}"

    def read(self, kind: str, what: str) -> bytes:
        """The file's text; raises ValueError if it has no PEM block of this kind."""
        try:
            text = Path(self.path).read_bytes()
        except OSError as error:
            raise ValueError(f"{self} cannot be read: {error.strerror}") from error
        if not re.search(rf"-----BEGIN [A-Z ]*{kind}-----".encode(), text):
            raise ValueError(f"{self} has no {what} in PEM")
        return text


def add_tls_flags(parser: ArgumentParser | _ArgumentGroup) -> None:
    """Adds the flags to those of a command."""
    for name, text in FLAGS.items():
        parser.add_argument(f"--{name}", metavar="FILE", help=text)


def tls_of(values: Mapping[str, object]) -> Tls | None:
    """Reads the files that a command line, or else the environment, names; None for calls without TLS.

    An empty flag stands for no file, whatever the environment says.

    Args:
        values: The values of the command's flags, by name.

    Raises:
        ValueError: A file is missing or cannot be used; the message names the file and its flag.
    """
    ca, cert, key = (_given(values, name) for name in FLAGS)
    if (cert is None) != (key is None):
        raise ValueError(f"{cert or key} is not enough: --tls_cert and --tls_key must be given together")
    if ca is None:
        if cert is not None:
            raise ValueError(f"{cert} needs --tls_ca, which turns TLS on")
        return None
    authorities = ca.read("CERTIFICATE", "certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca.path)
    except ssl.SSLError as error:
        raise ValueError(f"{ca} has a certificate that cannot be read: {_reason(error)}") from error
    pair = _pair(context, cert, key) if cert and key else None
    return Tls(Pem(authorities, pair), str(ca), str(cert or ""), context)


def credentials_of(tls: Tls | None) -> grpc.ChannelCredentials | None:
    """The credentials of calls; None without TLS."""
    return None if tls is None else tls.credentials


def tls_hint(message: str, tls: Tls | None) -> str:
    """Which file or name may be wrong, from the message of a call over TLS that failed; otherwise empty."""
    if tls is None:
        return ""
    if _OWN_AUTHORITY.search(message):
        return (
            "the server's certificate is that of an authority, which headrace-native does not accept from a server: "
            "create it with basicConstraints=CA:FALSE"
        )
    if _OTHER_NAME.search(message):
        return "the server's certificate is for another name: --server must be a name or an address in the certificate"
    if _NOT_TRUSTED.search(message):
        return f"the server's certificate is not trusted: {tls.ca} must have the certificate of its authority"
    if not _REFUSED.search(message):
        return ""
    if tls.cert:
        return f"perhaps the server does not trust the certificate of {tls.cert}"
    return "perhaps the server asks for a certificate: --tls_cert and --tls_key name one, and its key"


def told(error: ServerError, tls: Tls | None) -> str:
    """A failed call in words, with a hint at the flag or the variable that may be wrong."""
    hint = tls_hint(error.message, tls) or error.hint
    return f"{ServerError(error.code, error.message, hint)}{token_hint(error.code)}"


def _given(values: Mapping[str, object], name: str) -> _File | None:
    variable = f"HEADRACE_{name.upper()}"
    flag = values.get(name)
    path = os.environ.get(variable, "") if flag is None else str(flag)
    return _File(path, variable if flag is None else f"--{name}") if path else None


def _pair(context: ssl.SSLContext, cert: _File, key: _File) -> tuple[bytes, bytes]:
    """The client's key and its certificate; raises ValueError if they do not belong together."""
    chain, secret = cert.read("CERTIFICATE", "certificate"), key.read("PRIVATE KEY", "key")
    if b"ENCRYPTED" in secret:
        raise ValueError(f"{key} is encrypted: the key must not need a password")
    try:
        context.load_cert_chain(cert.path, key.path)
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise ValueError(f"{key} is not the key of the certificate in {cert}") from error
        raise ValueError(f"{cert} and {key} cannot be used: {_reason(error)}") from error
    return secret, chain


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
