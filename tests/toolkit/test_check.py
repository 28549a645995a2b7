"""Comparisons of answers, and the trial whether rows leave each other alone."""

import math

import numpy as np
import pytest

from headrace_batching.task import Arrays
from headrace_protos import DataType
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_toolkit import ToolkitError
from headrace_toolkit.check import agreement, compare, decisions, dependence, largest


def signature(first: int | None = None) -> Signature:
    dims = ("N" if first is None else "", "")
    return Signature({"x": TensorSpec("x", DataType.DT_FLOAT, (first, 2), dims)}, {})


def test_differences_of_floats() -> None:
    expected = {"y": np.array([[1.0, 2.0], [3.0, 4.0]])}
    (difference,) = compare(expected, {"y": np.array([[1.0, 2.5], [3.0, 4.0]])})
    assert (difference.largest, difference.mean, difference.scale, difference.differing) == (0.5, 0.125, 4.0, 0.5)


def test_rounding_is_no_difference_of_a_row() -> None:
    expected = {"y": np.array([[1000.0], [0.001]])}
    (difference,) = compare(expected, {"y": np.array([[1000.01], [0.001]])})
    assert difference.differing == 0
    assert difference.largest == pytest.approx(0.01)


def test_what_is_not_finite() -> None:
    expected = {"y": np.array([np.nan, np.inf, 1.0])}
    assert compare(expected, expected)[0].largest == 0
    assert compare(expected, {"y": np.array([0.0, np.inf, 1.0])})[0].largest == math.inf


def test_strings_differ_or_not() -> None:
    (difference,) = compare({"y": np.array(["a", "b"], object)}, {"y": np.array(["a", "c"], object)})
    assert (difference.largest, difference.differing) == (1.0, 0.5)


def test_the_largest_of_several_outputs() -> None:
    zeros = {"a": np.zeros(2), "b": np.zeros(2)}
    assert largest(compare(zeros, {"a": np.zeros(2), "b": np.ones(2)})).output == "b"


def test_outputs_of_another_name_or_shape_are_refused() -> None:
    with pytest.raises(ToolkitError, match="output y is missing; there are z"):
        compare({"y": np.zeros(2)}, {"z": np.zeros(2)})
    with pytest.raises(ToolkitError, match=r"output y has the shape \[3\], and the source answers \[2\]"):
        compare({"y": np.zeros(2)}, {"y": np.zeros(3)})


def test_who_decides() -> None:
    scores, label = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32), np.array([[1], [0]])
    for outputs in ({"scores": scores}, {"label": label}, {"scores": scores, "label": label}):
        found = decisions(outputs)
        assert found is not None
        assert found.tolist() == [1, 0]
    assert decisions({"value": np.zeros(2)}) is None
    assert agreement({"s": scores}, {"s": scores[::-1]}) == 0
    assert agreement({"v": np.zeros(2)}, {"v": np.zeros(2)}) is None


SEVEN = np.arange(14, dtype=np.float32).reshape(7, 2) ** 2


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x * 2, ""),
        (lambda x: x - x.mean(0), "in a batch of 2 row 1 of output y is answered otherwise than alone, by 4"),
        (lambda x: x / np.abs(x).max(), "in a batch of 2 row 1 of output y is answered otherwise"),
        (lambda x: x[:1], r"in a batch of 2 output y has the shape [1, 2], and must have a row for each"),
        (lambda x: x.reshape(-1), "output y has the shape [4], and must have a row for each"),
        (lambda x: np.float32(x.sum()), "output y has the shape [], and must have a row for each"),
        (lambda x: np.concatenate([x] * len(x), 1), "output y has another shape than for a row alone"),
        (lambda x: x[np.minimum(np.arange(len(x)), 5)], "in a batch of 7 row 7 of output y"),
    ],
    ids=["row by row", "mean of the batch", "largest of the batch", "one row", "flat", "sum", "wider", "six rows"],
)  # fmt: skip
def test_rows_that_influence_each_other(function: object, words: str) -> None:
    def run(inputs: Arrays) -> Arrays:
        return {"y": np.asarray(function(inputs["x"]))}  # type: ignore[operator]

    found = dependence(run, signature(), {"x": SEVEN})
    assert bool(found) == bool(words)
    assert words in found


def test_a_model_that_takes_other_numbers_of_rows_only() -> None:
    def run(inputs: Arrays) -> Arrays:
        if len(inputs["x"]) % 2 and len(inputs["x"]) > 1:
            raise ToolkitError("it takes pairs")
        return {"y": inputs["x"]}

    assert dependence(run, signature(), {"x": SEVEN}) == "it does not run at 1, 2, 3, 7 rows: it takes pairs"
    assert dependence(run, signature(4), {"x": SEVEN}) == "its first dimension is fixed at 4"
