"""Links between the server and its worker processes, through which short messages cross in shared memory."""

import fcntl
import os
from typing import Protocol


class Link(Protocol):
    """One side of a link. One thread sends and receives; any thread may end it."""

    @property
    def all_taken(self) -> bool:
        """Whether the other side has taken every message."""

    def send(self, message: bytes, /) -> bool:
        """Sends a message; False if it is too long, or the other side has not taken the last one."""

    def send_elsewhere(self) -> None:
        """Announces a message that has been sent over the slot's socket instead, and wakes the other side."""

    def receive(self, timeout: float | None = None) -> bytes | None:
        """Waits for the next message without the interpreter lock; None if it is in the slot's socket.

        Raises:
            ConnectionResetError: The link has ended.
            TimeoutError: No message came in time.
        """

    def end(self) -> None:
        """Ends the link: no more messages come, on either side."""


def create_link() -> tuple[Link, int]:
    """Creates a link; returns the server's side, and the descriptor for opening the other, which the caller closes.

    Raises:
        OSError: Memory or descriptors are missing.
    """
    import headrace_native

    descriptor = os.memfd_create("headrace-link", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, headrace_native.Link.SIZE)
        # Access beyond the end of a file that the worker process had shortened would crash the server.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return headrace_native.Link(descriptor, is_server=True), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def open_link(descriptor: int) -> Link:
    """Opens the worker process's side of a link, and closes the descriptor."""
    import headrace_native

    try:
        return headrace_native.Link(descriptor, is_server=False)
    finally:
        os.close(descriptor)
