"""The API key or token that the commands send.

It comes from the environment and not from a flag, because all users of a machine can see the flags of its processes.
"""

import os

import grpc

TOKEN_VARIABLE = "HEADRACE_TOKEN"
"""The environment variable for an API key or a token."""


def token_metadata() -> tuple[tuple[str, str], ...]:
    """The metadata for a server that authenticates callers; empty if the environment has no token.

    Raises:
        ValueError: The token cannot be sent.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not (token.isascii() and token.isprintable()):
        raise ValueError(f"{TOKEN_VARIABLE} must hold printable ASCII characters only")
    return (("authorization", f"Bearer {token}"),) if token else ()


def token_hint(code: grpc.StatusCode) -> str:
    """The end of the error text of a call that was refused without valid credentials: how to send some. Else empty."""
    if code is not grpc.StatusCode.UNAUTHENTICATED:
        return ""
    return f" (the environment variable {TOKEN_VARIABLE} holds the API key or the token that is sent)"
