"""The messages between the server and a worker process: over a socket or a link, with arrays in shared memory."""

import os
import pickle
import socket
from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes.exchanges import Exchange, create_exchange
from headrace_server.processes.links import Link, create_link, open_link
from headrace_server.processes.readable import readable
from headrace_server.processes.shared_memory import NOWHERE, MappedMemory, OwnedMemory, Placed

MAX_MESSAGE = 192 << 10
"""The maximum number of bytes of a message; Linux's default size of a socket's buffer is somewhat larger."""

MAX_TEXT = 16 << 10
"""The maximum number of characters of an error that are sent."""

KNOWN_BYTES = 2 << 10
"""The size in bytes of the largest message that is remembered."""

KNOWN = 128
"""The maximum number of messages that are remembered in each direction; if there is one more, all are forgotten."""

MAX_DESCRIPTORS = 200  # the kernel allows 253 in a message
_CONTROL = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)

LINK = "link"
"""The kind of the message after which a link is used."""

_SHARE = "share"


class Ended(ConnectionError):
    """The other side has ended, or closed the connection."""


class Unread(Ended):
    """The other side has ended without reading the message."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the other side. Equal messages may be one object.

    Attributes:
        kind: The kind of message.
        content: The values that the message carries, which depend on its kind.
        descriptors: Descriptors of files that came with it; the receiver owns them.
        arrays: The location of each of the message's arrays, and the array; None for those that must be copied again
            each time.
    """

    kind: str
    content: Sequence[Any]
    descriptors: Sequence[int] = ()
    arrays: Sequence[tuple[Placed, Array | None]] = ()


class Slot:
    """One side of a connection between the server and a worker process. One thread at a time.

    Most messages equal a recent message, down to the locations of their arrays. Such a message is not pickled again
    here, nor parsed again on the other side. If there is a link, messages that fit go through it, which is faster.

    Args:
        connection: A SOCK_SEQPACKET socket, which the slot now owns.
        memory: Holds the arrays that are sent.

    Attributes:
        mapped: The memory of received arrays.
    """

    def __init__(self, connection: socket.socket, memory: OwnedMemory) -> None:
        self._connection = connection
        self._link: Link | None = None
        self._exchange: Exchange | None = None
        self._memory = memory
        self._sent: set[int] = set()
        self._freed = 0
        self._timeout: float | None = -1.0  # the socket's timeout is not known
        self._pickled: dict[Hashable, bytes] = {}
        self._parsed: dict[bytes, Message] = {}
        self._room = memoryview(bytearray(MAX_MESSAGE))  # a new buffer per message would cost more than all else
        self.mapped = MappedMemory()

    def send(self, kind: str, *content: Any, placed: Sequence[Placed] = (), descriptors: Sequence[int] = ()) -> None:
        """Sends a message.

        Args:
            kind: The kind of message.
            content: Any picklable value; hashable if there are arrays.
            placed: The locations of arrays in this side's memory, which must be held as long as the other side uses
                them.
            descriptors: Descriptors of files to send with the message.

        Raises:
            Unread: The other side has ended.
            ServingError: RESOURCE_EXHAUSTED if there are too many arrays.
        """
        key = (kind, content, tuple(placed)) if placed else None
        if key is not None and self._freed == self._memory.freed and (known := self._pickled.get(key)) is not None:
            if (link := self._link) is None or not link.send(known):
                self._send(known)
            return
        self._share_blocks(placed)
        dropped = self._dropped()
        data = _pickled(kind, [tuple(own) for own in placed], dropped, *content)
        self._send(data, descriptors)
        if key is not None and not dropped:
            _remember(self._pickled, key, data, len(data))

    def prepare(self, kind: str, *content: Any, placed: Sequence[Placed]) -> bytes:
        """Returns a message for the link, which may be sent any number of times; arguments as for `send`.

        Raises:
            Unread: The other side has ended.
            ServingError: RESOURCE_EXHAUSTED if there are too many arrays.
        """
        self._share_blocks(placed)
        if dropped := self._dropped():
            self._send(_pickled(_SHARE, [], dropped, ()))
        return _pickled(kind, [tuple(own) for own in placed], (), *content)

    def receive(self, timeout: float | None = None) -> Message:
        """Receives the next message.

        Args:
            timeout: Seconds to wait; None means forever.

        Raises:
            Ended: The other side has ended.
            TimeoutError: No message came in time.
        """
        if timeout != self._timeout:
            self._connection.settimeout(timeout)
            self._timeout = timeout
        while (message := self._take()) is None:
            pass  # that message only announced shared memory
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
        """Opens one more connection to the other side, to which a message of this kind carries the other end.

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

    def open_link(self) -> None:
        """Creates a link for the messages that follow. From now on, somebody must call `end` if the other side ends.

        Raises:
            Unread: The other side has ended.
            OSError: Memory or descriptors are missing.
        """
        link, descriptor = create_link()
        try:
            self.send(LINK, descriptors=[descriptor])
        finally:
            os.close(descriptor)
        self._link = link

    def exchange(self) -> Exchange | None:
        """The exchange through the link; None if there is no link."""
        if self._exchange is None and self._link is not None:
            self._exchange = create_exchange(self._link)
        return self._exchange

    def accept_link(self, message: Message) -> None:
        """Uses the link that the other side has created."""
        self._link = open_link(message.descriptors[0])

    @property
    def descriptor(self) -> int:
        """The descriptor of the slot's socket; -1 if it is closed."""
        return self._connection.fileno()

    def end(self) -> None:
        """Ends a wait for the other side, which has ended. Any thread."""
        if self._link is not None:
            self._link.end()

    def close(self) -> None:
        """Closes the connection."""
        self.end()
        self._connection.close()

    def _take(self, flags: int = 0) -> Message | None:
        """Receives a message; None if it only announced shared memory."""
        if (link := self._link) is not None:
            try:
                data = link.receive(self._timeout)
            except ConnectionResetError as error:
                raise (Ended if link.all_taken else Unread)(str(error)) from error
            if data is not None:
                return self._parsed.get(data) or self._parse(data, ())
        data, descriptors = self._receive(flags)
        return self._parsed.get(data) or self._parse(data, descriptors)

    def _parse(self, data: bytes, descriptors: Sequence[int]) -> Message | None:
        kind, placed, dropped, *content = pickle.loads(data)
        if dropped:
            self.mapped.drop(dropped)
            self._parsed.clear()  # the messages hold arrays in this memory
            if self._exchange is not None:
                self._exchange.forget()
        if kind == _SHARE:
            for number, descriptor in zip(content[0], descriptors, strict=True):
                self.mapped.add(number, descriptor)
            return None
        locations = [Placed(*own) for own in placed]
        arrays = tuple((own, None if own.is_copied else self.mapped.array(own)) for own in locations)
        message = Message(kind, tuple(content), descriptors, arrays)
        if arrays and not dropped:
            _remember(self._parsed, data, message, len(data))
        return message

    def _share_blocks(self, placed: Sequence[Placed]) -> None:
        new = [own.block for own in placed if own.block != NOWHERE and own.block not in self._sent]
        for start in range(0, len(new), MAX_DESCRIPTORS):
            self._share(new[start : start + MAX_DESCRIPTORS])

    def _share(self, numbers: Sequence[int]) -> None:
        self._send(_pickled(_SHARE, [], (), numbers), [self._memory.descriptor(number) for number in numbers])
        self._sent.update(numbers)

    def _dropped(self) -> tuple[int, ...]:
        """Blocks that the other side no longer needs to map."""
        if self._freed == self._memory.freed:
            return ()
        self._freed = self._memory.freed
        self._pickled.clear()
        dropped = tuple(number for number in self._sent if not self._memory.has(number))
        self._sent.difference_update(dropped)
        return dropped

    def _send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        link = self._link
        if link is not None and not descriptors and link.send(data):
            return
        try:
            if descriptors:
                socket.send_fds(self._connection, [data], descriptors)
            else:
                self._connection.send(data)
        except OSError as error:
            raise Unread(str(error)) from error
        if link is not None:
            link.send_elsewhere()

    def _receive(self, flags: int) -> tuple[bytes, Sequence[int]]:
        flags |= socket.MSG_CMSG_CLOEXEC  # a program that the model starts must not keep sockets open
        try:
            size, control, _, _ = self._connection.recvmsg_into([self._room], _CONTROL, flags)
        except (TimeoutError, BlockingIOError):
            raise
        except ConnectionResetError as error:  # unix(7): the other side was closed before it had read everything
            raise Unread(str(error)) from error
        except OSError as error:
            raise Ended(str(error)) from error
        if not size:
            raise Ended("it has ended")
        return bytes(self._room[:size]), _descriptors(control) if control else ()


def _remember(messages: dict[Any, Any], key: Hashable, value: object, size: int) -> None:
    if size > KNOWN_BYTES:
        return
    if len(messages) >= KNOWN:
        messages.clear()
    messages[key] = value


def _pickled(*message: Any) -> bytes:
    data = pickle.dumps(message, protocol=5)
    if len(data) > MAX_MESSAGE:
        raise ServingError(Code.RESOURCE_EXHAUSTED, "too many arrays for one message to a worker process")
    return data


def _descriptors(control: Sequence[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array("i")
    for _, _, data in control:
        descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return descriptors.tolist()
