"""Comparisons of answers."""

import math

import numpy as np
import pytest

from headrace_toolkit import ToolkitError
from headrace_toolkit.check import agreement, compare, decisions, largest


def test_differences_of_floats() -> None:
    expected = {"y": np.array([[1.0, 2.0], [3.0, 4.0]])}
    (difference,) = compare(expected, {"y": np.array([[1.0, 2.5], [3.0, 4.0]])})
    assert (difference.largest, difference.mean, difference.scale, difference.differing) == (0.5, 0.125, 4.0, 0.5)


def test_rounding_does_not_count_as_a_difference() -> None:
    expected = {"y": np.array([[1000.0], [0.001]])}
    (difference,) = compare(expected, {"y": np.array([[1000.01], [0.001]])})
    assert difference.differing == 0
    assert difference.largest == pytest.approx(0.01)


def test_non_finite_values() -> None:
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
    with pytest.raises(ToolkitError, match=r"output y has the shape \[3\], and the source's has \[2\]"):
        compare({"y": np.zeros(2)}, {"y": np.zeros(3)})


def test_the_decision_for_each_row() -> None:
    scores, label = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32), np.array([[1], [0]])
    for outputs in ({"scores": scores}, {"label": label}, {"scores": scores, "label": label}):
        found = decisions(outputs)
        assert found is not None
        assert found.tolist() == [1, 0]
    assert decisions({"value": np.zeros(2)}) is None
    assert agreement({"s": scores}, {"s": scores[::-1]}) == 0
    assert agreement({"v": np.zeros(2)}, {"v": np.zeros(2)}) is None
