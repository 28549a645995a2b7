"""Chooses what carries HTTP: the native server where it carries gRPC, else uvicorn."""

from headrace_server.errors import invalid
from headrace_server.services.router import HttpApi
from headrace_server.transports.budget import Budget
from headrace_server.transports.grpc.endpoint import CallerBounds, CarriesHttp, SharesBudget, Transport
from headrace_server.transports.http.base import HttpOptions, HttpTransport, PlainApis


def make_http(options: HttpOptions, plain: PlainApis, api: HttpApi, carrier: Transport) -> HttpTransport:
    """What carries HTTP.

    Args:
        options: Where it listens, and what it takes.
        plain: What a transport answers plain requests like that answers them itself.
        api: Answers all others.
        carrier: gRPC's transport.

    Raises:
        ServingError: INVALID_ARGUMENT, TLS is asked for, which uvicorn is not given.
    """
    if isinstance(carrier, CarriesHttp):
        from headrace_server.transports.http.native_impl import NativeHttpTransport

        return NativeHttpTransport(options, plain, api, carrier.listen_http)
    if options.ssl_config_file:
        raise invalid("--rest_api_ssl_config_file needs the native transport: pip install headrace-native")
    from headrace_server.transports.http.uvicorn_impl import UvicornTransport

    budget = carrier.budget if isinstance(carrier, SharesBudget) else Budget(CallerBounds().memory)
    return UvicornTransport(options, api, budget)
