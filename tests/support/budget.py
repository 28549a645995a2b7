"""The memory that a server uses for its callers: its metrics, and the error if there is too little."""

import re

from tests.support.running import RunningServer

TOO_MUCH = (
    r"too much memory is held for requests: \d+ of \d+ bytes \(--request_memory_mb\); "
    "a single connection may hold only a part of that memory"
)


def held(server: RunningServer) -> dict[str, int]:
    """The number of bytes that callers occupy in a server, by kind."""
    return held_in(server._server._metrics.page().decode())


def held_in(page: str) -> dict[str, int]:
    """The number of bytes that callers occupy, by kind, read from a page of metrics."""
    return {kind: int(size) for kind, size in re.findall(r':headrace:request_memory_bytes{kind="(\w+)"} (\d+)', page)}
