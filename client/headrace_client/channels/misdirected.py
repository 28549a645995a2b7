"""Recognises calls that went to a port that speaks something else: REST instead of gRPC, or TLS on one side only."""

import re

_HTTP = re.compile(r"http2 header with status: (400|404|405|415)$|http1\.x server")
_ONE_SIDED_TLS = ("WRONG_VERSION_NUMBER", "corrupt message of type InvalidContentType")
_NOT_HTTP2 = re.compile(r"has not answered in HTTP/2$|^failed to connect .*Socket closed$", re.DOTALL)

REST = (
    "this port speaks HTTP, such as REST, but not gRPC: call the server's gRPC port, which --port of `headrace serve` "
    "sets; the default is 8500"
)
NO_TLS = (
    "this port does not use TLS: call it without credentials (without --tls_ca of `headrace call`, `models` and "
    "`bench`), or call another port"
)
NOT_PLAIN = (
    "this port does not speak gRPC without TLS: if it uses TLS, call it with --tls_ca of `headrace call`, `models` and "
    "`bench`, or with the `credentials` of headrace_client; if it is a REST port, call the server's gRPC port, which "
    "--port of `headrace serve` sets; the default is 8500"
)


def port_hint(message: str) -> str:
    """What may be wrong with the port, from the message of a failed call; empty if the message does not tell.

    The messages are those of headrace-native and of grpcio 1.85.
    """
    if _HTTP.search(message):
        return REST
    if any(part in message for part in _ONE_SIDED_TLS):
        return NO_TLS
    return NOT_PLAIN if _NOT_HTTP2.search(message) else ""
