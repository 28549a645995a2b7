"""How tasks whose inputs have different lengths share a batch: padded to the longest, with outputs cut back."""

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_batching.errors import BatchOutputError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Axes = Sequence[int | None]
"""For each axis beyond 0, which of a task's numbered lengths is its size; None for an axis that is not padded."""

SHORTEST = 2
"""The smallest length of a task that is padded: a dimension of 1 broadcasts, and may be squeezed away."""

_STEPS = 4  # the number of steps from a power of two to the next one
_LEAST = 8
_MOST = 1 << 20


def default_limits() -> tuple[int, ...]:
    """The lengths to which inputs are padded by default: 8, 16, 24, ... 64, 80, ... 128, 160, ...

    With them, at most a fifth of a batch is padding if its rows are longer than 32.
    """
    limits = [_LEAST * (i + 1) for i in range(_STEPS)]
    while (base := limits[-1]) < _MOST:
        limits += [base + base // _STEPS * (i + 1) for i in range(_STEPS)]
    return tuple(limits)


def limits_of_step(step: int) -> tuple[int, ...]:
    """The lengths to which inputs are padded if they must be multiples of a step."""
    return tuple(range(step, max(_MOST // _LEAST, step) + 1, step))


@dataclass(frozen=True, slots=True)
class Padding:
    """How the inputs of one function are padded. The creator must have verified that padding changes no answer.

    A length is a number of elements that several inputs and outputs may share, such as the tokens of a text.

    Attributes:
        inputs: The axes of each input, by its name.
        values: The pad value of each input, with its dtype, as an array without dimensions.
        outputs: For each output, by name, the positions of the lengths at which it is cut.
        told_apart: Inputs in which no row may consist only of the pad value; a task with such a row, such as a text
            whose mask is all zeros, is not padded.
        limits: Increasing lengths; tasks whose lengths lie between the same two share a batch.
    """

    inputs: Mapping[str, Axes]
    values: Arrays
    outputs: Mapping[str, Axes]
    told_apart: frozenset[str] = frozenset()
    limits: tuple[int, ...] = default_limits()

    def key(self, inputs: Arrays) -> Hashable:
        """The key that must be equal for two tasks to share a batch; their names and dtypes are known to be equal.

        A task that is not padded shares batches with tasks of the same shapes.

        Args:
            inputs: The task's inputs, by name, with the declared ranks.
        """
        lengths = self.lengths(inputs)
        shapes = tuple(inputs[name].shape[1:] for name in self.inputs)
        if min(lengths.values()) < SHORTEST or not self._agree(shapes, lengths) or self._looks_padded(inputs):
            return shapes
        upper = {number: self._upper(length) for number, length in lengths.items()}
        axes = zip(shapes, self.inputs.values(), strict=True)
        return ((), *(_replaced(shape, own, upper) for shape, own in axes))

    def lengths(self, inputs: Arrays) -> dict[int, int]:
        """A task's lengths by their numbers; if two inputs disagree, the first one counts."""
        lengths: dict[int, int] = {}
        for name, axes in self.inputs.items():
            for number, size in zip(axes, inputs[name].shape[1:], strict=True):
                if number is not None:
                    lengths.setdefault(number, size)
        return lengths

    def fill(self, name: str, place: Array, part: Array) -> None:
        """Copies a task's input into its rows of a batch and pads it.

        Args:
            name: The name of the input.
            place: The rows of the batch that the part fills; each is at least as large as in the part.
            part: The task's rows of the input, without padding.
        """
        if place.shape != part.shape:
            place[...] = self.values[name]
        place[tuple(slice(size) for size in part.shape)] = part

    def cut(self, outputs: Arrays, lengths: Mapping[int, int]) -> Arrays:
        """A task's rows of the outputs without the padding, as views."""
        return {name: _cut(array, self.outputs.get(name, ()), lengths) for name, array in outputs.items()}

    def check(self, outputs: Arrays, lengths: Mapping[int, int]) -> None:
        """Compares the outputs of a padded batch with its lengths.

        Raises:
            BatchOutputError: An output does not have the expected length on an axis, so it cannot be cut.
        """
        for name, array in outputs.items():
            axes = self.outputs.get(name, ())
            sizes = zip(axes, array.shape[1:], strict=False)
            if array.ndim <= len(axes) or any(number is not None and lengths[number] != size for number, size in sizes):
                msg = (
                    f"Output {name} of a padded batch has the shape {list(array.shape)}, which does not have the "
                    "lengths of the padded inputs: set pad_lengths to false for this model"
                )
                raise BatchOutputError(msg)

    def _upper(self, length: int) -> int:
        at = bisect_left(self.limits, length)
        return self.limits[at] if at < len(self.limits) else length

    def _agree(self, shapes: Iterable[tuple[int, ...]], lengths: Mapping[int, int]) -> bool:
        axes = zip(shapes, self.inputs.values(), strict=True)
        return all(_replaced(shape, own, lengths) == shape for shape, own in axes)

    def _looks_padded(self, inputs: Arrays) -> bool:
        """Whether any row of an input in `told_apart` consists only of the pad value."""
        for name in self.told_apart:
            array = inputs[name]
            if (array == self.values[name]).reshape(len(array), -1).all(axis=1).any():
                return True
        return False


def _replaced(shape: tuple[int, ...], axes: Axes, sizes: Mapping[int, int]) -> tuple[int, ...]:
    """A shape whose lengths are replaced by others."""
    return tuple(size if number is None else sizes[number] for size, number in zip(shape, axes, strict=True))


def _cut(array: Array, axes: Axes, lengths: Mapping[int, int]) -> Array:
    spans = (slice(None) if number is None else slice(lengths[number]) for number in axes)
    return array[(slice(None), *spans)] if axes else array


def longest(lengths: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """For each index of a length, the largest of these lengths."""
    most: dict[int, int] = {}
    for own in lengths:
        for number, length in own.items():
            most[number] = max(length, most.get(number, 0))
    return most


def as_value(value: float, dtype: np.dtype[Any]) -> Array:
    """A pad value as an array without dimensions."""
    return np.array(value).astype(dtype)
