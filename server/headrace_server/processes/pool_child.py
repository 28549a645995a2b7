"""A process that parses and writes large JSON bodies, so that the server's own threads need not."""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from headrace_protos import Code
from headrace_server.errors import status_of
from headrace_server.processes import memory_file
from headrace_server.processes.child import come_up

NO_MEMORY = "reading the body or writing the answer needs more memory than a process may use (--request_memory_mb)"


def main() -> None:
    """Answers jobs from the socket that is named by the first argument, until its other end is closed."""
    with come_up() as server, suppress(ConnectionError):
        while job := _received(server):
            _send(server, memory_file.pack(_answer(job)))
            _close(job)


def _received(server: socket.socket) -> list[int]:
    return socket.recv_fds(server, 1, 2)[1]


def _send(server: socket.socket, descriptor: int) -> None:
    socket.send_fds(server, [b"a"], [descriptor])
    _close([descriptor])


def _answer(job: Sequence[int]) -> tuple[object, ...]:
    """Calls a job's function; returns its result alone, or the code and the text of its error."""
    try:
        function, arguments = memory_file.unpack(job[0])
        bodies = [memory_file.take(body) for body in job[1:]]
        return (function(*bodies, *arguments),)
    except MemoryError:
        return Code.RESOURCE_EXHAUSTED, NO_MEMORY
    except Exception as error:
        return status_of(error)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


if __name__ == "__main__":
    main()
