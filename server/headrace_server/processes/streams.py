"""Requests to a worker process with streamed answers, each over a socket of its own in an event loop."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from threading import Lock

from headrace_batching.task import Array, Arrays
from headrace_server.processes.lending import views
from headrace_server.processes.shared_memory import OwnedMemory, Placed
from headrace_server.processes.slot import Message, Slot

OPEN_WITHIN = 5.0
"""Seconds that a process may leave new requests unread before they are refused."""


class WorkerStreams:
    """The requests with streamed answers of one process.

    Args:
        connection: A SOCK_SEQPACKET socket to `streams_child.py` in the process; this object now owns it.
        memory: Holds the inputs.

    Attributes:
        last_answer: When the process last answered one of the requests, on the monotonic clock.
    """

    def __init__(self, connection: socket.socket, memory: OwnedMemory) -> None:
        connection.settimeout(OPEN_WITHIN)
        self._memory = memory
        self._door = Slot(connection, memory)
        self._lock = Lock()
        self._open: set[Stream] = set()
        self.last_answer = 0.0

    @property
    def open(self) -> int:
        """The number of requests being answered. Any thread."""
        return len(self._open)

    def ask(self, signature: str, outputs: Sequence[str], placed: Sequence[Placed]) -> "Stream":
        """Asks for the answers to a request. Any thread; may block on the process.

        Raises:
            Ended: The process has ended, or does not read.
        """
        with self._lock:
            connection = self._door.connect("slot")
        slot = Slot(connection, self._memory)
        try:
            slot.send("stream", signature, tuple(outputs), placed=placed)
        except BaseException:
            slot.close()
            raise
        stream = Stream(self, slot)
        self._open.add(stream)
        return stream

    def forget(self, stream: "Stream") -> None:
        """Stops counting a request that has been closed."""
        self._open.discard(stream)

    def close(self) -> None:
        """Opens no more requests; open ones end with the process."""
        self._door.close()


class Stream:
    """One request that is being answered. One event loop."""

    def __init__(self, streams: WorkerStreams, slot: Slot) -> None:
        self._streams = streams
        self._slot = slot

    async def messages(self, step_timeout: float | None) -> AsyncGenerator[Message, None]:
        """The process's messages; each one except the first is requested when the caller asks for it.

        Args:
            step_timeout: Seconds that the process may take for an answer; None means forever. A model that computes one
                answer at a time may be busy with other requests, so the time is counted from its last answer to any of
                them.

        Raises:
            Ended: The process has ended.
            TimeoutError: There was no answer in time.
        """
        while True:
            yield await self._receive(step_timeout)
            self._slot.send("next")

    def copy(self, message: Message) -> Arrays:
        """The arrays of an answer, copied from memory that the process reuses."""
        return {alias: _own(array) for alias, array in views(message, self._slot.mapped).items()}

    def close(self) -> None:
        """Asks for no more answers, which closes the model's generator."""
        self._streams.forget(self)
        self._slot.close()

    async def _receive(self, step_timeout: float | None) -> Message:
        asked = time.monotonic()
        while True:
            left = self._left(asked, step_timeout)
            # This waits in its own task, not in a new one: when it has ended, the event loop no longer watches the
            # socket, so the caller may close it. libuv aborts the server's process if a socket is closed before libuv
            # begins to watch it.
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    message = await self._slot.receive_in_loop()
                self._streams.last_answer = time.monotonic()
                return message

    def _left(self, asked: float, step_timeout: float | None) -> float | None:
        if step_timeout is None:
            return None
        left = max(asked, self._streams.last_answer) + step_timeout - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _own(array: Array) -> Array:
    return array if array.dtype.hasobject else array.copy()
