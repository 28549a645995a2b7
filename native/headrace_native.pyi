"""The native transport: HTTP/2 on a thread of its own, and calls as events for the event loop."""

from collections.abc import Sequence
from typing import Any

INTERFACE: int
"""Which headrace this fits."""

BEGIN: int
MESSAGE: int
SENT: int
CANCELLED: int
DRAINED: int

class Limits:
    """The limits of one server, by the names of gRPC's channel arguments."""

    def __init__(
        self,
        *,
        max_receive_message_length: int,
        max_concurrent_streams: int,
        max_metadata_size: int,
        keepalive_time_ms: int,
        keepalive_timeout_ms: int,
        default_compression_algorithm: int,
    ) -> None: ...

class Server:
    """The listener, its connections, and the thread that they all live on.

    Args:
        methods: Full paths, each with whether its requests stream.
        limits: What callers may ask of it.
    """

    def __init__(self, methods: Sequence[tuple[str, bool]], limits: Limits) -> None: ...
    def start(self, address: str) -> int:
        """Listens; the port that it got.

        Raises:
            OSError: The address is taken, or no address at all.
        """

    def fileno(self) -> int:
        """A socket that is readable when there are events."""

    def take(self) -> list[tuple[int, Call | None, bytes | None]]:
        """All events since the last time: kind, call, and a message for BEGIN and MESSAGE."""

    def stop(self, grace: float) -> None:
        """Takes no more calls; DRAINED follows when those in flight have ended, or after `grace` seconds."""

    def join(self) -> None:
        """Waits for the thread to end, without the interpreter lock."""

class Call:
    """A call in the event loop's hands."""

    owner: Any
    """Whatever is to be found again when an event names the call; None once it has ended."""

    @property
    def method(self) -> int:
        """The place of its method in the server's list."""

    @property
    def peer(self) -> str:
        """The caller's host and port."""

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What came with the request; bytes for names that end in -bin."""

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; None without one."""

    def read(self) -> None:
        """Asks for the next message of a streaming request: a MESSAGE event follows, without one at the end."""

    def send(self, message: bytes) -> None:
        """Sends a message of a streaming response: a SENT event follows when it has left."""

    def send_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Sends the head of the response."""

    def finish(
        self,
        message: bytes | None,
        code: int = 0,
        text: str = "",
        trailers: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """Ends the call, with a last message if there is one."""
