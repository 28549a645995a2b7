"""Which arrays of one process the other one still uses."""

from collections.abc import Sequence
from itertools import repeat
from sys import getrefcount

from headrace_batching.task import Array, Arrays
from headrace_server.processes.shared_memory import MappedMemory
from headrace_server.processes.sites import ALONE
from headrace_server.processes.slot import Message


class Lender:
    """Holds the arrays that the other side still uses, by number, until it returns their numbers."""

    def __init__(self) -> None:
        self._lent: dict[int, Array] = {}
        self._free: list[int] = []  # reused, so that messages repeat

    def lend(self, arrays: Sequence[Array]) -> tuple[int, ...]:
        """Holds arrays, and returns their numbers."""
        numbers = []
        for lent in arrays:
            numbers.append(self._free.pop() if self._free else len(self._lent))
            self._lent[numbers[-1]] = lent
        return tuple(numbers)

    def give_back(self, numbers: Sequence[int]) -> None:
        """Releases arrays."""
        for number in numbers:
            del self._lent[number]
            self._free.append(number)


class Borrower:
    """Passes on the arrays of messages, and returns their numbers once nothing here refers to the arrays any more.

    Args:
        memory: The memory that the arrays are in.
    """

    def __init__(self, memory: MappedMemory) -> None:
        self._memory = memory
        self._used: list[_Borrowed] = []

    def take(self, message: Message, numbers: Sequence[int]) -> Arrays:
        """The arrays of a message, by alias; the other side has lent them under these numbers."""
        self._used += zip(numbers, message.arrays, repeat(message))
        return views(message, self._memory)

    def give_back(self) -> tuple[int, ...]:
        """The numbers of arrays that nothing refers to; the caller tells the other side."""
        if not self._used:
            return ()
        used: list[_Borrowed] = []
        returned: list[int] = []
        for number, array, message in self._used:
            if array is not None and getrefcount(array) > _UNUSED + 1:  # the list refers to it as well
                used.append((number, array, message))
            else:
                returned.append(number)
        self._used = used
        return tuple(returned)


_Borrowed = tuple[int, Array | None, Message]
"""An array's number, the array, and its message, by which it is held."""

_UNUSED = ALONE + 1
"""What `getrefcount` returns for an array of a message in a variable if there is no view of it."""


def views(message: Message, memory: MappedMemory) -> dict[str, Array]:
    """The arrays of a message, by alias. They are views, so that `kept` can tell whether they are in use."""
    arrays: dict[str, Array] = {}
    for own, array in zip(message.placed, message.arrays, strict=True):
        arrays[own.alias] = memory.array(own) if array is None else array.view()
    return arrays


def kept(message: Message) -> tuple[str, ...]:
    """The aliases of a message's arrays of which a view exists."""
    for array in message.arrays:
        if array is not None and getrefcount(array) > _UNUSED:
            break
    else:
        return ()
    return tuple([own.alias for index, own in enumerate(message.placed) if _is_viewed(message, index)])


def _is_viewed(message: Message, index: int) -> bool:
    array = message.arrays[index]
    return array is not None and getrefcount(array) > _UNUSED
