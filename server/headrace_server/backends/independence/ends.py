"""Tests two rows at the ends of a larger batch, since a row may be influenced by rows that are not next to it.

For example, a model may read the row that is five rows later, which a batch of a few rows cannot show. The answers for
the two rows are known from a small batch, so two runs of the larger batch are enough. For a slow model, these two take
longer than all other runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.independence.compare import Change, first_change
from headrace_server.backends.independence.neighbours import TIE, WHOLE, Batch, Neighbours
from headrace_server.backends.independence.values import Rows
from headrace_server.backends.independence.verdict import Decided, Finding

END_ROWS = 22
"""The number of rows of the larger batch, which shows an influence over a distance of 1 to 20 rows."""

MOST_SECONDS = 30.0
"""If the larger batch would take longer than this, the model is not tested further: its requests run one by one."""


class _Run(NamedTuple):
    """A run of the larger batch: its inputs, and the kept rows of its outputs."""

    inputs: Arrays
    kept: Arrays


@dataclass(frozen=True, slots=True)
class Ends:
    """Tests two rows in larger batches; `Decided` is raised if they are not independent, or if this is unclear.

    Attributes:
        neighbours: Runs the signature.
        batch: A batch whose first two rows are kept.
        rows: The number of rows of the larger batch.
        quickest_row: The seconds per row in the run that was fastest per row.
    """

    neighbours: Neighbours
    batch: Batch
    rows: int
    quickest_row: float

    def check(self, kind: Rows) -> None:
        """Runs the kept rows twice, among different other rows, and compares the answers.

        The answers of each run are compared with the known answers, and the answers of the two runs with each other.

        Args:
            kind: The kind of the other rows in the first run; in the second run, it is `Rows.USUAL`.
        """
        if self.rows < 3:
            return
        seconds = self.quickest_row * self.rows
        if seconds > MOST_SECONDS:
            reason = f"a batch of {self.rows} rows, which the trial needs, would take about {seconds:.0f} s"
            raise Decided(Finding.UNDECIDED, reason)
        for places in self._places():
            first = self._run(places, kind)
            self._compare_with_known(places, first.kept)
            second = self._run(places, Rows.USUAL, unlike=first.inputs)
            self._compare_with_known(places, second.kept)
            if change := first_change(first.kept, second.kept, range(len(places)), exact=self.neighbours.exact):
                raise self._dependent(change)

    def _places(self) -> Iterator[dict[int, int]]:
        """The positions of the kept rows in the larger batch, and their numbers in the small one.

        If the model allows fewer than `END_ROWS` rows in a batch, each batch has only one of the two kept rows. The two
        would be less far apart than in a batch of `END_ROWS` rows, and as neither changes, an influence of one on the
        other would not show.
        """
        last = self.rows - 1
        if self.rows == END_ROWS:
            yield {0: 0, last: 1}
        else:
            yield {0: 0}
            yield {last: 1}

    def _compare_with_known(self, places: dict[int, int], kept: Arrays) -> None:
        known = {alias: array[list(places.values())] for alias, array in self.batch.outputs.items()}
        change = first_change(known, kept, range(len(places)), exact=False)
        if change is not None and change.by > TIE:  # with another number of rows, rounding may decide a tie differently
            raise self._dependent(change)

    def _dependent(self, change: Change) -> Decided:
        reason = f"output {change.output!r} of a row {change.text} in a batch of {self.rows} rows"
        return Decided(Finding.DEPENDENT, reason, (change.output, change.by))

    def _run(self, places: dict[int, int], kind: Rows, unlike: Arrays | None = None) -> _Run:
        """Runs larger batches until the model accepts one."""
        candidates = ((self.batch.recipe, self._between(places, others)) for others in self._others(kind, unlike))
        larger = self.neighbours.first_accepted(self.rows, candidates)
        return _Run(larger.inputs, {alias: array[list(places)] for alias, array in larger.outputs.items()})

    def _others(self, kind: Rows, unlike: Arrays | None) -> Iterator[Arrays]:
        """Rows to put between the kept ones. Those that reveal the most come first; the model accepts the last."""
        for most, which in ((WHOLE, kind), (2, kind), (WHOLE, Rows.USUAL), (2, Rows.USUAL)):
            recipe = self.batch.recipe
            recipe = replace(recipe, most=most if recipe.most is None else recipe.most)
            others = self.neighbours.make(self.rows, recipe, which)
            if unlike is not None:
                others = {alias: _opposite(unlike[alias], other) for alias, other in others.items()}
                unlike = None  # the model may refuse opposite rows, so the next ones are unchanged
            if self._fit(others):
                yield others
        turns = np.arange(1, self.rows + 1) % 2
        yield {alias: array[turns] for alias, array in self.batch.inputs.items()}

    def _between(self, places: dict[int, int], others: Arrays) -> Arrays:
        inputs = {alias: array.copy() for alias, array in others.items()}
        for alias, array in self.batch.inputs.items():
            inputs[alias][list(places)] = array[list(places.values())]
        return inputs

    def _fit(self, others: Arrays) -> bool:
        """Whether the other rows have the same sizes as the kept rows; rows of real requests can differ."""
        return all(array.shape[1:] == others[alias].shape[1:] for alias, array in self.batch.inputs.items())


def _opposite(array: Array, other: Array) -> Array:
    """Other rows that differ from the array at each position: in value, or in sign."""
    if array.dtype.kind == "b":
        return ~array
    if array.dtype.kind in "iu" and array.size:
        opposite: Array = array.max(keepdims=True) + array.min(keepdims=True) - array  # two overflows cancel out
        return opposite
    return np.copysign(other, -array) if array.dtype.kind == "f" else other
