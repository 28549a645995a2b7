"""Chooses the transport of calls: headrace-native if it is installed and supports the arguments, otherwise grpcio."""

import logging
import os
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from headrace_client.channels.base import SERVER_NAME, AsyncChannel, Channel, Settings, has_addresses

log = logging.getLogger(__name__)

PACKAGE = "headrace_native"
INTERFACE = 2
"""The `CLIENT_INTERFACE` of the headrace-native that fits this package."""

TRANSPORTS = ("auto", "native", "grpcio")

_KNOWN_OPTIONS = {"grpc.max_receive_message_length", "grpc.max_send_message_length"}
_LISTS = ("ipv4:", "ipv6:")
"""gRPC's names for lists of addresses, even of one address, which only grpcio supports."""

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_GRPC_PROXY = "no_grpc_proxy"


class _Obstacle(Exception):
    """Why the native transport cannot be used."""


def open_channel(transport: str, settings: Settings) -> Channel:
    """Returns a channel for calls that block; raises ValueError for a transport that does not support the arguments."""
    native = _native(transport, settings)
    if native is not None:
        from headrace_client.channels.fallback import FallbackChannel
        from headrace_client.channels.native_impl import NativeChannel

        return FallbackChannel(native) if native.tls and transport == "auto" else NativeChannel(native)
    if settings.hedge is not None:
        from headrace_client.channels.hedging import HedgedChannel

        return HedgedChannel(settings, settings.hedge)
    from headrace_client.channels.grpcio_impl import GrpcioChannel

    return GrpcioChannel(settings)


def open_async_channel(transport: str, settings: Settings) -> AsyncChannel:
    """Returns a channel for an event loop; raises ValueError as `open_channel` does."""
    native = _native(transport, settings)
    if native is not None:
        from headrace_client.channels.fallback import AsyncFallbackChannel
        from headrace_client.channels.native_impl import AsyncNativeChannel

        return AsyncFallbackChannel(native) if native.tls and transport == "auto" else AsyncNativeChannel(native)
    if settings.hedge is not None:
        from headrace_client.channels.hedging import AsyncHedgedChannel

        return AsyncHedgedChannel(settings, settings.hedge)
    from headrace_client.channels.grpcio_impl import AsyncGrpcioChannel

    return AsyncGrpcioChannel(settings)


def _native(transport: str, settings: Settings) -> Settings | None:
    """Returns the settings for the native transport; None for grpcio."""
    if transport not in TRANSPORTS:
        message = f"transport must be one of {', '.join(TRANSPORTS)}; was {transport!r}"
        raise ValueError(message)
    if transport == "grpcio":
        return None
    try:
        _check(settings)
        return settings if settings.credentials is None else replace(settings, tls=_tls(settings))
    except _Obstacle as obstacle:
        if transport == "native":
            message = f"transport='native' cannot be used: {obstacle}"
            raise ValueError(message) from obstacle.__cause__
        return None


def _check(settings: Settings) -> None:
    """Raises _Obstacle if the native transport cannot be used, whatever the credentials."""
    if find_spec(PACKAGE) is None:
        raise _Obstacle("headrace-native is not installed (pip install headrace-native)")
    import headrace_native

    found = getattr(headrace_native, "CLIENT_INTERFACE", 0)
    if found != INTERFACE:
        reason = f"headrace-native has client interface {found}; this client needs {INTERFACE}: install a matching one"
        log.warning("calls use grpcio: %s", reason)
        raise _Obstacle(reason)
    if settings.hedge is not None:
        raise _Obstacle("it does not hedge calls")
    known = _KNOWN_OPTIONS if settings.credentials is None else {*_KNOWN_OPTIONS, SERVER_NAME}
    unknown = [name for name, _ in settings.options if name not in known]
    if unknown:
        raise _Obstacle(f"it does not support the option {unknown[0]}")
    if has_addresses(settings.target):
        raise _Obstacle(f"it sends every call to one address, but {settings.target} may resolve to several")
    if settings.target.startswith(_LISTS) or not headrace_native.ClientChannel.knows(settings.target):
        raise _Obstacle(f"it cannot reach {settings.target}")
    if _is_proxied(settings.target):
        raise _Obstacle("a proxy is set in the environment")


def _tls(settings: Settings) -> tuple[Any, str | None]:
    """Returns the value of `Settings.tls` for the credentials; raises _Obstacle for those that only grpcio supports."""
    import headrace_native

    from headrace_client.channels.credentials import pem_of

    assert settings.credentials is not None
    pem = pem_of(settings.credentials)
    if pem is None:
        raise _Obstacle("it supports only the credentials of grpc.ssl_channel_credentials")
    name = dict(settings.options).get(SERVER_NAME)
    if not headrace_native.ClientTls.knows(settings.target, name):
        raise _Obstacle(f"it cannot check a certificate for the name {name or settings.target}")
    try:
        return headrace_native.ClientTls(pem.authorities, pem.pair), name
    except ValueError as error:
        raise _Obstacle(f"its TLS cannot use these certificates: {error}") from error


def _is_proxied(target: str) -> bool:
    """Whether grpcio would use a proxy: environment variables name one, and do not exempt the host."""
    if target.startswith("unix:") or not any(os.environ.get(name) for name in _PROXIES):
        return False
    host = target.rpartition("/")[2].rpartition(":")[0]
    exempt = os.environ.get(_NO_GRPC_PROXY) or os.environ.get("no_proxy") or ""
    return not any(entry.strip() and host.endswith(entry.strip()) for entry in exempt.split(","))
