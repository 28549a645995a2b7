"""Which arrays of one process the other one still uses."""

from collections.abc import Sequence

from headrace_batching.task import Array, Arrays
from headrace_server.processes.shared_memory import MappedMemory
from headrace_server.processes.sites import ALONE, holders
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
        self._used: list[tuple[int, Message, int]] = []

    def take(self, message: Message, numbers: Sequence[int]) -> Arrays:
        """The arrays of a message, by alias; the other side has lent them under these numbers."""
        self._used += [(number, message, index) for index, number in enumerate(numbers)]
        return views(message, self._memory)

    def give_back(self) -> tuple[int, ...]:
        """The numbers of arrays that nothing refers to; the caller tells the other side."""
        used: list[tuple[int, Message, int]] = []
        returned: list[int] = []
        for each in self._used:
            if is_viewed(*each[1:]):
                used.append(each)
            else:
                returned.append(each[0])
        self._used = used
        return tuple(returned)


def views(message: Message, memory: MappedMemory) -> dict[str, Array]:
    """The arrays of a message, by alias. They are views, so that `is_viewed` can tell whether they are in use."""
    return {
        own.alias: memory.array(own) if array is None else array.view()
        for own, array in zip(message.placed, message.arrays, strict=True)
    }


def is_viewed(message: Message, index: int) -> bool:
    """Whether a view of an array of a message exists."""
    array = message.arrays[index]
    return array is not None and holders(array) > ALONE + 1  # besides the variable and the message
