"""Compares two models on the same rows: differences and agreement. All functions are pure, from arrays to numbers."""

from dataclasses import dataclass

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_toolkit.errors import ToolkitError

ROW_TOLERANCE = 1e-4
"""A row differs if an element differs by more than this, as a fraction of the output's largest value or 1."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One output compared with the expected one, over all rows.

    Attributes:
        output: The output's name.
        largest: The largest difference of two elements; infinity if only one of them is finite, and 1 for strings that
            differ.
        mean: The mean difference.
        scale: The largest finite element of the expected output.
        differing: The share of rows in which an element differs by more than `ROW_TOLERANCE`.
    """

    output: str
    largest: float
    mean: float
    scale: float
    differing: float


def compare(expected: Arrays, got: Arrays) -> tuple[Difference, ...]:
    """Compares each expected output with the one of the same name.

    Raises:
        ToolkitError: An output is missing, or has another shape.
    """
    for name, array in expected.items():
        if name not in got:
            raise ToolkitError(f"output {name} is missing; there are {', '.join(got)}")
        if got[name].shape != array.shape:
            raise ToolkitError(
                f"output {name} has the shape {list(got[name].shape)}, and the source's has {list(array.shape)}"
            )
    return tuple(_difference(name, array, got[name]) for name, array in expected.items())


def largest(differences: tuple[Difference, ...]) -> Difference:
    """The comparison with the largest difference."""
    return max(differences, key=lambda difference: difference.largest)


def decisions(outputs: Arrays, output: str = "") -> Array | None:
    """The class of each row, [rows]; None if no output decides.

    An output of integers or strings, one per row, is the decision itself; a table of floats decides by its largest
    column.

    Args:
        outputs: Arrays by name, all with the same axis 0.
        output: The output that decides; if empty, one is chosen.
    """
    chosen = {output: outputs[output]} if output else outputs
    vectors = [a for a in chosen.values() if a.dtype.kind in "iuOUSb" and (a.ndim == 1 or a.shape[1:] == (1,))]
    if vectors:
        return vectors[0].reshape(-1)
    tables = [a for a in chosen.values() if a.dtype.kind == "f" and a.ndim == 2 and a.shape[1] > 1]
    found: Array | None = tables[0].argmax(1) if tables else None
    return found


def agreement(expected: Arrays, got: Arrays, output: str = "") -> float | None:
    """The share of rows that get the same class; None if no output decides."""
    wanted, found = decisions(expected, output), decisions(got, output)
    if wanted is None or found is None:
        return None
    return float((wanted == found).mean())


def _difference(name: str, expected: Array, got: Array) -> Difference:
    if expected.dtype.kind not in "biuf" or got.dtype.kind not in "biuf":
        unequal = (expected.astype(str) != got.astype(str)).reshape(len(expected), -1)
        return Difference(name, float(unequal.any()), float(unequal.mean()), 1.0, float(unequal.any(1).mean()))
    wanted, found = (array.astype(np.float64).reshape(len(array), -1) for array in (expected, got))
    if not wanted.size:
        return Difference(name, 0.0, 0.0, 0.0, 0.0)
    same = (wanted == found) | (np.isnan(wanted) & np.isnan(found))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.nan_to_num(np.abs(wanted - found), nan=np.inf, posinf=np.inf))
    scale = float(np.abs(np.nan_to_num(wanted, nan=0.0, posinf=0.0, neginf=0.0)).max())
    off = (apart > ROW_TOLERANCE * max(1.0, scale)).any(1)
    return Difference(name, float(apart.max()), float(apart.mean()), scale, float(off.mean()))
