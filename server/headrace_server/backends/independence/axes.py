"""Determines which axes of a signature's inputs are padded, and at which axes its outputs are cut."""

import re
from collections.abc import Mapping, Sequence

from headrace_batching.padding import Axes, Padding
from headrace_batching.task import Arrays
from headrace_server.backends.independence.subject import Subject
from headrace_server.backends.signature import TensorSpec


class NotPadded(Exception):
    """Raised if no padding leaves answers unchanged; the text says why, as the end of a sentence."""


def lengths_of(subject: Subject) -> dict[str, Axes]:
    """The positions of the inputs' lengths: varying dimensions, numbered by name, or by axis if they have no name.

    A dimension is not padded if its name occurs in the name of another one, or combines several names. For example, if
    an input has `past + tokens` elements, and `past` were padded, the elements of `tokens` would move.
    """
    specs = (*subject.inputs.values(), *subject.outputs.values())
    batch = {spec.dims[0] for spec in subject.inputs.values() if spec.dims}
    terms = {term for spec in specs for name in spec.dims for term in _terms(name) if term != name}
    numbers: dict[str, int] = {}

    def number_of(spec: TensorSpec, axis: int) -> int | None:
        name = (spec.dims[axis] if axis < len(spec.dims) else "") or f"axis {axis}"
        if spec.shape[axis] is not None or name in batch or name in terms or len(_terms(name)) > 1:
            return None
        return numbers.setdefault(name, len(numbers))

    return {
        alias: tuple(number_of(spec, axis) for axis in range(1, len(spec.shape)))
        for alias, spec in subject.inputs.items()
    }


def _terms(name: str) -> list[str]:
    """The names and numbers from which an exporter's dimension is computed."""
    return [name] if name.startswith("axis ") else [term for term in re.split(r"[^\w.:/]+", name) if term]


def added_to(amounts: Sequence[int], number: int) -> int:
    """How many elements are added after the length with this number: a different number for each length."""
    return amounts[number % len(amounts)] + number // len(amounts)


def cuts(
    padding: Padding, runs: tuple[Arrays, Arrays], added: tuple[Mapping[int, int], Sequence[int]], subject: Subject
) -> dict[str, Axes]:
    """The positions of the lengths in the outputs, found by the dimensions that have grown with the inputs.

    Raises:
        NotPadded: An output does not grow with a length of the inputs.
    """
    lengths, amounts = added
    bare, padded = runs

    def number_of(alias: str, axis: int) -> int | None:
        before, after = bare[alias].shape[axis], padded[alias].shape[axis]
        known = padding.outputs.get(alias)
        if known is None and before == after:
            return None
        for number, length in lengths.items():
            grown = (length, length + added_to(amounts, number))
            if (before, after) == grown and (not known or known[axis - 1] == number):
                return number
        if before == after and known and known[axis - 1] is None:
            return None
        raise NotPadded(
            f"when the inputs are padded, output {alias!r} changes sizes that are not lengths of the inputs"
        )

    for alias in subject.outputs:
        if bare[alias].ndim != padded[alias].ndim:
            raise NotPadded(f"output {alias!r} changes its rank when the inputs are padded")
    return {alias: tuple(number_of(alias, axis) for axis in range(1, bare[alias].ndim)) for alias in subject.outputs}
