"""Runs a model on generated rows to determine whether any row changes with the others.

On a CPU, a row must give the same bits at the same position in a batch of the same size, whatever the *other* rows are,
since the same kernels run. Alone, or in a batch of another size, other kernels may run, and the row's answer must agree
within rounding.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from headrace_batching.task import Arrays
from headrace_server.backends.independence.axes import NotPadded
from headrace_server.backends.independence.bounded import MARGIN, bound_of, may_be_bounded
from headrace_server.backends.independence.ends import END_ROWS, Ends
from headrace_server.backends.independence.neighbours import Batch, Neighbours, Pass
from headrace_server.backends.independence.padding import PaddingTrial
from headrace_server.backends.independence.search import Found, Search
from headrace_server.backends.independence.subject import Runs, Subject, rows_of
from headrace_server.backends.independence.values import EXTREME_WORDS, Reals, Recipe, Rows
from headrace_server.backends.independence.verdict import RECORD_REQUESTS, Decided, Finding, Verdict

SHORT_OF = 20
"""A model whose first run takes longer than the budget divided by this gets a short trial of a few runs."""

MANY_ROWS = 40
"""The number of rows of the largest batch in a full trial, which shows an influence over a distance of 1 to 39 rows."""

_FEWEST = 5  # the smallest number of rows with which a full trial can be run
_SEED = 2024
_TIMED = 3  # the number of further runs, which may show that the model is faster than its first run

# In these runs, each of four rows stays the same at least once while each other row changes: the bits of the rows'
# numbers decide which ones change.
_USUAL: Sequence[Pass] = (((1, 3), Rows.USUAL), ((0, 2), Rows.USUAL), ((0, 2), Rows.SMALL))
_BESIDE_ZEROS: Sequence[Pass] = (((1, 3), Rows.USUAL),)
_EXTREME: Sequence[Pass] = (((2, 3), Rows.HUGE), ((0, 1), Rows.NAN), ((1, 3), Rows.INFINITE))
_ODD: Sequence[Pass] = (((1,), Rows.ODD),)
_EACH: Sequence[Pass] = (((0,), Rows.USUAL), ((1,), Rows.USUAL))
_LAST: Sequence[Pass] = (((0,), Rows.USUAL), ((1,), Rows.ODD))
_BRIEF: Sequence[Pass] = (((0, 2), Rows.USUAL),)


def try_rows(subject: Subject, budget: float, clock: Callable[[], float] = time.perf_counter) -> Verdict:
    """Determines whether the rows of a signature are independent.

    Args:
        subject: The signature, and how to run it.
        budget: The maximum number of seconds for a full trial. A slower model gets a short trial of a few runs.
        clock: Returns the time, in seconds.
    """
    began = clock()
    runs = Runs(subject, clock)
    try:
        trial = _Trial(subject, runs)
        found = trial.run(budget)
        if subject.evidence:
            verdict = Verdict(Finding.DEPENDENT, subject.evidence[0].reason)
        else:
            verdict = trial.bounded or trial.pad(found, budget)
    except Decided as decided:
        verdict = decided.verdict
    advice = next((evidence.advice for evidence in subject.evidence if evidence.advice), verdict.advice)
    return replace(verdict, advice=advice, runs=runs.count, seconds=clock() - began)


def try_padding(
    subject: Subject, verdict: Verdict, budget: float, clock: Callable[[], float] = time.perf_counter
) -> Verdict:
    """Determines how inputs of different lengths may share a batch, for rows that are known to be independent.

    Args:
        subject: The signature, and how to run it.
        verdict: The findings about the signature.
        budget: Seconds that the test should take.
        clock: Returns the time, in seconds.
    """
    began = clock()
    runs = Runs(subject, clock)
    try:
        found = _Trial(subject, runs).pad_alone(budget)
    except Decided as decided:
        found = Verdict(Finding.UNDECIDED, unpadded=decided.verdict.reason)
    seconds = clock() - began
    return replace(verdict, padding=found.padding, unpadded=found.unpadded, runs=runs.count, seconds=seconds)


class _Trial:
    """The steps of one trial. Each raises `Decided` if the rows are not independent, or if this cannot be determined.

    Attributes:
        bounded: The verdict on rows that are independent as long as their numbers are ordinary; otherwise None.
    """

    def __init__(self, subject: Subject, runs: Runs) -> None:
        self._subject = subject
        self._runs = runs
        self._random = np.random.default_rng(_SEED)
        self._most_rows = subject.most_rows or MANY_ROWS
        self.bounded: Verdict | None = None

    def run(self, budget: float) -> Found:
        """Runs all steps, or fewer if the model is slow, and returns inputs that it accepts."""
        found = self._find(rows=2)
        neighbours = Neighbours(self._subject, self._runs, self._random, found.records)
        if self._is_slow(found.inputs, budget) or self._most_rows < _FEWEST:
            self._run_few(neighbours, Batch(found.recipe, found.inputs, found.outputs))
        else:
            self._run_all(neighbours, found.recipe, budget)
        if self._runs.blind:
            recipe = found.recipe
            neighbours.vary(neighbours.batch(2, [replace(recipe, reals=Reals.POSITIVE), recipe]), _LAST)
        if self._runs.blind:
            raise Decided(Finding.UNDECIDED, self._runs.blind, advice=RECORD_REQUESTS)
        return found

    def pad_alone(self, budget: float) -> Verdict:
        """Like `pad`, but for a model that has not been run."""
        return self.pad(self._find(rows=2), budget)

    def pad(self, found: Found, budget: float) -> Verdict:
        """Determines, for independent rows, how inputs of different lengths may share a batch; returns the verdict."""
        subject, runs = self._subject, self._runs
        varies = any(None in spec.shape[1:] for spec in subject.inputs.values())
        if not varies or not subject.padding.pad_lengths:
            return Verdict(Finding.INDEPENDENT)
        if runs.quickest > budget and not subject.padding.pad_values:
            return Verdict(Finding.INDEPENDENT, unpadded="the model is too slow to be tried with padding")
        try:
            padding = PaddingTrial(subject, runs, found.recipe, self._random, found.records, budget=budget).find()
        except (Decided, NotPadded) as reason:
            return Verdict(Finding.INDEPENDENT, unpadded=str(reason))
        return Verdict(Finding.INDEPENDENT, padding=padding)

    def _find(self, rows: int) -> Found:
        return Search(self._subject, self._runs, self._random).find(rows)

    @property
    def _only_real(self) -> bool:
        """Whether all inputs can hold NaN and infinity, which reveal more in one run than integers do."""
        return all(spec.array_dtype.kind in "fV" for spec in self._subject.inputs.values())

    @property
    def _has_integers(self) -> bool:
        return any(spec.array_dtype.kind in "iu" for spec in self._subject.inputs.values())

    def _is_slow(self, inputs: Arrays, budget: float) -> bool:
        """Whether a full trial would take too long, not counting a slow first run or a busy machine."""
        for _ in range(_TIMED):
            if self._runs.quickest * SHORT_OF <= budget or self._runs.quickest > budget / 2:
                break
            self._runs.outputs(inputs)
        return self._runs.quickest * SHORT_OF > budget

    def _run_few(self, neighbours: Neighbours, batch: Batch) -> None:
        """Tests the rows in nine runs if all inputs are floating-point numbers, otherwise in a few more."""
        neighbours.check_one_alone(batch)
        self._try_extremes(neighbours, batch, _ODD, usual=_EACH, slow=True)
        if not self._only_real and self.bounded is None:
            neighbours.vary(batch, _EACH)
        self._try_ends(neighbours, batch)
        self._try_contrasts(neighbours, batch.recipe, rows=2, places=(1,))

    def _try_ends(self, neighbours: Neighbours, batch: Batch) -> None:
        """Looks for an influence between rows that are far from each other, in as few runs as possible."""
        kind = Rows.ODD
        if self.bounded is not None and self.bounded.bound is not None:
            kind, limit = Rows.HUGE, self.bounded.bound * MARGIN
            batch = batch._replace(recipe=replace(batch.recipe, limit=limit))
        Ends(neighbours, batch, min(END_ROWS, self._most_rows), self._runs.quickest_row).check(kind)

    def _run_all(self, neighbours: Neighbours, recipe: Recipe, budget: float) -> None:
        batch = neighbours.batch(4, [recipe, replace(recipe, most=recipe.most or 2)])
        recipe = batch.recipe
        neighbours.vary(batch, _USUAL)
        # A model that divides by the sum of all rows then divides by zero.
        if zeros := neighbours.batch_of(4, recipe, Rows.ZEROS):
            neighbours.vary(zeros, _BESIDE_ZEROS)
        neighbours.check_alone(recipe, 4, rows=(3, 0))
        many = self._try_many(neighbours, recipe, budget)
        scaled = replace(recipe, reals=Reals.SCALED)
        neighbours.vary(neighbours.batch(3, [replace(scaled, size=recipe.size + 2), scaled]), _BRIEF)
        self._try_contrasts(neighbours, recipe, rows=4, places=(1, 3))
        self._try_extremes(neighbours, batch, _EXTREME)
        if many is not None and self.bounded is None and self._has_time_for_many(budget):
            neighbours.vary(many, _halves(many, Rows.ODD))
        else:
            self._try_ends(neighbours, batch)

    def _try_many(self, neighbours: Neighbours, recipe: Recipe, budget: float) -> Batch | None:
        """Tries a batch of many rows, and returns it; None if that would take too long or the model refuses it."""
        rows = min(MANY_ROWS, self._most_rows)
        if not self._has_time_for_many(budget):
            return None
        many = neighbours.batch_of(rows, recipe, Rows.USUAL)
        if many is None:  # the model's integers may be indices into a few rows only
            many = neighbours.batch_of(rows, replace(recipe, most=recipe.most or 4), Rows.USUAL)
        if many is None:
            return None
        neighbours.vary(many, _halves(many, Rows.USUAL))
        # A dependence on the number of rows shows best with many rows of small values.
        for row in (rows - 1, 0):
            if self._has_time_for_many(budget):
                neighbours.check_alone(replace(many.recipe, reals=Reals.SMALL), rows, rows=(row,))
        return many

    def _has_time_for_many(self, budget: float) -> bool:
        return self._runs.spent + self._runs.quickest_row * MANY_ROWS < budget

    def _try_contrasts(self, neighbours: Neighbours, recipe: Recipe, rows: int, places: tuple[int, ...]) -> None:
        """Tests rows next to others on the opposite side of thresholds that a model may compare all values with.

        For example, a model may divide a batch of images by 255 if any value is above 1. Integers of any size are tried
        where they are harmless: a model may divide by 65,535 if any integer is above 255.
        """
        least = recipe.least - 1 if self._subject.exact else recipe.least  # GPUs do not always check negative indices
        wider = replace(recipe, least=least, text=(*recipe.text, *EXTREME_WORDS))
        choices: list[tuple[Recipe, ...]] = [(wider, replace(recipe, most=recipe.most or rows))]
        if self._subject.exact and self._subject.hints.any_integers and self._has_integers:
            choices.append((replace(wider, most=None, large=True),))
        for (kind, other), recipes in product(((Rows.UNIT, Rows.SIGNED), (Rows.HUNDREDS, Rows.UNIT)), choices):
            for own in recipes:
                batch = neighbours.batch_of(rows, own, kind)
                if batch is not None and neighbours.vary_once(batch, own, (places, other)):
                    break

    def _try_extremes(
        self,
        neighbours: Neighbours,
        batch: Batch,
        extremes: Sequence[Pass],
        *,
        usual: Sequence[Pass] = (),
        slow: bool = False,
    ) -> None:
        """Tests rows next to others that hold NaN, infinities and very large numbers.

        Args:
            neighbours: Runs the signature.
            batch: The batch to use.
            extremes: The runs in which the other rows hold such values.
            usual: Runs that the rows must pass before a bound is looked for; empty if they have passed.
            slow: Whether each run takes a long time.
        """
        try:
            neighbours.vary(batch, extremes)
        except Decided as decided:
            if not may_be_bounded(self._subject, batch.recipe, decided):
                raise
            neighbours.vary(batch, usual)
            bound = bound_of(neighbours, batch, slow=slow)
            if bound is None:
                raise
            found = decided.verdict
            self.bounded = replace(found, finding=Finding.BOUNDED, bound=bound)


def _halves(many: Batch, kind: Rows) -> Sequence[Pass]:
    """Two passes, each of which changes one half of the rows, so that influences of near and of distant rows show."""
    rows = rows_of(many.inputs)
    return [(tuple(half), kind) for half in (range(rows // 2), range(rows // 2, rows))]
