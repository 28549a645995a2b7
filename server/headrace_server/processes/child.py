"""A child process of the server, and the socket between them, for both sides."""

import fcntl
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from headrace_server.processes.time_slices import lengthen_slice

NICENESS = 10
"""How much a child's nice value exceeds the server's: a thread of the server that wakes interrupts the child at once.

With equal values, Linux lets the child run on for milliseconds if that thread has had its share of the core.
"""

F_SETSIG = 10  # from <fcntl.h> on Linux

_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(256 << 20)}
"""Settings of glibc that keep memory: returning it after each body would keep a core in the kernel for milliseconds."""


class ChildProcess:
    """A process that runs one of headrace's modules, and ends with the server at the latest.

    Args:
        module: The module whose `main` calls `come_up` and then does the process's work.
        kind: The kind of the socket.
        memory: The number of bytes that the process may use in addition to its memory at the start and to files; 0
            means no limit.

    Attributes:
        socket: The socket to the process; it does not block.
    """

    def __init__(self, module: str, kind: socket.SocketKind = socket.SOCK_STREAM, *, memory: int = 0) -> None:
        self.socket, other = socket.socketpair(type=kind)
        lifeline, ours = os.pipe()
        self._lifeline = open(ours, "wb", buffering=0)  # noqa: SIM115 - nothing is written; the process ends when it is closed
        with other, open(lifeline, "rb", buffering=0):
            # -P: do not look for modules in the working directory, where other users can perhaps write.
            command = [sys.executable, "-P", "-m", module, str(other.fileno()), str(memory), str(lifeline)]
            self._process = subprocess.Popen(command, pass_fds=[other.fileno(), lifeline], env=_environment())
        self.socket.setblocking(False)

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self.socket.close()
        self._lifeline.close()
        self._process.kill()
        self._process.wait()


def come_up() -> socket.socket:
    """Prepares the new process, and returns its socket to the server, whose descriptor is the first argument."""
    end_with_server(int(sys.argv[3]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server handles them; this process ends when the server does
    lower_priority()
    if memory := int(sys.argv[2]):
        limit_data(memory)
    return socket.socket(fileno=int(sys.argv[1]))


def end_with_server(lifeline: int) -> None:
    """Makes the kernel kill this process when the other end of a pipe is closed, whatever the process is doing.

    A thread that waits for the pipe's end would not suffice, since the code that the process runs can hold the
    interpreter lock forever.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        os.read(lifeline, 1)  # nothing is ever sent, so this is the end of the pipe: the server has ended
        os._exit(0)


def lower_priority() -> None:
    """Gives every thread of this process a higher nice value and a long time slice.

    A thread of the server that wakes then interrupts them at once; neither setting suffices without the other. All
    threads are changed, since libraries start some when they are imported.
    """
    with suppress(OSError):  # a sandbox may forbid it
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(ProcessLookupError):  # the thread has ended
                nice = os.getpriority(os.PRIO_PROCESS, thread)  # on Linux, the nice value of the thread
                os.setpriority(os.PRIO_PROCESS, thread, nice + NICENESS)  # the kernel limits it to 19
                lengthen_slice(thread)


def limit_data(more: int) -> None:
    """Limits this process to this many bytes more than it uses now, not counting files and shared memory."""
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None  # Linux reports it
    limit_data_to((int(found[1]) << 10) + more)


def limit_data_to(limit: int) -> None:
    """Limits this process to this many bytes besides files and shared memory, or fewer if it is already limited."""
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)  # a process cannot raise an existing limit
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _environment() -> dict[str, str]:
    """The environment of a child, which can import whatever this process can."""
    path = os.pathsep.join(filter(None, sys.path))
    return {**_KEEP_MEMORY, **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
