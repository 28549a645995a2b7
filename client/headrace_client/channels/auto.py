"""Chooses the transport of calls: headrace-native if it is installed and supports the arguments, otherwise grpcio."""

import logging
import os
from importlib.util import find_spec

from headrace_client.channels.base import AsyncChannel, Channel, Settings, has_addresses

log = logging.getLogger(__name__)

PACKAGE = "headrace_native"
INTERFACE = 1
"""The `CLIENT_INTERFACE` of the headrace-native that fits this package."""

TRANSPORTS = ("auto", "native", "grpcio")

_KNOWN_OPTIONS = {"grpc.max_receive_message_length", "grpc.max_send_message_length"}
_LISTS = ("ipv4:", "ipv6:")
"""gRPC's names for lists of addresses, even of one address, which only grpcio supports."""

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_GRPC_PROXY = "no_grpc_proxy"


def open_channel(transport: str, settings: Settings) -> Channel:
    """Return a channel for calls that block; raises ValueError for a transport that does not support the arguments."""
    if _chosen(transport, settings) == "native":
        from headrace_client.channels.native_impl import NativeChannel

        return NativeChannel(settings)
    if settings.hedge is not None:
        from headrace_client.channels.hedging import HedgedChannel

        return HedgedChannel(settings, settings.hedge)
    from headrace_client.channels.grpcio_impl import GrpcioChannel

    return GrpcioChannel(settings)


def open_async_channel(transport: str, settings: Settings) -> AsyncChannel:
    """Return a channel for an event loop; raises ValueError as `open_channel` does."""
    if _chosen(transport, settings) == "native":
        from headrace_client.channels.native_impl import AsyncNativeChannel

        return AsyncNativeChannel(settings)
    if settings.hedge is not None:
        from headrace_client.channels.hedging import AsyncHedgedChannel

        return AsyncHedgedChannel(settings, settings.hedge)
    from headrace_client.channels.grpcio_impl import AsyncGrpcioChannel

    return AsyncGrpcioChannel(settings)


def _chosen(transport: str, settings: Settings) -> str:
    if transport not in TRANSPORTS:
        message = f"transport must be one of {', '.join(TRANSPORTS)}; was {transport!r}"
        raise ValueError(message)
    if transport == "grpcio":
        return transport
    reason = _obstacle(settings)
    if reason and transport == "native":
        message = f"transport='native' cannot be used: {reason}"
        raise ValueError(message)
    return "grpcio" if reason else "native"


def _obstacle(settings: Settings) -> str:
    """Say why the native transport cannot be used; empty if it can."""
    if find_spec(PACKAGE) is None:
        return "headrace-native is not installed (pip install headrace-native)"
    import headrace_native

    found = getattr(headrace_native, "CLIENT_INTERFACE", 0)
    if found != INTERFACE:
        reason = f"headrace-native has client interface {found}, not {INTERFACE} as this client: install one to match"
        log.warning("calls are carried by grpcio: %s", reason)
        return reason
    if settings.hedge is not None:
        return "it does not hedge calls"
    if settings.credentials is not None:
        return "it does not support TLS, and credentials are given"
    unknown = [name for name, _ in settings.options if name not in _KNOWN_OPTIONS]
    if unknown:
        return f"it does not support the option {unknown[0]}"
    if has_addresses(settings.target):
        return f"it sends every call to one address, and {settings.target} may stand for several"
    if settings.target.startswith(_LISTS) or not headrace_native.ClientChannel.knows(settings.target):
        return f"it cannot reach {settings.target}"
    return "a proxy is set in the environment" if _is_proxied(settings.target) else ""


def _is_proxied(target: str) -> bool:
    """Whether grpcio would use a proxy: environment variables name one, and do not exempt the host."""
    if target.startswith("unix:") or not any(os.environ.get(name) for name in _PROXIES):
        return False
    host = target.rpartition("/")[2].rpartition(":")[0]
    exempt = os.environ.get(_NO_GRPC_PROXY) or os.environ.get("no_proxy") or ""
    return not any(entry.strip() and host.endswith(entry.strip()) for entry in exempt.split(","))
