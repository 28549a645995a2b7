"""What crosses between the server and a worker process: messages over a socket, with arrays in shared memory."""

import asyncio
import pickle
import socket
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes.shared_memory import NOWHERE, MappedMemory, OwnedMemory, Placed

MAX_MESSAGE = 192 << 10
"""Bytes; Linux's default for a socket's buffer is somewhat more."""

MAX_TEXT = 16 << 10
"""Characters of an error that cross."""

MAX_DESCRIPTORS = 200  # the kernel takes 253 in a message
_CONTROL = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)

_SHARE = "share"


class Ended(ConnectionError):
    """The other side has ended, or broken off."""


class Unread(Ended):
    """It has ended without having read what was sent."""


class Message(NamedTuple):
    """What the other side says.

    Attributes:
        kind: What it is about.
        placed: Where its arrays lie.
        content: The rest.
        descriptors: Of files that came with it, owned by whoever receives it.
    """

    kind: str
    placed: list[Placed]
    content: list[Any]
    descriptors: list[int]


class Slot:
    """One side of a conversation. One thread at a time.

    Args:
        connection: SOCK_SEQPACKET; owned from here on.
        memory: Holds the arrays that are sent.

    Attributes:
        mapped: The memory of those that are received.
    """

    def __init__(self, connection: socket.socket, memory: OwnedMemory) -> None:
        self._connection = connection
        self._memory = memory
        self._sent: set[int] = set()
        self._freed = 0
        self._room = memoryview(bytearray(MAX_MESSAGE))  # new room for each message would cost more than all else
        self.mapped = MappedMemory()

    def send(self, kind: str, *content: Any, placed: Sequence[Placed] = (), descriptors: Sequence[int] = ()) -> None:
        """Sends a message.

        Args:
            kind: What it is about.
            content: Whatever can be pickled.
            placed: Where arrays lie in this side's memory, to be held for as long as the other side uses them.
            descriptors: Of files to go with it.

        Raises:
            Unread: Nobody is there any more.
            ServingError: RESOURCE_EXHAUSTED, there are too many arrays.
        """
        new = [own.block for own in placed if own.block != NOWHERE and own.block not in self._sent]
        for start in range(0, len(new), MAX_DESCRIPTORS):
            self._share(new[start : start + MAX_DESCRIPTORS])
        self._send((kind, [tuple(own) for own in placed], self._dropped(), *content), descriptors)

    def receive(self, timeout: float | None = None) -> Message:
        """The next message.

        Args:
            timeout: Seconds that it may take; None for ever.

        Raises:
            Ended: Nobody is there any more.
            TimeoutError: It did not come.
        """
        self._connection.settimeout(timeout)
        while (message := self._take()) is None:
            pass  # that one only shared memory
        return message

    async def receive_in_loop(self) -> Message:
        """The next message, for which the event loop does not wait.

        Raises:
            Ended: Nobody is there any more.
        """
        while True:
            try:
                message = self._take(socket.MSG_DONTWAIT)
            except BlockingIOError:
                await _readable(self._connection.fileno())
            else:
                if message is not None:
                    return message

    def close(self) -> None:
        """Breaks off."""
        self._connection.close()

    def _take(self, flags: int = 0) -> Message | None:
        """Reads a message; None where all that it did was to share memory."""
        data, descriptors = self._receive(flags)
        kind, placed, dropped, *content = pickle.loads(data)
        self.mapped.drop(dropped)
        if kind != _SHARE:
            return Message(kind, [Placed(*own) for own in placed], content, descriptors)
        for number, descriptor in zip(content[0], descriptors, strict=True):
            self.mapped.add(number, descriptor)
        return None

    def _share(self, numbers: Sequence[int]) -> None:
        self._send((_SHARE, [], (), numbers), [self._memory.descriptor(number) for number in numbers])
        self._sent.update(numbers)

    def _dropped(self) -> tuple[int, ...]:
        """Blocks that the other side need not map any more."""
        if self._freed == self._memory.freed:
            return ()
        self._freed = self._memory.freed
        dropped = tuple(number for number in self._sent if not self._memory.has(number))
        self._sent.difference_update(dropped)
        return dropped

    def _send(self, message: tuple[Any, ...], descriptors: Sequence[int]) -> None:
        data = pickle.dumps(message, protocol=5)
        if len(data) > MAX_MESSAGE:
            raise ServingError(Code.RESOURCE_EXHAUSTED, "too many arrays for one message to a worker process")
        try:
            if descriptors:
                socket.send_fds(self._connection, [data], descriptors)
            else:
                self._connection.send(data)
        except OSError as error:
            raise Unread(str(error)) from error

    def _receive(self, flags: int) -> tuple[memoryview, list[int]]:
        try:
            size, control, _, _ = self._connection.recvmsg_into([self._room], _CONTROL, flags)
        except (TimeoutError, BlockingIOError):
            raise
        except ConnectionResetError as error:  # Linux: unix(7) says so where the other side has not read everything
            raise Unread(str(error)) from error
        except OSError as error:
            raise Ended(str(error)) from error
        if not size:
            raise Ended("it has ended")
        descriptors = array("i")
        for _, _, data in control:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        return self._room[:size], descriptors.tolist()


class Lender:
    """Keeps the arrays that the other side still uses, until it gives their numbers back."""

    def __init__(self) -> None:
        self.next = 0
        self._lent: dict[int, Array] = {}

    def keep(self, arrays: Sequence[Array]) -> None:
        """Holds arrays, numbered from `next` on."""
        self._lent.update(enumerate(arrays, self.next))
        self.next += len(arrays)

    def give_back(self, numbers: Sequence[int]) -> None:
        """Lets go of arrays."""
        for number in numbers:
            self._lent.pop(number, None)


async def _readable(descriptor: int) -> None:
    """Waits until there is something to read, or the other side has broken off."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(descriptor, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
