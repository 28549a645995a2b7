"""A server that is asked, before a load begins, whether it answers and which inputs its models take."""

import sys
from collections.abc import Sequence
from typing import Any

import grpc

from headrace_client.bench.errors import BenchError, require
from headrace_client.channels.auto import INTERFACE
from headrace_client.channels.misdirected import port_hint
from headrace_client.request import CODES
from headrace_client.tls import Tls, tls_hint
from headrace_client.token import token_hint

_UNBOUNDED = sys.maxsize
_ONCE = {"attempts": 1, "backoff": 0.01, "max_backoff": 0.01, "max_send": _UNBOUNDED, "max_receive": _UNBOUNDED}


class ServerFailure(BenchError):
    """A failed call: the server, the code, the server's message, and a likely reason if one is known."""

    def __init__(self, target: str, code: int, text: str, hint: str = "") -> None:
        hint = hint or port_hint(text)
        more = f" ({hint})" if hint else token_hint(CODES[code])
        super().__init__(f"{target}: {code_name(code)}: {' '.join(text.split())}{more}")
        self.is_unimplemented = CODES[code] is grpc.StatusCode.UNIMPLEMENTED


class Server:
    """A server that is measured over gRPC.

    Args:
        target: The server, as a gRPC target.
        metadata: Metadata that is sent with every call.
        timeout: The timeout of a call in seconds.
        tls: The certificates of calls over TLS; None means no TLS.

    Raises:
        BenchError: There is no such address, the certificates cannot be used, or headrace-native is missing.
    """

    def __init__(
        self, target: str, metadata: Sequence[tuple[str, str]], timeout: float, tls: Tls | None = None
    ) -> None:
        self.target = target
        self._tls = tls
        self._timeout = timeout
        self._native = native()
        secured = None if tls is None else (native_tls(tls), None)
        try:
            self._channel = self._native.ClientChannel(target, list(metadata), _ONCE, secured)
        except ValueError as error:
            raise BenchError(f"the server must be HOST:PORT or unix:PATH; was {target}") from error

    def ask(self, path: str, message: bytes) -> bytes:
        """Sends a message to a method, and returns the answer.

        Raises:
            ServerFailure: There is no answer.
        """
        return self.send(self._native.ClientRequest(path, message))

    def send(self, request: Any) -> bytes:
        """Sends a `headrace_native.ClientRequest`, and returns the answer.

        Raises:
            ServerFailure: There is no answer.
        """
        answer = self._channel.call(request, self._timeout)
        if isinstance(answer, self._native.Failure):
            raise ServerFailure(self.target, answer.code, answer.text, tls_hint(answer.text, self._tls))
        return bytes(answer)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


def native() -> Any:
    """Imports headrace-native.

    Raises:
        BenchError: headrace-native is not installed, or has another version.
    """
    module = require("headrace_native", "headrace bench", "headrace-native")
    if getattr(module, "CLIENT_INTERFACE", 0) != INTERFACE or not hasattr(module, "Load"):
        raise BenchError(
            "headrace bench needs another version of headrace-native: install the same version as headrace's"
        )
    return module


def native_tls(tls: Tls) -> Any:
    """The certificates as headrace-native takes them.

    Raises:
        BenchError: headrace-native cannot use them.
    """
    try:
        return native().ClientTls(tls.pem.authorities, tls.pem.pair)
    except ValueError as error:
        files = f"{tls.ca} or {tls.cert}" if tls.cert else tls.ca
        raise BenchError(f"{files} cannot be used by headrace-native: {error}") from error


def code_name(code: int) -> str:
    """The name of one of gRPC's codes."""
    return CODES[code].name
