"""The messages between the server and a worker process: over a socket, with arrays in shared memory."""

import pickle
import socket
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes.readable import readable
from headrace_server.processes.shared_memory import NOWHERE, MappedMemory, OwnedMemory, Placed

MAX_MESSAGE = 192 << 10
"""Bytes; Linux's default size of a socket's buffer is somewhat larger."""

MAX_TEXT = 16 << 10
"""The most characters of an error that are sent."""

MAX_DESCRIPTORS = 200  # the kernel allows 253 in a message
_CONTROL = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)

_SHARE = "share"


class Ended(ConnectionError):
    """The other side has ended, or closed the connection."""


class Unread(Ended):
    """The other side has ended without reading what was sent."""


class Message(NamedTuple):
    """A message from the other side.

    Attributes:
        kind: The kind of message.
        placed: The locations of its arrays.
        content: The rest.
        descriptors: Descriptors of files that came with it; the receiver owns them.
    """

    kind: str
    placed: list[Placed]
    content: list[Any]
    descriptors: list[int]


class Slot:
    """One side of a connection. One thread at a time.

    Args:
        connection: A SOCK_SEQPACKET socket, which the slot now owns.
        memory: Holds the arrays that are sent.

    Attributes:
        mapped: The memory of received arrays.
    """

    def __init__(self, connection: socket.socket, memory: OwnedMemory) -> None:
        self._connection = connection
        self._memory = memory
        self._sent: set[int] = set()
        self._freed = 0
        self._room = memoryview(bytearray(MAX_MESSAGE))  # a new buffer per message would cost more than all else
        self.mapped = MappedMemory()

    def send(self, kind: str, *content: Any, placed: Sequence[Placed] = (), descriptors: Sequence[int] = ()) -> None:
        """Sends a message.

        Args:
            kind: The kind of message.
            content: Any picklable value.
            placed: The locations of arrays in this side's memory, which must be held as long as the other side uses
                them.
            descriptors: Descriptors of files to send with it.

        Raises:
            Unread: The other side has ended.
            ServingError: RESOURCE_EXHAUSTED, there are too many arrays.
        """
        new = [own.block for own in placed if own.block != NOWHERE and own.block not in self._sent]
        for start in range(0, len(new), MAX_DESCRIPTORS):
            self._share(new[start : start + MAX_DESCRIPTORS])
        self._send((kind, [tuple(own) for own in placed], self._dropped(), *content), descriptors)

    def receive(self, timeout: float | None = None) -> Message:
        """Receives the next message.

        Args:
            timeout: Seconds to wait; None means forever.

        Raises:
            Ended: The other side has ended.
            TimeoutError: No message came in time.
        """
        self._connection.settimeout(timeout)
        while (message := self._take()) is None:
            pass  # that message only shared memory
        return message

    async def receive_in_loop(self) -> Message:
        """Receives the next message without blocking the event loop.

        Raises:
            Ended: The other side has ended.
        """
        while True:
            try:
                message = self._take(socket.MSG_DONTWAIT)
            except BlockingIOError:
                await readable(self._connection.fileno())
            else:
                if message is not None:
                    return message

    def connect(self, kind: str) -> socket.socket:
        """Opens one more connection to the other side, which gets its end in a message of this kind.

        Raises:
            Unread: The other side has ended.
            OSError: This process may open no more files.
        """
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.send(kind, descriptors=[theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return ours

    def close(self) -> None:
        """Breaks off."""
        self._connection.close()

    def _take(self, flags: int = 0) -> Message | None:
        """Parses a message; None if it only shared memory."""
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
        """Blocks that the other side no longer needs to map."""
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
        except ConnectionResetError as error:  # Linux: see unix(7); the other side has not read everything
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
    """Holds the arrays that the other side still uses, until it returns their numbers."""

    def __init__(self) -> None:
        self.next = 0
        self._lent: dict[int, Array] = {}

    def keep(self, arrays: Sequence[Array]) -> None:
        """Holds arrays, numbered from `next` on."""
        self._lent.update(enumerate(arrays, self.next))
        self.next += len(arrays)

    def give_back(self, numbers: Sequence[int]) -> None:
        """Releases arrays."""
        for number in numbers:
            self._lent.pop(number, None)
