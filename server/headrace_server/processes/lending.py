"""Which arrays of one process the other one still uses.

A process lends the arrays of an answer until the other process returns the answer's number.
"""

from collections.abc import Sequence
from sys import getrefcount

from headrace_batching.task import Array, Arrays
from headrace_server.processes.shared_memory import MappedMemory
from headrace_server.processes.sites import ALONE
from headrace_server.processes.slot import Message


class Lender:
    """Holds the arrays of each answer until the other side, which uses them, returns the answer's number."""

    def __init__(self) -> None:
        self._lent: dict[int, Sequence[Array]] = {}
        self._free: list[int] = []  # numbers to reuse, so that messages repeat

    def lend(self, arrays: Sequence[Array]) -> int:
        """Holds the arrays of an answer, and returns its number."""
        number = self._free.pop() if self._free else len(self._lent)
        self._lent[number] = arrays
        return number

    def give_back(self, numbers: Sequence[int]) -> None:
        """Releases the arrays of answers."""
        for number in numbers:
            del self._lent[number]
            self._free.append(number)


class Borrower:
    """Passes on the arrays of answers, and returns an answer's number once nothing here refers to any of its arrays.

    Args:
        memory: The memory that the arrays are in.
    """

    def __init__(self, memory: MappedMemory) -> None:
        self._memory = memory
        self._used: list[tuple[int, Message]] = []
        self._unsent: tuple[int, ...] = ()

    @property
    def lends(self) -> bool:
        """Whether there are answers that have not been returned."""
        return bool(self._used or self._unsent)

    def take(self, message: Message, number: int) -> Arrays:
        """The arrays of an answer, by alias; the other side has lent them under this number."""
        self._used.append((number, message))
        return views(message, self._memory)

    def give_back(self) -> tuple[int, ...]:
        """Removes and returns the numbers of answers whose arrays nothing refers to; the caller sends them back."""
        if not self._used and not self._unsent:
            return ()
        used: list[tuple[int, Message]] = []
        returned = list(self._unsent)
        self._unsent = ()
        for answer in self._used:
            if kept(answer[1]):
                used.append(answer)
            else:
                returned.append(answer[0])
        self._used = used
        return tuple(returned)

    def keep(self, numbers: tuple[int, ...]) -> None:
        """Keeps numbers that could not be sent, so that `give_back` returns them again."""
        self._unsent = numbers


_UNUSED = ALONE + 1
"""The value of `getrefcount` for a message's array that is in a variable and has no views."""


def views(message: Message, memory: MappedMemory) -> dict[str, Array]:
    """The arrays of a message, by alias. They are views, so that `kept` can tell whether they are in use."""
    arrays: dict[str, Array] = {}
    for own, array in message.arrays:
        arrays[own.alias] = memory.array(own) if array is None else array.view()
    return arrays


def kept(message: Message) -> tuple[str, ...]:
    """The aliases of a message's arrays of which a view exists."""
    for _, array in message.arrays:
        if array is not None and getrefcount(array) > _UNUSED:
            break
    else:
        return ()
    return tuple([own.alias for own, array in message.arrays if array is not None and getrefcount(array) > _UNUSED])
