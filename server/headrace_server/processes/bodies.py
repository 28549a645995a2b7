"""Large bodies, taken in by a process beside the server."""

import asyncio
import os
import socket
from itertools import count

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes.bodies_child import ASKED, TOLD, Ended
from headrace_server.processes.child import ChildProcess

RETRY_AFTER = 0.005
"""Seconds."""

CHILD = "headrace_server.processes.bodies_child"


class BodyProcess:
    """One process for all large bodies, started when there is one, and again where it has ended. In one event loop."""

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Ended]] = {}
        self._process: ChildProcess | None = None
        self._starting = asyncio.Lock()

    async def receive(self, connection: int, file: int, at: int, size: int) -> bool:
        """Fills a file with the rest of a body; false where the caller has left.

        Args:
            connection: Descriptor of its socket, from which nobody else reads meanwhile; closed here.
            file: Descriptor of a file in memory that begins with what has come.
            at: Bytes that have come.
            size: Bytes of the whole body, more than those.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, there is no memory; UNAVAILABLE, the process ended or did not start.
        """
        number = next(self._numbers)
        ended = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            try:
                await self._ask(ASKED.pack(number, at, size), [connection, file])
            finally:
                os.close(connection)
            how = await ended
        except OSError as error:
            raise ServingError(Code.UNAVAILABLE, f"the process for large bodies failed: {error}") from error
        finally:
            self._waiting.pop(number, None)
        if how is Ended.FAILED:
            raise ServingError(Code.RESOURCE_EXHAUSTED, f"there is no memory for a body of {size} bytes")
        return how is Ended.WHOLE

    def close(self) -> None:
        """Ends the process, and with it what it is taking in."""
        if self._process is None:
            return
        asyncio.get_running_loop().remove_reader(self._process.socket)
        self._process.close()
        self._process = None
        for ended in self._waiting.values():
            if not ended.done():
                ended.set_exception(ConnectionResetError("it ended"))

    async def _ask(self, text: bytes, descriptors: list[int]) -> None:
        while True:
            process = await self._up()
            try:
                socket.send_fds(process.socket, [text], descriptors)
                return
            except BlockingIOError:
                await asyncio.sleep(RETRY_AFTER)  # very many bodies have come at once

    async def _up(self) -> ChildProcess:
        async with self._starting:
            if self._process is None:
                process = await asyncio.to_thread(ChildProcess, CHILD, socket.SOCK_SEQPACKET)
                self._process = process
                asyncio.get_running_loop().add_reader(process.socket, self._hear, process)
            return self._process

    def _hear(self, process: ChildProcess) -> None:
        try:
            while told := process.socket.recv(TOLD.size):
                number, how = TOLD.unpack(told)
                ended = self._waiting.get(number)
                if ended is not None and not ended.done():
                    ended.set_result(Ended(how))
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        self.close()
