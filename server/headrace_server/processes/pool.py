"""A few processes beside the server, started when they are first needed, that run functions of large JSON bodies.

What they buy: while one client posts bodies of 9 MB, one after the other, to a server that uses grpcio and uvicorn, the
p99 of a caller over gRPC is 9 ms; it is 390 ms where a thread of the server reads the bodies (two quiet cores,
2026-11-27). The native transport sends only those bodies here that it cannot read by itself.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes import memory_file
from headrace_server.processes.child import ChildProcess
from headrace_server.processes.turns import Turns

T = TypeVar("T")

CHILD = "headrace_server.processes.pool_child"

LARGE_BYTES = 4 << 20
"""A body from here on, expanded, is large: it takes a tenth of a second and more."""

ELEMENT_BYTES = 8
"""About how many an element takes, written."""

GRACE_SECONDS = 0.5
"""That a job may go on after its caller has left: a process takes about as long to start anew."""


class JsonProcesses:
    """Runs functions elsewhere, as many at once as there are processes, the small ones first. In one event loop.

    Args:
        count: Processes for large bodies, beside one that never has to do with them.
        memory: Bytes that each may take for a body; 0 for any number.
    """

    def __init__(self, count: int, memory: int = 0) -> None:
        self._memory = memory
        self._turns = Turns(count + 1, large=LARGE_BYTES, most_large=count)
        self._idle: list[_Process] = []
        self._jobs: set[asyncio.Task[Any]] = set()

    async def run(self, function: Callable[..., T], *arguments: Any, size: int, body: int | None = None) -> T:
        """The result of a function of some module; who stops waiting for it ends it.

        Args:
            function: Called with the body, if there is one, and the arguments.
            arguments: Whatever can be pickled; the bytes of arrays cross without being.
            size: About how many bytes it has to read or write.
            body: Descriptor of a file that is not empty, closed once it is not needed any more.

        Raises:
            ServingError: As the function; UNAVAILABLE, the process ended, or could not be started.
        """
        descriptors = [memory_file.pack((function, arguments)), *([] if body is None else [body])]
        job = _Job(descriptors, size)
        running = asyncio.create_task(self._run(job))
        self._jobs.add(running)
        running.add_done_callback(self._jobs.discard)
        try:
            answer = await asyncio.shield(running)
        except asyncio.CancelledError:
            # A process that is nearly done is worth more than one to be started anew.
            running.get_loop().call_later(GRACE_SECONDS if job.begun else 0, running.cancel)
            raise
        if len(answer) == 1:
            result: T = answer[0]
            return result
        raise ServingError(*answer)

    async def close(self) -> None:
        """Ends the processes, and what they may be doing."""
        for process in self._idle:
            process.close()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def _run(self, job: "_Job") -> Any:
        try:
            async with self._turns.turn(job.size):
                job.begun = True
                process = self._idle.pop() if self._idle else await asyncio.to_thread(_Process, self._memory)
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


@dataclass(slots=True)
class _Job:
    """What a process is to do: its files, about how many bytes it is about, and whether it has been begun."""

    descriptors: list[int]
    size: int
    begun: bool = False


class _Process(ChildProcess):
    """One of them; does one job at a time."""

    def __init__(self, memory: int) -> None:
        super().__init__(CHILD, memory=memory)

    async def ask(self, descriptors: list[int]) -> Any:
        """Sends a job, whose descriptors are closed here, so that its files are freed there; what the process answers.

        Raises:
            ConnectionError: It ended.
        """
        socket.send_fds(self.socket, [b"q"], descriptors)
        _close(descriptors)
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.socket, _resolve, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self.socket)
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


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
