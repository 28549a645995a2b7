"""Runs a model on made-up rows to find out whether any row changes with the others.

The same row, in the same place of a batch of the same size, beside *other* rows must give the same bits on a CPU: the
kernels are the same. Alone, or in a batch of another size, other kernels may run, and it must agree within rounding.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.independence.compare import Change, first_change
from headrace_server.backends.independence.examples import Features, learn
from headrace_server.backends.independence.padding import NotPadded, PaddingTrial
from headrace_server.backends.independence.subject import Runs, Subject, rows_of
from headrace_server.backends.independence.values import Maker, Reals, Recipe, Rows, recipes
from headrace_server.backends.independence.verdict import (
    EXPORT_AGAIN,
    RECORD_REQUESTS,
    Decided,
    Finding,
    Verdict,
)

SHORT_OF = 20
"""A model of which so many times the first run takes longer than the budget gets a short trial, of five rows."""

MANY = 40
"""Rows of the largest batch of a full trial."""

_ATTEMPTS = 40  # kinds of inputs that a model may refuse before it is left alone
_MOST_FEATURES = 1000  # runs in which a model may say what is missing in an Example
_SEED = 2024
_DRAWS = 3
_TIMED = 3  # runs after the first that may show that a model is quicker than that
_WHOLE = 8  # whole numbers of other rows are below this where the model takes them
_SHOWN = 200  # characters of an error
_TIE = 0.5  # rounding may break a tie, which changes a class, but not every time

_Pass = tuple[tuple[int, ...], Rows]

# Rows that others take the place of, and what the others hold. Each row of four is kept beside each other one that
# changes, by the bits of its number.
_FULL: Sequence[_Pass] = (
    ((1, 3), Rows.USUAL),
    ((0, 2), Rows.USUAL),
    ((2, 3), Rows.HUGE),
    ((0, 1), Rows.NAN),
    ((1, 3), Rows.INFINITE),
    ((0, 2), Rows.SMALL),
)
_SHORT: Sequence[_Pass] = (((1,), Rows.ODD),)
_SHORT_WHOLE: Sequence[_Pass] = (((0,), Rows.USUAL), ((1,), Rows.USUAL))
_LAST: Sequence[_Pass] = (((0,), Rows.USUAL), ((1,), Rows.ODD))
_BRIEF: Sequence[_Pass] = (((0, 2), Rows.USUAL),)


def try_rows(subject: Subject, budget: float, clock: Callable[[], float] = time.perf_counter) -> Verdict:
    """Finds out whether the rows of a signature are independent.

    Args:
        subject: The signature, and how it is run.
        budget: Seconds that a trial should take. A model that is slow gets a short one, of five rows in all.
        clock: In seconds.
    """
    began = clock()
    runs = Runs(subject, clock)
    try:
        trial = _Trial(subject, runs)
        recipe = trial.run(budget)
        if subject.evidence:
            verdict = Verdict(Finding.DEPENDENT, subject.evidence[0].reason)
        else:
            verdict = trial.pad(recipe, budget)
    except Decided as decided:
        verdict = decided.verdict
    advice = next((evidence.advice for evidence in subject.evidence if evidence.advice), verdict.advice)
    return replace(verdict, advice=advice, runs=runs.count, seconds=clock() - began)


def try_padding(
    subject: Subject, verdict: Verdict, budget: float, clock: Callable[[], float] = time.perf_counter
) -> Verdict:
    """Finds out how inputs of different lengths may share a batch, for rows that are known to be independent.

    Args:
        subject: The signature, and how it is run.
        verdict: What is known of it.
        budget: Seconds that it should take.
        clock: In seconds.
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
    """The steps of one trial. Each raises `Decided` where the rows are not independent, or it cannot be told."""

    def __init__(self, subject: Subject, runs: Runs) -> None:
        self._subject = subject
        self._runs = runs
        self._random = np.random.default_rng(_SEED)
        self._exact = subject.exact
        self._records: Sequence[Arrays] = ()

    def run(self, budget: float) -> Recipe:
        """All of them; fewer where the model turns out to be slow. Returns what makes inputs that it takes."""
        recipe, inputs, outputs = self._find_inputs(rows=2)
        slow = self._is_slow(inputs, budget)
        if slow or (self._subject.most_rows or MANY) < MANY:
            self._vary(recipe, inputs, outputs, _SHORT if self._only_real else (*_SHORT, *_SHORT_WHOLE))
            self._check_one_alone(recipe, inputs, outputs)
        else:
            self._run_all(recipe, budget)
        if self._runs.blind:
            self._try_again(2, [replace(recipe, reals=Reals.POSITIVE), recipe], _LAST)
        if self._runs.blind:
            raise Decided(Finding.UNDECIDED, self._runs.blind, advice=RECORD_REQUESTS)
        return recipe

    def pad_alone(self, budget: float) -> Verdict:
        """As `pad`, for a model of which nothing has been run."""
        recipe, _, _ = self._find_inputs(rows=2)
        return self.pad(recipe, budget)

    def pad(self, recipe: Recipe, budget: float) -> Verdict:
        """The verdict on rows that are independent, and how inputs of different lengths may share a batch."""
        subject, runs = self._subject, self._runs
        varies = any(None in spec.shape[1:] for spec in subject.inputs.values())
        if not varies or not subject.padding.pad_lengths:
            return Verdict(Finding.INDEPENDENT)
        if runs.quickest > budget and not subject.padding.pad_values:
            return Verdict(Finding.INDEPENDENT, unpadded="the model is too slow to try how they can be padded")
        try:
            padding = PaddingTrial(subject, runs, recipe, self._random, self._records, budget=budget).find()
        except (Decided, NotPadded) as reason:
            return Verdict(Finding.INDEPENDENT, unpadded=str(reason))
        return Verdict(Finding.INDEPENDENT, padding=padding)

    @property
    def _only_real(self) -> bool:
        """Whether all inputs can hold NaN and infinity, which tell more in one run than whole numbers do."""
        return all(spec.array_dtype.kind in "fV" for spec in self._subject.inputs.values())

    def _is_slow(self, inputs: Arrays, budget: float) -> bool:
        """Whether a full trial would take too long, for reasons other than a first run or a busy machine."""
        for _ in range(_TIMED):
            if self._runs.quickest * SHORT_OF <= budget or self._runs.quickest > budget / 2:
                break
            self._runs.outputs(inputs)
        return self._runs.quickest * SHORT_OF > budget

    def _run_all(self, recipe: Recipe, budget: float) -> None:
        recipe = self._try_again(4, [recipe, replace(recipe, most=recipe.most or 2)], _FULL)
        self._check_alone(recipe, 4, rows=(3, 0))
        if self._runs.spent + self._runs.quickest_row * MANY < budget:
            # What depends on the number of rows shows best where there are many of them, and of small values.
            self._check_alone(replace(recipe, reals=Reals.SMALL), MANY, rows=(MANY - 1,))
        scaled = replace(recipe, reals=Reals.SCALED)
        self._try_again(3, [replace(scaled, size=recipe.size + 2), scaled], _BRIEF)

    def _find_inputs(self, rows: int) -> tuple[Recipe, Arrays, Arrays]:
        """The first inputs that the model takes, and its outputs."""
        refused: Exception | None = None
        for recipe in self._recipes():
            inputs = self._maker(recipe).rows(rows, pointing=True)
            try:
                return recipe, inputs, self._runs.outputs(inputs)
            except Decided:
                raise
            except Exception as error:
                refused = error
        if found := self._find_examples(rows, str(refused)):
            return found
        if any(self._takes_one_row(recipe) for recipe in self._recipes()):
            reason = f"the model takes one row, but not {rows}: {_text(refused)}"
            raise Decided(Finding.DEPENDENT, reason, advice=EXPORT_AGAIN)
        reason = f"the trial found no inputs that the model takes: {_text(refused)}"
        raise Decided(Finding.UNDECIDED, reason, advice=RECORD_REQUESTS)

    def _find_examples(self, rows: int, refused: str) -> tuple[Recipe, Arrays, Arrays] | None:
        """The same for a model that parses tf.Examples, and says what is missing in them."""
        features: Features = {}
        while learn(features, refused) and self._runs.count < _MOST_FEATURES:
            recipe = Recipe(examples=tuple(features.values()))
            inputs = self._maker(recipe).rows(rows)
            try:
                return recipe, inputs, self._runs.outputs(inputs)
            except Decided:
                raise
            except Exception as error:
                refused = str(error)
        return None

    def _recipes(self) -> Iterator[Recipe]:
        if self._subject.records:
            self._records = self._subject.records
            yield Recipe(shuffled=True)
            yield Recipe()
            self._records = ()
        for _, recipe in zip(range(_ATTEMPTS), recipes(self._subject.inputs), strict=False):
            yield recipe

    def _takes_one_row(self, recipe: Recipe) -> bool:
        try:
            self._runs.run(self._maker(recipe).rows(1))
        except Exception:
            return False
        return True

    def _try_again(self, rows: int, choices: Sequence[Recipe], passes: Sequence[_Pass]) -> Recipe:
        """Varies rows made by the first of some recipes that the model takes."""
        refused: Exception | None = None
        for recipe in choices:
            inputs = self._maker(recipe).rows(rows, pointing=True)
            try:
                outputs = self._runs.outputs(inputs)
            except Decided:
                raise
            except Exception as error:
                refused = error
                continue
            self._vary(recipe, inputs, outputs, passes)
            return recipe
        reason = f"the model takes two rows, but not {rows}: {_text(refused)}"
        raise Decided(Finding.DEPENDENT, reason, advice=EXPORT_AGAIN)

    def _vary(self, recipe: Recipe, inputs: Arrays, outputs: Arrays, passes: Sequence[_Pass]) -> None:
        """Puts other rows into the places of some; those that are left must stay as they are."""
        for places, kind in passes:
            wide = recipe if recipe.most is not None else replace(recipe, most=_WHOLE)
            tries = ((wide, kind), (recipe, kind), *[(recipe, Rows.USUAL)] * _DRAWS)
            if not any(self._vary_once(own, (inputs, outputs), (places, which)) for own, which in tries):
                raise Decided(Finding.UNDECIDED, "the model refuses nearly all values", advice=RECORD_REQUESTS)

    def _vary_once(self, recipe: Recipe, before: tuple[Arrays, Arrays], change: _Pass) -> bool:
        """Whether the model takes the others: in all inputs at once, or else in some inputs by themselves."""
        places, kind = change
        made = self._maker(recipe).rows(rows_of(before[0]), kind)
        after = self._runs.outputs_if_taken(_with_rows(before[0], made, places))
        if after is not None:
            self._compare(before, after, change)
            return True
        taken = False
        for alias in made if len(made) > 1 else ():
            after = self._runs.outputs_if_taken(_with_rows(before[0], {alias: made[alias]}, places))
            if after is not None:
                self._compare(before, after, change)
                taken = True
        return taken

    def _compare(self, before: tuple[Arrays, Arrays], after: Arrays, changed: _Pass) -> None:
        inputs, outputs = before
        places, kind = changed
        kept = [row for row in range(rows_of(inputs)) if row not in places]
        change = first_change(outputs, after, kept, exact=self._exact)
        if change is None:
            return
        again = self._runs.outputs(inputs)
        if self._exact and first_change(outputs, again, kept, exact=True):
            if noise := first_change(outputs, again, kept, exact=False):
                reason = f"output {noise.output!r} of equal requests differs: it {noise.text}"
                raise Decided(Finding.UNDECIDED, reason, (noise.output, noise.by))
            self._exact = False  # it rounds one way or another, as on a GPU
            change = first_change(outputs, after, kept, exact=False)
        if change is not None:
            reason = f"output {change.output!r} {change.text} beside rows of {kind.value}"
            raise Decided(Finding.DEPENDENT, reason, (change.output, change.by))

    def _check_one_alone(self, recipe: Recipe, inputs: Arrays, outputs: Arrays) -> None:
        """Compares the second row with itself alone, which shows what the first does to it, too."""
        change = self._change_alone(inputs, outputs, 1)
        if change is not None and change.by > _TIE:
            reason = f"output {change.output!r} of a row {change.text} as one of {rows_of(inputs)} rows"
            raise Decided(Finding.DEPENDENT, reason, (change.output, change.by))
        if change is not None:
            self._check_alone(recipe, rows_of(inputs), rows=(1,))

    def _check_alone(self, recipe: Recipe, count: int, rows: Sequence[int]) -> None:
        """Compares rows of a batch with the same rows alone."""
        for row in rows:
            change = self._alone_change(recipe, count, row)
            if change is None:
                continue
            agreed = sum(self._alone_change(recipe, count, row) is None for _ in range(_DRAWS))
            if change.by > _TIE or agreed < _DRAWS - 1:
                reason = f"output {change.output!r} of a row {change.text} as one of {count} rows"
                raise Decided(Finding.DEPENDENT, reason, (change.output, change.by))

    def _alone_change(self, recipe: Recipe, count: int, row: int) -> Change | None:
        inputs = self._maker(recipe).rows(count)
        together = self._runs.outputs_if_taken(inputs)
        return None if together is None else self._change_alone(inputs, together, row)

    def _change_alone(self, inputs: Arrays, together: Arrays, row: int) -> Change | None:
        try:
            alone = self._runs.run(_row(inputs, row))
        except Exception as error:
            reason = f"the model refuses a row alone that it takes as one of {rows_of(inputs)}: {_text(error)}"
            raise Decided(Finding.DEPENDENT, reason) from error
        return first_change(alone, _row(together, row), [0], exact=False)

    def _maker(self, recipe: Recipe) -> Maker:
        return Maker(self._subject.inputs, recipe, self._random, self._records)


def _with_rows(inputs: Arrays, other: Arrays, places: Sequence[int]) -> Arrays:
    """The inputs, with other rows in these places."""
    changed: dict[str, Array] = {alias: array.copy() for alias, array in inputs.items()}
    for alias, array in other.items():
        changed[alias][list(places)] = array[list(places)]
    return changed


def _row(arrays: Mapping[str, Array], row: int) -> Arrays:
    return {alias: array[row : row + 1] for alias, array in arrays.items()}


def _text(error: Exception | None) -> str:
    """The beginning of an error's text."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else repr(error)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
