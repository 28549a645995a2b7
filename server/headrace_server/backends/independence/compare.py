"""How much an output's rows differ between two runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from headrace_batching.task import Array, Arrays


class Change(NamedTuple):
    """A change of an output that should have stayed the same.

    Attributes:
        output: The output's alias.
        by: The largest difference, as a fraction of the output's largest value; infinite if there is no such fraction.
        text: What happened to the output.
    """

    output: str
    by: float
    text: str


# If a few thousand terms are added in another order, the sums may differ by this many units in the last place of the
# largest value: a small sum may be the difference of large terms. Types with few bits round every intermediate result.
_UNITS = {8: 4096.0, 4: 1024.0, 2: 32.0}


def first_change(before: Arrays, after: Arrays, rows: Sequence[int], *, exact: bool) -> Change | None:
    """The first output in which one of these rows differs; None if there is none.

    Args:
        before: Outputs by alias, all with the same axis 0.
        after: The same outputs from another run.
        rows: The rows that should be the same.
        exact: Whether the rows should be the same bit for bit, or only within the rounding of the dtype.
    """
    for alias, old in before.items():
        if change := _change(alias, old, after[alias], list(rows), exact=exact):
            return change
    return None


def _change(alias: str, old: Array, new: Array, rows: list[int], *, exact: bool) -> Change | None:
    if old.shape != new.shape:
        return Change(alias, np.inf, f"takes the shape {new.shape} instead of {old.shape}")
    was, now = old[rows], new[rows]
    if _same(was, now):
        return None
    if was.dtype.kind in "OSUb":
        return Change(alias, np.inf, "takes other values")
    by = _relative(was, now)
    if not exact and by <= tolerance(was.dtype):
        return None
    if by < np.inf:
        return Change(alias, by, f"changes by up to {by:.2g} of its largest value")
    return Change(alias, by, _how(now.astype(np.complex128)))


def _how(values: Array) -> str:
    if np.isnan(values).any():
        return "becomes NaN"
    return "becomes infinite" if np.isinf(values).any() else "takes other values"


def _same(was: Array, now: Array) -> bool:
    if was.dtype.hasobject:
        return bool(was.tolist() == now.tolist())
    if was.tobytes() == now.tobytes():
        return True
    return was.dtype.kind in "fc" and np.array_equal(was, now, equal_nan=True)


def tolerance(dtype: np.dtype[Any]) -> float:
    """The fraction of an output's largest value by which rounding alone may change it; 0 for integers."""
    if dtype.kind in "iu":
        return 0.0
    units = _UNITS.get(dtype.itemsize, 1024.0)
    epsilon = 2.0**-7 if dtype.kind == "V" else float(np.finfo(dtype).eps)  # bfloat16, which numpy does not know
    return units * epsilon if dtype.kind != "V" else 8 * epsilon


def _relative(was: Array, now: Array) -> float:
    with np.errstate(all="ignore"):
        old, new = was.astype(np.float64), now.astype(np.float64)
        if not np.array_equal(np.isfinite(old), np.isfinite(new)):
            return float(np.inf)
        finite = np.isfinite(old)
        if not finite.any():
            return 0.0
        largest = np.abs(old[finite]).max()
        return float(np.abs(new[finite] - old[finite]).max() / largest) if largest else float(np.inf)
