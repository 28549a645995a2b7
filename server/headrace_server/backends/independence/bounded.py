"""Tells rows that leave each other alone as long as their numbers are ordinary: of which magnitude, found by trying.

A model that adds 0 times the sum of all rows keeps them apart, until one of them is NaN or infinite: 0 times that
is NaN for all. Its requests may share batches where all their numbers are finite and not larger than what has
been tried.
"""

from collections.abc import Sequence
from dataclasses import replace

from headrace_server.backends.independence.neighbours import Batch, Neighbours, Pass
from headrace_server.backends.independence.subject import Subject, rows_of
from headrace_server.backends.independence.values import Recipe, Rows
from headrace_server.backends.independence.verdict import Decided, Finding

BOUNDS = (1e30, 1e15, 1e6)
"""Magnitudes that are tried, the largest first."""

MARGIN = 1e3
"""Numbers that are tried are so many times larger than the bound: a batch may have more rows to sum than the trial."""

_PASSES: Sequence[Pass] = (
    ((1, 3), Rows.HUGE),
    ((0, 2), Rows.HIGHEST),
    ((0, 1), Rows.LOWEST),
    ((2, 3), Rows.USUAL),
    ((0, 2), Rows.SMALL),
)
_SHORT: Sequence[Pass] = (((1,), Rows.HUGE), ((0,), Rows.HIGHEST), ((1,), Rows.LOWEST))


def may_be_bounded(subject: Subject, recipe: Recipe, decided: Decided) -> bool:
    """Whether a bound on numbers may keep rows apart that others change which are not ordinary.

    Args:
        subject: The signature. A request's numbers have to be seen: they must not be in strings, nor be complex.
        recipe: Makes inputs that the model takes.
        decided: What was found beside such rows.
    """
    kinds = {spec.array_dtype.kind for spec in subject.inputs.values()}
    dependent = decided.verdict.finding is Finding.DEPENDENT
    return dependent and not recipe.examples and bool(kinds & set("fV")) and kinds <= set("fViub")


def bound_of(neighbours: Neighbours, batch: Batch, *, slow: bool) -> float | None:
    """The largest of the bounds within which no row changes with the others; None where none is proved.

    Args:
        neighbours: Runs the signature.
        batch: Of four rows with usual numbers, or two where the model is slow.
        slow: Whether each run takes long.
    """
    return next((bound for bound in BOUNDS if _holds(neighbours, batch, bound * MARGIN, slow=slow)), None)


def _holds(neighbours: Neighbours, batch: Batch, limit: float, *, slow: bool) -> bool:
    """Whether every row stays the same, bit for bit, beside rows of numbers up to the limit, and so do rows of zeros.

    Zeros have no digits in which a small change could be lost, and the sum of all of them is one that divides.
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
        # What a model refuses at this magnitude has not been tried.
        return all(neighbours.vary_once(own, recipe, change) for own, change in changes) and neighbours.exact
    except Decided:
        return False
