"""A few processes beside the server, started when they are first needed, that run functions of large JSON bodies."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes import memory_file
from headrace_server.processes.child import ChildProcess

T = TypeVar("T")

CHILD = "headrace_server.processes.pool_child"


class JsonProcesses:
    """Runs functions elsewhere, as many at once as there are processes; the others wait. In one event loop.

    Args:
        count: Processes at most.
    """

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._idle: list[_Process] = []
        self._jobs: set[asyncio.Task[Any]] = set()

    async def run(self, function: Callable[..., T], *arguments: Any, body: int | None = None) -> T:
        """The result of a function of some module.

        Args:
            function: Called with the body, if there is one, and the arguments.
            arguments: Whatever can be pickled; the bytes of arrays cross without being.
            body: Descriptor of a file that is not empty, closed once it is not needed any more.

        Raises:
            ServingError: As the function; UNAVAILABLE, the process ended, or could not be started.
        """
        job = asyncio.create_task(
            self._run([memory_file.pack((function, arguments)), *([] if body is None else [body])])
        )
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        # A caller that leaves does not end the job: the process is in the midst of it, and serves others later.
        answer = await asyncio.shield(job)
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

    async def _run(self, descriptors: list[int]) -> Any:
        try:
            async with self._free:
                process = self._idle.pop() if self._idle else await asyncio.to_thread(_Process)
                try:
                    answer = await process.ask(descriptors)
                except BaseException:
                    process.close()
                    raise
                self._idle.append(process)
                return answer
        except OSError as error:
            raise ServingError(Code.UNAVAILABLE, f"the process for large JSON bodies failed: {error}") from error
        finally:
            _close(descriptors)


class _Process(ChildProcess):
    """One of them; does one job at a time."""

    def __init__(self) -> None:
        super().__init__(CHILD)

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
