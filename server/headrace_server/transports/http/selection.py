"""Chooses the HTTP transport: the native server if it carries gRPC, otherwise uvicorn."""

from headrace_server.errors import invalid
from headrace_server.services.router import HttpApi
from headrace_server.transports.budget import Budget
from headrace_server.transports.grpc.endpoint import CallerBounds, ServesHttp, SharesBudget, Transport
from headrace_server.transports.http.base import HttpOptions, HttpTransport, PlainApis


def make_http(options: HttpOptions, plain: PlainApis, api: HttpApi, carrier: Transport) -> HttpTransport:
    """The HTTP transport.

    Args:
        options: The address and the limits.
        plain: How a transport that answers plain requests itself should answer them.
        api: Answers all other requests.
        carrier: gRPC's transport.

    Raises:
        ServingError: INVALID_ARGUMENT if TLS is requested, which is not supported with uvicorn.
    """
    if isinstance(carrier, ServesHttp):
        from headrace_server.transports.http.native_impl import NativeHttpTransport

        return NativeHttpTransport(options, plain, api, carrier.listen_http)
    if options.ssl_config_file:
        raise invalid("--rest_api_ssl_config_file needs the native transport: pip install headrace-native")
    from headrace_server.transports.http.uvicorn_impl import UvicornTransport

    budget = carrier.budget if isinstance(carrier, SharesBudget) else Budget(CallerBounds().memory)
    return UvicornTransport(options, api, budget)
