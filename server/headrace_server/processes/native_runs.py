"""Makes and reads the messages that headrace_native does not know yet when it runs batches in worker processes."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Protocol

from headrace_batching.task import Array, Arrays
from headrace_server.backends.signature import Signature
from headrace_server.processes.exchanges import Arena
from headrace_server.processes.keeper import Place
from headrace_server.processes.shared_memory import OwnedMemory, Placed
from headrace_server.processes.slot import Message, Unread

_LEAST_ROWS = 32
"""The smallest number of rows for which an input's memory has room, if they are small."""

_MOST_BYTES = 1 << 20
"""The size in bytes of the largest batch that headrace_native runs; more room would never be filled."""


class Answer(Protocol):
    """Returns the outputs in a message, or raises the error in it; frees the place."""

    def __call__(self, place: Place, message: Message, *, learn: bool) -> Arrays:
        """As above; `learn` says whether headrace_native may repeat the exchange."""


class NativeRuns:
    """Helps headrace_native to run the batches of one signature.

    Each place has memory for inputs, which is used again for every batch: the inputs are always its first rows. So the
    message that asks for a run depends only on the number of rows, and on the answers that it returns.

    Args:
        name: The signature's name.
        declared: The signature, with its inputs and outputs.
        memory: The memory of the inputs.
        receive: Waits for the result of a run in a place, for at most a number of seconds; None means any time.
        answer: Reads the outputs in this result, or raises its error.
        run: Runs arrays in another process.
    """

    def __init__(
        self,
        name: str,
        declared: Signature,
        memory: OwnedMemory,
        *,
        receive: Callable[[Place, float | None], Message],
        answer: Answer,
        run: Callable[[Arrays], Arrays],
    ) -> None:
        self._name = name
        self._inputs = declared.inputs
        self._row_bytes = sum(prod(own.fixed or ()) * own.array_dtype.itemsize for own in declared.inputs.values())
        self._outputs = tuple(declared.every_output)
        self._memory = memory
        self._receive = receive
        self._answer = answer
        self._run = run

    def collect(self, place: Place) -> Sequence[int]:
        """Removes and returns the numbers of answers that Python no longer uses."""
        numbers = place.borrower.give_back()
        if place.borrower.lends and place.exchange is not None:
            place.exchange.lent()
        return numbers

    def prepare(self, place: Place, rows: int, returned: Sequence[int]) -> tuple[bytes, Sequence[Array]]:
        """Returns the message that asks for a run and returns answers, and the arrays for the rows of each input.

        Raises:
            Unread: The process has ended.
            ServingError: RESOURCE_EXHAUSTED if no memory is left.
        """
        arena = self._arena(place, rows)
        placed = [_first_rows(own, rows) for own in arena.placed]
        return place.slot.prepare("run", self._name, self._outputs, tuple(returned), placed=placed), arena.arrays

    def finish(self, rows: int, place: Place, seconds: float | None) -> Arrays:
        """Returns the outputs of a run that headrace_native has begun.

        Raises:
            ServingError: The model's own error.
            RunLost: The process has ended, or was ended because the run took too long.
        """
        arena = place.arenas[self._name]
        try:
            message = self._receive(place, seconds)
        except Unread:  # the run has not begun
            place.slot.close()
            arrays = zip(arena.placed, arena.arrays, strict=True)
            return self._run({own.alias: array[:rows].copy() for own, array in arrays})
        *_, kept = message.content
        if kept:
            self._forget(place)
            self._memory.abandon(arena.arrays)
        return self._answer(place, message, learn=not kept)

    def _arena(self, place: Place, rows: int) -> Arena:
        arena = place.arenas.get(self._name)
        if arena is not None and len(arena.arrays[0]) >= rows:
            return arena
        self._forget(place)
        room = max(rows, min(max(_LEAST_ROWS, 1 << (rows - 1).bit_length()), _MOST_BYTES // self._row_bytes))
        arrays = {
            alias: self._memory.empty((room, *(spec.fixed or ())), spec.array_dtype)
            for alias, spec in self._inputs.items()
        }
        arena = place.arenas[self._name] = Arena(*self._memory.place(arrays))
        return arena

    def _forget(self, place: Place) -> None:
        place.arenas.pop(self._name, None)
        if place.exchange is not None:
            place.exchange.forget()


def runs_natively(declared: Signature) -> bool:
    """Whether all inputs are arrays of numbers with known dimensions beyond axis 0."""
    inputs = declared.inputs.values()
    return bool(inputs) and all(
        spec.fixed is not None and all(spec.fixed) and not spec.any_rank and not spec.array_dtype.hasobject
        for spec in inputs
    )


def _first_rows(placed: Placed, rows: int) -> Placed:
    room, *inner = placed.shape
    return placed._replace(size=placed.size // room * rows, shape=(rows, *inner))
