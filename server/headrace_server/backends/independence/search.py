"""Searches for inputs that a model accepts, given only its signature."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from headrace_batching.task import Arrays
from headrace_server.backends.independence.examples import Features, learn
from headrace_server.backends.independence.subject import Runs, Subject
from headrace_server.backends.independence.values import Maker, Recipe, recipes
from headrace_server.backends.independence.verdict import EXPORT_AGAIN, RECORD_REQUESTS, Decided, Finding

_ATTEMPTS = 40  # the number of kinds of inputs that a model may refuse before the search ends
_MIXED_ROWS = 16  # so many rows, half of whose categories are unknown, have an unknown one that the model may refuse
_MOST_FEATURES = 1000  # the number of runs in which a model may name the missing features of an Example
_SHOWN = 200  # the maximum number of characters of an error


class Found(NamedTuple):
    """Inputs that a model has accepted.

    Attributes:
        recipe: The recipe that the inputs were made by.
        records: The real requests for the recipe, whose rows have the sizes of the inputs' rows; may be empty.
        inputs: Arrays by alias.
        outputs: The model's answer, in which each output has as many rows as the inputs.
    """

    recipe: Recipe
    records: Sequence[Arrays]
    inputs: Arrays
    outputs: Arrays


class Search:
    """Finds the first inputs that a model accepts.

    Args:
        subject: The signature to find inputs for.
        runs: The signature's runs.
        random: The source of random numbers.
    """

    def __init__(self, subject: Subject, runs: Runs, random: np.random.Generator) -> None:
        self._subject = subject
        self._runs = runs
        self._random = random

    def find(self, rows: int) -> Found:
        """Finds inputs of this many rows that the model accepts.

        Raises:
            Decided: There are none, or an output has a different number of rows.
        """
        refused: Exception | None = None
        for recipe, records in self._recipes():
            inputs = self._maker(recipe, records).rows(rows, pointing=True)
            try:
                if recipe.categories and not recipe.known:
                    self._runs.outputs(
                        self._maker(recipe).rows(min(_MIXED_ROWS, self._subject.most_rows or _MIXED_ROWS))
                    )
                return Found(recipe, _of_one_size(records, inputs), inputs, self._runs.outputs(inputs))
            except Decided:
                raise
            except Exception as error:
                refused = error
        if found := self._find_examples(rows, str(refused)):
            return found
        if any(self._takes_one_row(*choice) for choice in self._recipes()):
            reason = f"the model takes one row, but not {rows}: {first_line(refused)}"
            raise Decided(Finding.DEPENDENT, reason, advice=EXPORT_AGAIN)
        reason = f"the trial found no inputs that the model takes: {first_line(refused)}"
        raise Decided(Finding.UNDECIDED, reason, advice=RECORD_REQUESTS)

    def _find_examples(self, rows: int, refused: str) -> Found | None:
        """Like `find`, but for a model that parses tf.Examples and names the features that they lack."""
        features: Features = {}
        while learn(features, refused) and self._runs.count < _MOST_FEATURES:
            recipe = Recipe(examples=tuple(features.values()))
            inputs = self._maker(recipe).rows(rows)
            try:
                return Found(recipe, (), inputs, self._runs.outputs(inputs))
            except Decided:
                raise
            except Exception as error:
                refused = str(error)
        return None

    def _recipes(self) -> Iterator[tuple[Recipe, Sequence[Arrays]]]:
        if records := self._subject.records:
            yield Recipe(shuffled=True), records
            yield Recipe(), records
        choices = recipes(self._subject.inputs, self._subject.hints.categories)
        yield from ((recipe, ()) for recipe in islice(choices, _ATTEMPTS))

    def _takes_one_row(self, recipe: Recipe, records: Sequence[Arrays]) -> bool:
        try:
            self._runs.run(self._maker(recipe, records).rows(1))
        except Exception:
            return False
        return True

    def _maker(self, recipe: Recipe, records: Sequence[Arrays] = ()) -> Maker:
        return Maker(self._subject.inputs, recipe, self._random, records)


def _of_one_size(records: Sequence[Arrays], inputs: Arrays) -> Sequence[Arrays]:
    """The real requests whose rows can share a batch with rows of these inputs: texts have different lengths."""
    sizes = {alias: array.shape[1:] for alias, array in inputs.items()}
    return [record for record in records if {alias: record[alias].shape[1:] for alias in inputs} == sizes]


def first_line(error: Exception | None) -> str:
    """The first line of an error's text, shortened if it is long; the error's type if there is no text."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else repr(error)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
