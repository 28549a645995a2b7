"""Determines how inputs of different lengths may be padded so that a padded row is answered like the bare one.

Rows are generated, run unchanged, and run again after pad values have been added at the end of each axis whose length
varies. The answers to the padded rows, cut to the lengths of the earlier answers, must then equal these within the
rounding of the dtype, since other kernels may run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np

from headrace_batching.padding import Padding, as_value
from headrace_batching.task import Array, Arrays
from headrace_server.backends.independence.axes import NotPadded, added_to, cuts, lengths_of
from headrace_server.backends.independence.compare import first_change
from headrace_server.backends.independence.long_lengths import LongLengths
from headrace_server.backends.independence.subject import Runs, Subject, rows_of
from headrace_server.backends.independence.values import Maker, Reals, Recipe

_AMOUNTS, _LARGE_AMOUNTS = (3, 4, 5), (27, 30, 34)  # elements to add after each length: a different number for each
QUICK = 200
"""If this many runs, each as fast as the fastest one, fit into the budget, more rows, values and lengths are tested."""

_LARGER = 5  # the time of a comparison with much padding, as a multiple of one with little
_ROWS, _FEW_ROWS, _LONG_ROWS = 9, 3, 2
_CHOICES, _FEW_CHOICES = 24, 3
_WIDE = 8  # integers are below this in a second set of rows
_SHORT = 2  # the shortest length that is padded: a model may treat the first few elements in a special way
_FAR = 5.0  # how far from 0 some numbers are: all finite pad values that are tested are near 0

_CANDIDATES: Mapping[str, Sequence[float]] = {
    "i": (0, 1, -1),
    "u": (0, 1),
    "b": (0, 1),
    "f": (0.0, -np.inf, np.inf, 1.0),
    "V": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class PaddingTrial:
    """Finds a padding for a signature whose rows do not depend on each other.

    Attributes:
        subject: The signature.
        runs: The signature's runs.
        recipe: Makes inputs that the model accepts.
        random: The source of random numbers.
        records: Real requests for the recipe; may be empty.
        budget: Seconds that this and the trial before it should take. A slow model is tested with fewer rows.
    """

    subject: Subject
    runs: Runs
    recipe: Recipe
    random: np.random.Generator
    records: Sequence[Arrays] = ()
    budget: float = 1.0

    @property
    def quick(self) -> bool:
        """Whether there is time for more than a few runs of a few rows."""
        return self.runs.quickest * QUICK < self.budget

    def find(self) -> Padding | None:
        """Finds the padding; None if no length varies.

        Raises:
            NotPadded: There is none, or it cannot be determined.
        """
        lengths = lengths_of(self.subject)
        if not any(number is not None for axes in lengths.values() for number in axes):
            if any(None in spec.shape[1:] for spec in self.subject.inputs.values()):
                raise NotPadded("other dimensions are computed from their lengths")
            return None
        refused = ""
        for values in islice(self._choices(), _CHOICES if self.quick else _FEW_CHOICES):
            try:
                return self._try(Padding(lengths, values, {}, limits=self.subject.padding.limits))
            except NotPadded as refusal:
                refused = refused or str(refusal)
            if not self.quick and self.runs.spent > self.budget:
                break
        raise NotPadded(refused or "strings are not padded")

    def _choices(self) -> Iterator[Arrays]:
        """Pad values for all inputs, the most likely first: zeros, then one of them replaced, and so on."""
        inputs, pad_values = self.subject.inputs, self.subject.padding.pad_values
        candidates = [
            (pad_values[alias],) if alias in pad_values else _CANDIDATES.get(spec.array_dtype.kind, ())
            for alias, spec in inputs.items()
        ]
        ranks = product(*(range(len(each)) for each in candidates))
        for chosen in sorted(ranks, key=sum):
            values = (each[rank] for each, rank in zip(candidates, chosen, strict=True))
            yield {
                alias: as_value(value, spec.array_dtype)
                for (alias, spec), value in zip(inputs.items(), values, strict=True)
            }

    def _try(self, padding: Padding) -> Padding:
        """Tries a padding; returns it, completed by the outputs to cut and the inputs that must not be only pad values.

        Raises:
            NotPadded: The padding changes an answer.
        """
        narrow = replace(self.recipe, most=self.recipe.most or 2)
        padding, tested = self._try_short(padding, narrow)
        if self.subject.padding.pad_values:  # the padding is used even if it changes answers
            return padding
        return self._try_long(padding, narrow, tested)

    def _try_long(self, padding: Padding, recipe: Recipe, tested: int) -> Padding:
        usual = self._usual(padding, recipe)
        rows = {alias: array[:_LONG_ROWS] for alias, array in usual.items()}

        def pad(amounts: Sequence[int]) -> Arrays | None:
            try:
                return self._padded(padding, rows, amounts)
            except NotPadded:
                return None

        tests = LongLengths(self.subject, self.runs, rows, pad, self.budget, tested)
        padding, change = tests.check(padding)
        if change is not None:
            raise NotPadded(f"output {change.output!r} {change.text} if its input is padded")
        return padding

    def _try_short(self, padding: Padding, narrow: Recipe) -> tuple[Padding, int]:
        """Tries a padding with lengths below 50; returns it, completed, and the largest length that was tested."""
        began = self.runs.spent
        padding = self._compare(padding, self._usual(padding, narrow), _AMOUNTS)
        if not self.subject.padding.pad_values:  # otherwise the padding is used even if it changes answers
            padding = self._compare(padding, self._short(padding, narrow), _AMOUNTS)
        if not self.quick and self.runs.spent + (self.runs.spent - began) * _LARGER > self.budget:
            return padding, _SHORT + min(_AMOUNTS)
        padding = self._compare(padding, self._usual(padding, narrow), _LARGE_AMOUNTS)
        for inputs in self._others(padding, narrow) if self.quick else ():
            padding = self._compare(padding, inputs, _AMOUNTS, optional=True)
        return padding, _SHORT + min(_LARGE_AMOUNTS)

    def _usual(self, padding: Padding, recipe: Recipe) -> Arrays:
        """Rows that never hold only their pad value: floating-point numbers around 0, 5 and -5."""
        made = Maker(self.subject.inputs, recipe, self.random, self.records).rows(_ROWS if self.quick else _FEW_ROWS)
        rows = {}
        for alias, array in made.items():
            if array.dtype.kind == "f" and not self.records:
                array[1::3] += array.dtype.type(_FAR)
                array[2::3] -= array.dtype.type(_FAR)
            rows[alias] = _not_all(array, padding.values[alias])
        return rows

    def _short(self, padding: Padding, recipe: Recipe) -> Arrays:
        """The beginning of usual rows.

        Raises:
            NotPadded: The model refuses rows of this length, so the padded rows must not get an answer either.
        """
        rows = {}
        for alias, array in self._usual(padding, recipe).items():
            ends = (slice(None if number is None else _SHORT + number) for number in padding.inputs[alias])
            rows[alias] = _not_all(array[:, *ends], padding.values[alias])
        if self.runs.outputs_if_taken(rows) is None:
            raise NotPadded("the model refuses short inputs")
        return rows

    def _others(self, padding: Padding, recipe: Recipe) -> Iterator[Arrays]:
        """Rows of small numbers, and rows with other integers in one input at a time; the model may refuse them."""
        usual, kinds = self._usual(padding, recipe), {a: s.array_dtype.kind for a, s in self.subject.inputs.items()}
        for alias, kind in kinds.items():
            if kind in "iu":
                wide = self._usual(padding, replace(recipe, most=recipe.least + _WIDE))[alias]
                yield {**usual, alias: wide}
                yield {**usual, alias: wide + wide.dtype.type(100)}
                yield {**usual, alias: ~wide if kind == "i" else wide // 2 + 2}
        if "f" in kinds.values():
            yield self._usual(padding, replace(recipe, reals=Reals.SMALL))

    def _compare(self, padding: Padding, usual: Arrays, amounts: Sequence[int], *, optional: bool = False) -> Padding:
        """Compares padded rows, some of which hold only pad values, with bare ones; returns the completed padding."""
        count = rows_of(usual)
        inputs = _with_pad_rows(usual, padding)
        bare = self.runs.outputs_if_taken(inputs)
        judged = bare is not None
        if bare is None:
            inputs, bare = usual, self.runs.outputs_if_taken(usual)
        if bare is None or _tells_nothing(bare, count):
            if optional:
                return padding
            raise NotPadded("no input that was tried gave finite outputs")
        lengths = padding.lengths(inputs)
        padded = self._padded(padding, inputs, amounts)
        padding = replace(padding, outputs=cuts(padding, (bare, padded), (lengths, amounts), self.subject))
        cut = padding.cut(padded, lengths)
        change = first_change(bare, cut, range(count), exact=False)
        if change is not None and not self.subject.padding.pad_values:
            raise NotPadded(f"output {change.output!r} {change.text} if its input is padded")
        told_apart = self._told_apart(padding, bare, cut, count) if judged else frozenset(padding.inputs)
        return replace(padding, told_apart=padding.told_apart | told_apart)

    def _told_apart(self, padding: Padding, bare: Arrays, cut: Arrays, count: int) -> frozenset[str]:
        """The inputs for which padding changes the answer to a row of pad values; these rows follow `count` others."""
        varying = _varying(padding)
        found = {a for i, a in enumerate(varying) if first_change(bare, cut, [count + i], exact=False)}
        if found or self.subject.padding.pad_values:
            return frozenset(found)
        if first_change(bare, cut, [count + len(varying)], exact=False):
            raise NotPadded("padding changes the answer to a row that holds only pad values")
        return frozenset()

    def _padded(self, padding: Padding, inputs: Arrays, amounts: Sequence[int]) -> Arrays:
        """Runs the inputs with this many elements added after each length, and returns the outputs."""
        longer = {number: length + added_to(amounts, number) for number, length in padding.lengths(inputs).items()}
        wide = {}
        for alias, axes in padding.inputs.items():
            array = inputs[alias]
            sizes = zip(axes, array.shape[1:], strict=True)
            wide[alias] = np.empty((len(array), *(size if n is None else longer[n] for n, size in sizes)), array.dtype)
            padding.fill(alias, wide[alias], array)
        try:
            return self.runs.outputs(wide)
        except Exception as error:
            raise NotPadded("the model refuses longer inputs") from error


def _tells_nothing(outputs: Arrays, count: int) -> bool:
    """Whether an output has no finite number in its first rows."""
    return any(array.dtype.kind == "f" and not np.isfinite(array[:count]).any() for array in outputs.values())


def _varying(padding: Padding) -> list[str]:
    """The inputs with an axis that is padded."""
    return [alias for alias, axes in padding.inputs.items() if any(number is not None for number in axes)]


def _with_pad_rows(usual: Arrays, padding: Padding) -> Arrays:
    """The rows, then copies of the first one with only pad values in each input in turn, and then in all."""
    varying = _varying(padding)
    rows: dict[str, Array] = {}
    for alias, array in usual.items():
        behind = np.stack([array[0]] * (len(varying) + 1))
        if alias in varying:
            behind[varying.index(alias)] = behind[-1] = padding.values[alias]
        rows[alias] = np.concatenate([array, behind])
    return rows


def _not_all(array: Array, value: Array) -> Array:
    """The array, changed in each row that holds only this value."""
    flat = array.reshape(len(array), -1).copy()
    if flat.shape[1]:
        flat[(flat == value).all(axis=1), 0] = np.array(1 if value == 0 else 0).astype(array.dtype)
    return flat.reshape(array.shape)
