"""Joins tasks along axis 0, pads the batch to an allowed size, and splits the outputs."""

from collections.abc import Callable, Hashable, Sequence
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from headrace_batching.errors import BatchOutputError, InvalidTask
from headrace_batching.options import Options
from headrace_batching.padding import Padding, longest
from headrace_batching.task import Array, Arrays, Deliver, Piece, Task

Empty = Callable[[tuple[int, ...], np.dtype[Any]], Array]


def shared_rows(inputs: Arrays) -> int | None:
    """The length of axis 0, which all inputs share; None if they differ."""
    rows: int | None = None
    for array in inputs.values():
        if array.ndim == 0 or (rows is not None and len(array) != rows):
            return None
        rows = len(array)
    return rows


def rows_of(inputs: Arrays) -> int:
    """The length of axis 0 that all inputs share.

    Raises:
        InvalidTask: The inputs differ in this length, or there are no inputs. The texts are those of TF Serving's
            `batching_session.cc`.
    """
    rows = shared_rows(inputs)
    if rows is not None:
        return rows
    if not inputs:
        msg = "Batching Run() must have at least one input tensor"
    elif any(array.ndim == 0 for array in inputs.values()):
        msg = "Batching Run() input tensors must have at least one dimension"
    else:
        msg = "Batching Run() input tensors must have equal 0th-dimension size"
    raise InvalidTask(msg)


def shape_key(inputs: Arrays, *, pad: bool = False) -> Hashable:
    """The key of a task: tasks with equal names, dtypes and shapes beyond axis 0 may share a batch.

    With `pad` (pad_variable_length_inputs), the rank replaces the shape in the key, except for an empty array, which
    has no first element to pad with.
    """
    if pad:
        return frozenset((name, a.dtype, a.ndim if a.size else a.shape[1:]) for name, a in inputs.items())
    return frozenset((name, a.dtype, a.shape[1:]) for name, a in inputs.items())


class Batch:
    """A batch: pieces of tasks that have left the queue together. It belongs to one batch thread.

    Args:
        pieces: At least one piece, in order of arrival; all have the same shape key.
        options: The batching options, which include the sizes that a batch may be padded to.
        batched: Whether axis 0 is the batch axis; if not, there is one piece, and nothing is checked or padded.

    Attributes:
        rows: The number of rows of all pieces together.
        padded: The number of rows, padding included.
    """

    __slots__ = ("_batched", "_options", "_pieces", "padded", "rows")
    is_series = False

    def __init__(self, pieces: list[Piece], options: Options, *, batched: bool = True) -> None:
        self._pieces = pieces
        self._options = options
        self._batched = batched
        self.rows = sum(piece.stop - piece.start for piece in pieces)
        self.padded = options.padded_rows(self.rows) if batched else self.rows

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def arrivals(self) -> list[float]:
        """When each task of the batch arrived, on the queue's clock."""
        return [piece.task.arrived for piece in self._pieces]

    @property
    def traced(self) -> list[float]:
        """When each traced task of the batch arrived."""
        return [piece.task.arrived for piece in self._pieces if piece.task.traced]

    @property
    def sizes(self) -> list[int]:
        """The number of rows of each task of the batch, including its rows in other batches."""
        return [piece.task.rows for piece in self._pieces]

    @property
    def tasks(self) -> list[Task]:
        """The tasks whose rows are in this batch."""
        return [piece.task for piece in self._pieces]

    @property
    def choice(self) -> Hashable:
        """The choice that the batch's tasks share; None if they have none."""
        return self._pieces[0].task.choice

    @property
    def _lone(self) -> bool:
        return len(self._pieces) == 1 and self.padded == self.rows and self._pieces[0].whole

    def join(self, empty: Empty) -> Arrays:
        """Joins the rows into one array per input, of `padded` rows. A single task without padding is not copied.

        Args:
            empty: Creates the array that the rows are copied into, from its shape and dtype.
        """
        first = self._pieces[0]
        if len(self._pieces) == 1 and self.padded == self.rows:
            return first.task.inputs if first.whole else rows_between(first.task.inputs, first.start, first.stop)
        return {name: self._join_one(name, empty) for name in first.task.inputs}

    def split(self, outputs: Arrays, lock: Lock) -> list[Task]:
        """Gives every task its rows of the outputs, as views, and returns the tasks that now have all of their rows.

        A task that is alone in its batch, whole and not padded, gets the outputs unchanged, regardless of their number
        of rows.

        Args:
            outputs: Arrays by output name, whose axis 0 is as long as that of the joined inputs.
            lock: A lock that is held while a task's pieces, which may run on several threads, are combined.

        Raises:
            BatchOutputError: An output has no batch axis (FAILED_PRECONDITION in TF Serving's batching_session.cc).
        """
        lone = self._lone
        if self._batched and not lone:
            check_outputs(outputs, self.padded)
        padding, lengths = self._padded()
        if padding:
            padding.check(outputs, longest(lengths))
        ended = []
        offset = 0
        for number, piece in enumerate(self._pieces):
            end = offset + piece.stop - piece.start
            part = outputs if lone else rows_between(outputs, offset, end)
            if padding:
                part = padding.cut(part, lengths[number])
            if give(piece, part, lock):
                ended.append(piece.task)
            offset = end
        return ended

    def fail(self, error: Exception, lock: Lock) -> list[Task]:
        """Gives the error to every task that has not ended, and returns these tasks; for the lock see `split`."""
        with lock:
            waiting = [task for task in self.tasks if not task.ended]
            for task in waiting:
                task.error = error
        return waiting

    def halves(self) -> tuple["Batch", "Batch"]:
        """Splits the tasks into two batches."""
        middle = len(self._pieces) // 2
        return Batch(self._pieces[:middle], self._options), Batch(self._pieces[middle:], self._options)

    def _padded(self) -> tuple[Padding | None, list[dict[int, int]]]:
        """How the tasks are padded, and the lengths of each; None if all have one shape."""
        padding = self._pieces[0].task.padding
        if padding is None:
            return None, []
        lengths = [padding.lengths(piece.task.inputs) for piece in self._pieces]
        return (padding, lengths) if any(own != lengths[0] for own in lengths) else (None, [])

    def _join_one(self, name: str, empty: Empty) -> Array:
        parts = [piece.task.inputs[name][piece.start : piece.stop] for piece in self._pieces]
        shapes = {part.shape[1:] for part in parts}
        inner = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
        joined = empty((self.padded, *inner), parts[0].dtype)
        rows = self.rows
        if len(shapes) > 1:
            pad_into(joined, parts, name, self._pieces[0].task.padding)
        else:
            np.concatenate(parts, axis=0, out=joined[:rows])
        if self.padded > rows:
            pad(joined, rows, next(len(part) for part in reversed(parts) if len(part)))
        return joined


def pad(joined: Array, rows: int, last: int) -> None:
    """Fills a joined input up to its end.

    TF Serving repeats the last task's first row, which the model is known to accept.

    Args:
        joined: The joined input, with more than `rows` rows.
        rows: The number of rows that are filled.
        last: The number of rows of the last task that has any.
    """
    joined[rows:] = joined[rows - last]


def check_outputs(outputs: Arrays, rows: int) -> None:
    """Compares the outputs' axis 0 with the rows that were passed to the backend.

    Raises:
        BatchOutputError: An output has no batch axis (FAILED_PRECONDITION in TF Serving's batching_session.cc).
    """
    for name, array in outputs.items():
        if array.ndim == 0:
            msg = f"Batched output tensor has 0 dimensions: {name}"
            raise BatchOutputError(msg)
        if array.shape[0] != rows:
            msg = (
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                f"input tensors: {name} has {array.shape[0]}, expected {rows}"
            )
            raise BatchOutputError(msg)


def give(piece: Piece, outputs: Arrays, lock: Lock) -> bool:
    """Gives a task the outputs of one piece; returns whether the task has all of them and has ended.

    Args:
        piece: A piece whose batch has run.
        outputs: The outputs of the piece, one row for each row of its inputs.
        lock: A lock that is held while a task's pieces, which may run on several threads, are combined.
    """
    if not piece.whole:
        return _return_part(piece, outputs, lock)
    piece.task.outputs = outputs
    return True


def rows_between(arrays: Arrays, start: int, stop: int) -> Arrays:
    """Rows `start` to `stop` of every array, as views."""
    return {name: array[start:stop] for name, array in arrays.items()}


def string_array(strings: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    """An object array of this shape, filled with the strings and then with None."""
    array = np.empty(prod(shape), np.object_)
    array[: len(strings)] = strings
    return array.reshape(shape)


def deliver(tasks: Sequence[Task]) -> None:
    """Calls each distinct `deliver` among the tasks once, with its tasks."""
    by_deliver: dict[Deliver, list[Task]] = {}
    for task in tasks:
        by_deliver.setdefault(task.deliver, []).append(task)
    for give, given in by_deliver.items():
        give(given)


def pad_into(joined: Array, parts: Sequence[Array], name: str, padding: Padding | None) -> None:
    """Copies parts with different inner shapes one after the other, each padded at its end.

    Args:
        joined: The array to copy to, which has room for all parts, and may have more rows.
        parts: The rows that each task has of this input.
        name: The name of the input.
        padding: The pad value; None means the part's own first element, as in TF Serving.
    """
    offset = 0
    for part in parts:
        place = joined[offset : offset + len(part)]
        if padding is not None:
            padding.fill(name, place, part)
        elif part.size:
            place[...] = part.flat[0]
            place[tuple(slice(size) for size in part.shape)] = part
        offset += len(part)


def _return_part(piece: Piece, part: Arrays, lock: Lock) -> bool:
    """Stores one piece's outputs; returns whether the task has all of them and has ended."""
    task = piece.task
    with lock:
        task.parts = task.parts or {}
        task.parts[piece.start] = part
        task.returned += piece.rows
        if task.returned < task.rows:
            return False
    parts = [task.parts[start] for start in sorted(task.parts)]
    try:
        task.outputs = {name: np.concatenate([p[name] for p in parts], axis=0) for name in part}
    except Exception as error:  # only this task fails: the others of the batch have their outputs
        task.error = BatchOutputError(f"Outputs of a task's pieces cannot be put together: {error}")
    task.parts = None
    return True
