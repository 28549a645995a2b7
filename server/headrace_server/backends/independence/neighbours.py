"""Replaces some rows of a batch, and compares the answers for the rows that stayed the same."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.independence.compare import Change, first_change
from headrace_server.backends.independence.search import first_line
from headrace_server.backends.independence.subject import Runs, Subject, rows_of
from headrace_server.backends.independence.values import Maker, Recipe, Rows
from headrace_server.backends.independence.verdict import EXPORT_AGAIN, RECORD_REQUESTS, Decided, Finding

_DRAWS = 3

WHOLE = 8
"""The integers in other rows are below this, if the model accepts such integers."""

TIE = 0.5
"""A change of up to this fraction may be due to rounding, which can break a tie and so change a predicted class.

Ties are rare, so the comparison is then repeated with other rows.
"""

Pass = tuple[tuple[int, ...], Rows]
"""The rows that are replaced, and what replaces them."""


class Batch(NamedTuple):
    """A batch that the model has accepted: what its rows were made from, and the answer."""

    recipe: Recipe
    inputs: Arrays
    outputs: Arrays


class Neighbours:
    """Runs batches with other neighbours of a row. `Decided` is raised if its answer changes, or if that is unclear.

    Args:
        subject: The signature to test.
        runs: The runs of the subject.
        random: The source of random numbers.
        records: Real requests for the recipes; may be empty.

    Attributes:
        exact: Whether answers must be the same bit for bit; turned off once the model has not repeated them exactly.
    """

    def __init__(
        self, subject: Subject, runs: Runs, random: np.random.Generator, records: Sequence[Arrays] = ()
    ) -> None:
        self._subject = subject
        self._runs = runs
        self._random = random
        self._records = records
        self.exact = subject.exact

    def batch(self, rows: int, choices: Sequence[Recipe]) -> Batch:
        """Runs batches from some recipes, and returns the first one that the model accepts."""
        return self.first_accepted(
            rows, ((recipe, self._maker(recipe).rows(rows, pointing=True)) for recipe in choices)
        )

    def first_accepted(self, rows: int, candidates: Iterable[tuple[Recipe, Arrays]]) -> Batch:
        """Runs some inputs of this many rows, each given with its recipe, until the model accepts one.

        Raises:
            Decided: The model accepts none of them.
        """
        refused: Exception | None = None
        for recipe, inputs in candidates:
            try:
                return Batch(recipe, inputs, self._runs.outputs(inputs))
            except Decided:
                raise
            except Exception as error:
                refused = error
        reason = f"the model takes two rows, but not {rows}: {first_line(refused)}"
        raise Decided(Finding.DEPENDENT, reason, advice=EXPORT_AGAIN)

    def vary(self, batch: Batch, passes: Sequence[Pass]) -> None:
        """Replaces some rows by others; the remaining rows must not change."""
        recipe = batch.recipe
        for places, kind in passes:
            wide = recipe if recipe.most is not None else replace(recipe, most=WHOLE)
            tries = ((wide, kind), (recipe, kind), *[(recipe, Rows.USUAL)] * _DRAWS)
            if not any(self.vary_once(batch, own, (places, which)) for own, which in tries):
                raise Decided(Finding.UNDECIDED, "the model refuses nearly all values", advice=RECORD_REQUESTS)

    def vary_once(self, batch: Batch, recipe: Recipe, change: Pass) -> bool:
        """Replaces rows once; returns whether the model accepted this.

        The rows are replaced in all inputs together or, if the model refuses that, in one input after the other.
        """
        places, kind = change
        made = self._maker(recipe).rows(rows_of(batch.inputs), kind)
        after = self._runs.outputs_if_taken(_with_rows(batch.inputs, made, places))
        if after is not None:
            self._compare(batch, after, change)
            return True
        taken = False
        for alias in made if len(made) > 1 else ():
            after = self._runs.outputs_if_taken(_with_rows(batch.inputs, {alias: made[alias]}, places))
            if after is not None:
                self._compare(batch, after, change)
                taken = True
        return taken

    def batch_of(self, rows: int, recipe: Recipe, kind: Rows) -> Batch | None:
        """A batch in which all rows have values of this kind; None if the model refuses it."""
        inputs = self._maker(recipe).rows(rows, kind)
        outputs = self._runs.outputs_if_taken(inputs)
        return None if outputs is None else Batch(recipe, inputs, outputs)

    def _compare(self, batch: Batch, after: Arrays, changed: Pass) -> None:
        places, kind = changed
        outputs = batch.outputs
        kept = [row for row in range(rows_of(batch.inputs)) if row not in places]
        change = first_change(outputs, after, kept, exact=self.exact)
        if change is None:
            return
        again = self._runs.outputs(batch.inputs)
        if self.exact and first_change(outputs, again, kept, exact=True):
            if noise := first_change(outputs, again, kept, exact=False):
                reason = f"output {noise.output!r} of equal requests differs: it {noise.text}"
                raise Decided(Finding.UNDECIDED, reason, (noise.output, noise.by))
            self.exact = False  # the model rounds differently from run to run, as on a GPU
            change = first_change(outputs, after, kept, exact=False)
        if change is not None:
            reason = f"output {change.output!r} {change.text} when the other rows hold {kind.value}"
            raise Decided(Finding.DEPENDENT, reason, (change.output, change.by))

    def check_one_alone(self, batch: Batch) -> None:
        """Compares the second row's answer with its answer alone, which also shows whether the first row changes it."""
        rows = rows_of(batch.inputs)
        change = self._change_alone(batch.inputs, batch.outputs, 1)
        if change is not None and change.by > TIE:
            raise _not_alone(change, rows)
        if change is not None:
            self.check_alone(batch.recipe, rows, rows=(1,))

    def check_alone(self, recipe: Recipe, count: int, rows: Sequence[int]) -> None:
        """Compares rows of a batch with the same rows alone."""
        for row in rows:
            change = self._alone_change(recipe, count, row)
            if change is None:
                continue
            agreed = sum(self._alone_change(recipe, count, row) is None for _ in range(_DRAWS))
            if change.by > TIE or agreed < _DRAWS - 1:
                raise _not_alone(change, count)

    def _alone_change(self, recipe: Recipe, count: int, row: int) -> Change | None:
        inputs = self._maker(recipe).rows(count)
        together = self._runs.outputs_if_taken(inputs)
        return None if together is None else self._change_alone(inputs, together, row)

    def _change_alone(self, inputs: Arrays, together: Arrays, row: int) -> Change | None:
        try:
            alone = self._runs.run(_row(inputs, row))
        except Exception as error:
            rows = rows_of(inputs)
            reason = f"the model refuses a single row that it takes in a batch of {rows}: {first_line(error)}"
            raise Decided(Finding.DEPENDENT, reason) from error
        return first_change(alone, _row(together, row), [0], exact=False)

    def make(self, rows: int, recipe: Recipe, kind: Rows) -> Arrays:
        """Generates inputs, which the model may refuse."""
        return self._maker(recipe).rows(rows, kind)

    def _maker(self, recipe: Recipe) -> Maker:
        return Maker(self._subject.inputs, recipe, self._random, self._records)


def _not_alone(change: Change, count: int) -> Decided:
    reason = f"output {change.output!r} of a row {change.text} in a batch of {count} rows"
    return Decided(Finding.DEPENDENT, reason, (change.output, change.by))


def _with_rows(inputs: Arrays, other: Arrays, places: Sequence[int]) -> Arrays:
    """A copy of the inputs in which the rows at these positions come from `other`."""
    changed: dict[str, Array] = {alias: array.copy() for alias, array in inputs.items()}
    for alias, array in other.items():
        changed[alias][list(places)] = array[list(places)]
    return changed


def _row(arrays: Mapping[str, Array], row: int) -> Arrays:
    return {alias: array[row : row + 1] for alias, array in arrays.items()}
