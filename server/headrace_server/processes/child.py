"""A process of ours beside the server, and the socket between them, seen from both."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

NICENESS = 10
"""Calls that wait in the server go before what is done beside it."""


_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(256 << 20)}
"""For glibc: to give memory back after each body and ask for it anew keeps a core in the kernel for milliseconds."""


class ChildProcess:
    """A process that runs a module of ours, and ends when the socket to it is closed.

    Args:
        module: Its `main` calls `come_up` and is the process.
        kind: Of the socket.
        memory: Bytes that it may take beside what it comes up with, and files; 0 for no limit.

    Attributes:
        socket: To the process; does not block.
    """

    def __init__(self, module: str, kind: socket.SocketKind = socket.SOCK_STREAM, *, memory: int = 0) -> None:
        self.socket, other = socket.socketpair(type=kind)
        with other:
            # -P: the working directory, where anybody may be able to write, is not looked at for modules.
            command = [sys.executable, "-P", "-m", module, str(other.fileno()), str(memory)]
            self._process = subprocess.Popen(command, pass_fds=[other.fileno()], env=_environment())
        self.socket.setblocking(False)

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        self.socket.close()
        self._process.kill()
        self._process.wait()


def come_up() -> socket.socket:
    """What such a process does first; the socket to the server, named by its first argument."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the server, whose end this process sees
    os.nice(NICENESS)
    if memory := int(sys.argv[2]):
        limit_data(memory)
    return socket.socket(fileno=int(sys.argv[1]))


def limit_data(more: int) -> None:
    """Lets this process have so many bytes more than it has now, beside files and shared memory."""
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None  # Linux says it
    limit = (int(found[1]) << 10) + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _environment() -> dict[str, str]:
    """As here; what this process can import, that one can."""
    path = os.pathsep.join(filter(None, sys.path))
    return {**_KEEP_MEMORY, **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
