"""A few processes beside the server, started when they are first needed, that run functions of large JSON bodies."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.services import memory_file

T = TypeVar("T")

CHILD = "headrace_server.services.json_child"


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
            for descriptor in descriptors:
                os.close(descriptor)


class _Process:
    """One of them, and the socket to it; does one job at a time."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair()
        with other:
            command = [sys.executable, "-m", CHILD, str(other.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[other.fileno()], env=_environment())
        self._socket.setblocking(False)

    async def ask(self, descriptors: list[int]) -> Any:
        """Sends a job; what the process answers.

        Raises:
            ConnectionError: It ended.
        """
        socket.send_fds(self._socket, [b"q"], descriptors)
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket, _resolve, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._socket)
        _, answers, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not answers:
            raise ConnectionResetError("it ended")
        try:
            return memory_file.unpack(answers[0])
        finally:
            os.close(answers[0])

    def close(self) -> None:
        """Ends it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _environment() -> dict[str, str]:
    """As here; what this process can import, that one can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
