"""Known exchanges with worker processes, which headrace_native repeats without the interpreter.

An exchange is a message that asks for a run, and the answer to this message.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from headrace_batching.task import Array
from headrace_server.processes.links import Link
from headrace_server.processes.shared_memory import Placed

if TYPE_CHECKING:
    from headrace_server.processes.keeper import Place


class Exchange(Protocol):
    """The server's side of one slot; see `headrace_native.pyi`. Used by the thread that has taken the slot's place."""

    def take_owed(self) -> Sequence[int]:
        """Removes and returns the numbers of the answers that the next message must return to the worker process."""

    def lent(self) -> None:
        """Records that Python has taken an answer, which must be returned later."""

    def learn(self, number: int, outputs: Mapping[str, Array], /) -> None:
        """Learns the content of the last answer that was not known, if all of its outputs are arrays of numbers."""

    def forget(self) -> None:
        """Forgets all requests and answers, so that the memory that they refer to can be freed."""


class Free(Protocol):
    """The places that no run has taken. Any thread.

    Attributes:
        watched: Whether somebody waits for a place.
    """

    watched: bool

    def append(self, place: "Place", /) -> None:
        """Adds a place."""

    def pop(self) -> "Place":
        """Removes the place that was added last, and returns it.

        Raises:
            IndexError: No place is free.
        """

    def remove(self, place: "Place", /) -> None:
        """Removes this place.

        Raises:
            ValueError: It is not there.
        """

    def __iter__(self) -> "Iterator[Place]":
        """The places that are free at this moment."""


class FreeList(deque["Place"]):
    """Free places of slots without a link.

    Attributes:
        watched: As for `Free`.
    """

    watched = False

    def __iter__(self) -> "Iterator[Place]":
        """The places that are free at this moment."""
        return iter(list(super().__iter__()))


class Arena(NamedTuple):
    """Shared memory for the inputs of one signature's runs in one place.

    Attributes:
        placed: The location of each input, in the signature's order.
        arrays: The inputs, with room for a number of rows.
    """

    placed: Sequence[Placed]
    arrays: Sequence[Array]


def create_free(*, linked: bool) -> Free:
    """Creates a list of free places: headrace_native's own if their slots have links."""
    if not linked:
        return FreeList()
    import headrace_native

    return headrace_native.FreePlaces()


def create_exchange(link: Link) -> Exchange:
    """Creates the exchange of the server's side of a link."""
    import headrace_native

    assert isinstance(link, headrace_native.Link)  # there is no other implementation
    return headrace_native.Exchange(link)
