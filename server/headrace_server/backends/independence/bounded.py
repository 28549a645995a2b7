"""Finds the magnitude up to which rows do not influence each other, by testing.

For example, if a model adds 0 times the sum of all rows to each row, the rows are independent until one of them holds
NaN or infinity, since 0 times that is NaN. Requests for such a model may share batches if all their numbers are finite
and not larger than those tested.
"""

from collections.abc import Sequence
from dataclasses import replace

from headrace_server.backends.independence.neighbours import Batch, Neighbours, Pass
from headrace_server.backends.independence.subject import Subject, rows_of
from headrace_server.backends.independence.values import Recipe, Rows
from headrace_server.backends.independence.verdict import Decided, Finding

BOUNDS = (1e30, 1e15, 1e6)
"""Magnitudes to test, the largest first."""

MARGIN = 1e3
"""Tested numbers are this many times larger than the bound, since a batch may have more rows to sum than the test."""

_PASSES: Sequence[Pass] = (
    ((1, 3), Rows.HUGE),
    ((0, 2), Rows.HIGHEST),
    ((0, 1), Rows.LOWEST),
    ((2, 3), Rows.HIGHEST),
    ((2, 3), Rows.USUAL),
    ((0, 2), Rows.SMALL),
)
_SHORT: Sequence[Pass] = (((1,), Rows.HUGE), ((0,), Rows.HIGHEST), ((1,), Rows.LOWEST))


def may_be_bounded(subject: Subject, recipe: Recipe, decided: Decided) -> bool:
    """Whether to search for a bound: only if the rows affect each other, and the numbers of requests can be checked.

    Args:
        subject: The signature. A request's numbers must be readable: neither in strings nor complex.
        recipe: Makes inputs that the model accepts.
        decided: The finding of the trial for a batch with unusual numbers.
    """
    kinds = {spec.array_dtype.kind for spec in subject.inputs.values()}
    dependent = decided.verdict.finding is Finding.DEPENDENT
    return dependent and not recipe.examples and bool(kinds & set("fV")) and kinds <= set("fViub")


def bound_of(neighbours: Neighbours, batch: Batch, *, slow: bool) -> float | None:
    """The largest of the tested bounds within which no row changes with the others; None if there is none.

    Args:
        neighbours: Runs the signature.
        batch: Four rows with usual numbers, or two if the model is slow.
        slow: Whether each run takes a long time.
    """
    return next((bound for bound in BOUNDS if _holds(neighbours, batch, bound * MARGIN, slow=slow)), None)


def _holds(neighbours: Neighbours, batch: Batch, limit: float, *, slow: bool) -> bool:
    """Whether every row's answer stays the same bit for bit if the other rows have numbers up to the limit.

    A batch in which all rows are zeros is tested, too, because it shows two kinds of influence that other numbers may
    hide. A change that would be lost when it is added to a larger number is not lost in zero. And a model that divides
    by the sum of all rows answers with NaN as long as all rows are zeros, but not after some of them have changed.
    """
    recipe = replace(batch.recipe, limit=limit)
    passes = _SHORT if slow else _PASSES
    try:
        zeros = neighbours.batch_of(rows_of(batch.inputs), recipe, Rows.ZEROS)
        if zeros is None:
            return False
        places = passes[0][0]
        changes = [(batch, change) for change in passes]
        changes += [(zeros, change) for change in (passes[0], (places, Rows.USUAL))]
        # Values that the model refuses at this magnitude were not tested.
        return all(neighbours.vary_once(own, recipe, change) for own, change in changes) and neighbours.exact
    except Decided:
        return False
