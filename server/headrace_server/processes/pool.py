"""Processes that run functions on large JSON bodies outside the server, started when they are first needed.

The benefit: while one client posts bodies of 9 MB one after the other to a server with grpcio and uvicorn, the p99 of a
caller over gRPC is 9 ms. If a thread of the server reads the bodies instead, the p99 is 390 ms (two quiet cores,
2026-11-27). The native transport sends only those bodies here that it cannot read itself.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes import memory_file
from headrace_server.processes.child import ChildProcess
from headrace_server.processes.readable import readable
from headrace_server.processes.turns import Turns
from headrace_server.tasks import end_all

T = TypeVar("T")

CHILD = "headrace_server.processes.pool_child"

LARGE_BYTES = 4 << 20
"""An expanded body of this size or more is large: it takes a tenth of a second or more."""

ELEMENT_BYTES = 8
"""The approximate number of bytes of a written element."""

GRACE_SECONDS = 0.5
"""Seconds that a job may continue after its caller has disconnected: starting a new process takes about as long."""


class JsonProcesses:
    """Runs functions in other processes, small jobs first. In one event loop.

    Args:
        count: The number of processes for large bodies, besides one that never handles them.
        memory: The number of bytes that each process may use for a body; 0 means any number.
    """

    def __init__(self, count: int, memory: int = 0) -> None:
        self._memory = memory
        self._turns = Turns(count + 1, large=LARGE_BYTES, most_large=count)
        self._idle: list[_Process] = []
        self._jobs: set[asyncio.Task[Any]] = set()

    async def run(self, function: Callable[..., T], *arguments: Any, size: int, body: int | None = None) -> T:
        """Runs a function of a module, and returns its result; if the caller stops waiting, the function is stopped.

        Args:
            function: Called with the body, if there is one, and the arguments.
            arguments: Picklable values; the bytes of arrays are passed without pickling.
            size: The approximate number of bytes that the function must read or write.
            body: The descriptor of a file that is not empty; closed when it is no longer needed.

        Raises:
            ServingError: As raised by the function; UNAVAILABLE if the process ended, or could not be started.
        """
        descriptors = [memory_file.pack((function, arguments)), *([] if body is None else [body])]
        job = _Job(descriptors, size)
        running = asyncio.create_task(self._run(job))
        self._jobs.add(running)
        running.add_done_callback(self._jobs.discard)
        try:
            answer = await asyncio.shield(running)
        except asyncio.CancelledError:
            # Letting a process finish is better than starting a new one if it is nearly done.
            running.get_loop().call_later(GRACE_SECONDS if job.begun else 0, running.cancel)
            raise
        if len(answer) == 1:
            result: T = answer[0]
            return result
        raise ServingError(*answer)

    async def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        for process in self._idle:
            process.close()
        await end_all(self._jobs)

    async def _run(self, job: "_Job") -> Any:
        try:
            async with self._turns.turn(job.size):
                job.begun = True
                process = self._idle.pop() if self._idle else await self._started()
                try:
                    answer = await process.ask(job.descriptors)
                except BaseException:
                    process.close()
                    raise
                self._idle.append(process)
                return answer
        except OSError as error:
            raise ServingError(Code.UNAVAILABLE, f"the process for large JSON bodies failed: {error}") from error
        finally:
            _close(job.descriptors)

    async def _started(self) -> "_Process":
        starting = asyncio.create_task(asyncio.to_thread(_Process, self._memory))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(OSError):
                (await starting).close()  # nobody else knows of the process
            raise


@dataclass(slots=True)
class _Job:
    """A job for a process: its files, about how many bytes it reads or writes, and whether it has begun."""

    descriptors: list[int]
    size: int
    begun: bool = False


class _Process(ChildProcess):
    """A process of the pool; it does one job at a time."""

    def __init__(self, memory: int) -> None:
        super().__init__(CHILD, memory=memory)

    async def ask(self, descriptors: list[int]) -> Any:
        """Sends a job, closes its descriptors here so that the files are freed there, and returns the process's answer.

        Raises:
            ConnectionError: The process ended.
        """
        socket.send_fds(self.socket, [b"q"], descriptors)
        _close(descriptors)
        await readable(self.socket.fileno())
        _, answers, _, _ = socket.recv_fds(self.socket, 1, 1)
        if not answers:
            raise ConnectionResetError("it ended")
        try:
            return memory_file.unpack(answers[0])
        finally:
            os.close(answers[0])


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
