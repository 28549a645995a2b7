"""gRPC's channel arguments that have an effect on a server, and the check of given ones."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

NUMBERS = (
    "grpc.default_compression_algorithm",
    "grpc.http2.bdp_probe",
    "grpc.http2.hpack_table_size.decoder",
    "grpc.http2.hpack_table_size.encoder",
    "grpc.http2.lookahead_bytes",
    "grpc.http2.max_frame_size",
    "grpc.http2.max_ping_strikes",
    "grpc.http2.max_pings_without_data",
    "grpc.http2.min_ping_interval_without_data_ms",
    "grpc.http2.write_buffer_size",
    "grpc.keepalive_permit_without_calls",
    "grpc.keepalive_time_ms",
    "grpc.keepalive_timeout_ms",
    "grpc.max_concurrent_streams",
    "grpc.max_connection_age_grace_ms",
    "grpc.max_connection_age_ms",
    "grpc.max_connection_idle_ms",
    "grpc.max_metadata_size",
    "grpc.absolute_max_metadata_size",
    "grpc.max_receive_message_length",
    "grpc.max_send_message_length",
    "grpc.minimal_stack",
    "grpc.optimization_target",
    "grpc.per_message_compression",
    "grpc.per_message_decompression",
    "grpc.server_handshake_timeout_ms",
    "grpc.server_max_unrequested_time_in_server",
    "grpc.so_reuseport",
    "grpc.tcp_read_chunk_size",
    "grpc.tcp_user_timeout_ms",
)
"""The arguments whose value is an integer."""

TEXTS = ("grpc.primary_user_agent", "grpc.secondary_user_agent", "grpc.ssl_target_name_override")


def complaints(arguments: Sequence[tuple[str, int | str]]) -> Iterator[str]:
    """A sentence for each argument that has no effect, because of its name or its value."""
    for name, value in arguments:
        if name in NUMBERS and not isinstance(value, int):
            yield f"{name} must be an integer of 32 bits; was {value!r}"
        elif name not in (*NUMBERS, *TEXTS):
            close = get_close_matches(name, (*NUMBERS, *TEXTS), n=1)
            yield f"{name} is unknown" + (f"; did you mean {close[0]}?" if close else "")
