"""Ports for servers that cannot choose a free one themselves."""

import os
import socket
from collections.abc import Iterator
from itertools import cycle, islice

_LOWEST, _HIGHEST = 10_000, 32_000
"""Below the range from which the kernel assigns ephemeral ports."""


def _ports() -> Iterator[int]:
    """The ports in a cycle, starting with one that depends on the process."""
    ports = range(_LOWEST, _HIGHEST)
    begin = os.getpid() * 101 % len(ports)
    return islice(cycle(ports), begin, None)


_NEXT = _ports()


def free_port() -> int:
    """A port that nothing listens on, and that no other test gets before this test binds it."""
    for port in _NEXT:
        if _is_free(port):
            return port
    raise AssertionError


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
