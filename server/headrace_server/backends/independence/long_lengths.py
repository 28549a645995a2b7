"""Tests a padding with much longer inputs, since a model may treat lengths beyond some number in another way.

For example, a model may use only the last 50 elements, or divide by the length if that is above 100. A row of a few
elements that is padded beyond this number then gets another answer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from headrace_batching.padding import Padding
from headrace_batching.task import Arrays
from headrace_server.backends.independence.compare import Change, first_change
from headrace_server.backends.independence.subject import Runs, Subject, rows_of
from headrace_server.backends.independence.values import MAX_ROW_ELEMENTS

DOUBLED = (60, 120, 240, 480, 960)
"""Lengths that are tested as far as time allows, although the model's file has no such number."""

MOST_SECONDS = 1.0
"""If the test of a number in the model's file would take longer, only inputs below this number are padded."""

_BEYOND = 9  # padded rows are this much longer than the number, which may be compared with a length plus a few

Pad = Callable[[Sequence[int]], Arrays | None]
"""Runs the rows with this many elements added after each length; returns None if the model refuses them."""


@dataclass(frozen=True, slots=True)
class LongLengths:
    """Compares bare rows with rows padded to ever larger lengths.

    Attributes:
        subject: The signature.
        runs: The signature's runs.
        rows: The bare rows.
        pad: Runs the padded rows.
        budget: The number of seconds that all runs of the trial should take.
        tested: The largest length with which the padding has been tested.
    """

    subject: Subject
    runs: Runs
    rows: Arrays
    pad: Pad
    budget: float
    tested: int

    def check(self, padding: Padding) -> tuple[Padding, Change | None]:
        """Compares the answers.

        Returns: The padding, with limits below the numbers that were not tested; and a change that the padding causes,
            if there is one.
        """
        targets = list(self._targets())
        if not targets:
            return padding, None
        began = self.runs.spent
        bare = self.runs.outputs(self.rows)
        lengths = padding.lengths(self.rows)
        shortest = min(lengths.values())
        known, last = self.subject.hints.numbers, (shortest, self.runs.spent - began)
        for target in targets:
            seconds = last[1] * (target / last[0]) ** (1 if last[0] == shortest else 2)
            if not self._affordable(padding, target, seconds, known=target in known):
                if target in known:
                    return replace(padding, limits=tuple(limit for limit in padding.limits if limit < target)), None
                continue
            began = self.runs.spent
            amount = target + _BEYOND - shortest
            padded = self.pad((amount, amount + 1, amount + 2))
            if padded is None:
                break  # the model refuses longer inputs, bare ones too
            last = target, self.runs.spent - began
            if change := first_change(bare, padding.cut(padded, lengths), range(rows_of(self.rows)), exact=False):
                return padding, change
        return padding, None

    def _targets(self) -> Iterator[int]:
        """The lengths to test, in increasing order."""
        yield from sorted(size for size in {*DOUBLED, *self.subject.hints.numbers} if size > self.tested)

    def _affordable(self, padding: Padding, target: int, seconds: float, *, known: bool) -> bool:
        elements = 0
        for alias, axes in padding.inputs.items():
            sizes = zip(self.rows[alias].shape[1:], axes, strict=True)
            elements += prod(size if number is None else target + _BEYOND for size, number in sizes)
        in_time = seconds <= MOST_SECONDS if known else self.runs.spent + seconds <= self.budget
        return in_time and elements <= MAX_ROW_ELEMENTS
