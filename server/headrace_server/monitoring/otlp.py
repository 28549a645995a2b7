"""Sends encoded spans to an OpenTelemetry collector by OTLP over gRPC (extra `otel`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc

from headrace_protos import Code
from headrace_server.errors import ServingError, invalid

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True, slots=True)
class EncodedSpans:
    """An encoded `ExportTraceServiceRequest`, and the number of its spans."""

    message: bytes
    count: int


class Exporter(Protocol):
    """Sends spans. One thread."""

    def export(self, spans: EncodedSpans) -> object:
        """Sends spans; logs an error if that fails."""

    def shutdown(self) -> None:
        """Closes the connection."""


def otlp_exporter(endpoint: str) -> Exporter:
    """An exporter of encoded spans, which OTEL_EXPORTER_OTLP_* configure if they are set.

    Args:
        endpoint: The URL of the collector, such as `http://localhost:4317`; `https` means TLS.

    Raises:
        ServingError: FAILED_PRECONDITION if the extra `otel` is not installed; INVALID_ARGUMENT if the URL is invalid.
    """
    if not endpoint.startswith(("http://", "https://")):
        raise invalid(f"--trace_endpoint must be a URL such as http://localhost:4317; was '{endpoint}'")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        text = f"--trace_endpoint needs OpenTelemetry: pip install 'headrace[otel]' ({error})"
        raise ServingError(Code.FAILED_PRECONDITION, text) from error

    class BytesExporter(OTLPSpanExporter):
        """Sends messages that are already encoded; everything else is as in the SDK's exporter."""

        # The SDK creates one for each channel.
        @property
        def _stub(self) -> Callable[[grpc.Channel], "_Stub"]:
            return _Stub

        @_stub.setter
        def _stub(self, stub: Any) -> None:
            del stub  # the SDK's stub, which encodes messages

        def _translate_data(self, data: Any) -> Any:
            return data.message

        def _count_data(self, data: Any) -> int:
            count: int = data.count
            return count

    return cast("Exporter", BytesExporter(endpoint=endpoint, insecure=endpoint.startswith("http://")))


class _Stub:
    """The collector's service, with requests and responses as bytes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.Export: Callable[..., bytes] = channel.unary_unary(_EXPORT)
