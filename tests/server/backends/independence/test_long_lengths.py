"""Whether a padding is tested beyond the lengths at which a model may answer in another way."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from headrace_batching.padding import default_limits
from headrace_batching.task import Array
from headrace_protos import DataType
from headrace_server.backends.independence import Hints, Subject, Verdict, try_rows
from headrace_server.backends.independence.long_lengths import DOUBLED
from headrace_server.backends.signature import TensorSpec

X = TensorSpec("x", DataType.DT_FLOAT, (None, None), ("N", "T"))
Y = TensorSpec("y", DataType.DT_FLOAT, (None,), ("N",))

QUICK, SLOW, VERY_SLOW = 1e-7, 1e-4, 0.005  # seconds per element


def tried(
    function: Callable[[Array], Array], seconds: float = QUICK, numbers: tuple[int, ...] = (), most: int = 10**6
) -> tuple[Verdict, int]:
    """The verdict on a function that takes this long for each element, and the largest length of its runs.

    The function refuses more than `most` elements in a row.
    """
    now, longest = [0.0], [0]

    def run(x: Array) -> Array:
        if x.shape[1] > most:
            raise ValueError("too long")
        now[0] += seconds * x.size
        longest[0] = max(longest[0], x.shape[1])
        return function(x)

    subject = Subject(run=lambda arrays: {"y": run(arrays["x"])}, inputs={"x": X}, outputs={"y": Y})
    verdict = try_rows(replace(subject, hints=Hints(numbers)), 0.05, clock=lambda: now[0])
    assert verdict.batched
    return verdict, longest[0]


def total(x: Array) -> Array:
    summed: Array = x.sum(axis=1)
    return summed


@pytest.mark.parametrize("most", [40, 100, 900])
def test_only_the_last_few_are_used(most: int) -> None:
    assert tried(lambda x: total(x[:, -most:]))[0].padding is None


@pytest.mark.parametrize("least", [50, 130, 900])
def test_a_length_is_a_divisor_if_it_is_large(least: int) -> None:
    assert tried(lambda x: total(x) / np.float32(max(least, x.shape[1])))[0].padding is None


def test_a_sum_is_tested_with_many_elements() -> None:
    verdict, longest = tried(total)

    assert verdict.padding is not None
    assert verdict.padding.limits == default_limits()
    assert longest >= DOUBLED[-1]


def test_no_time_is_spent_on_a_slow_model() -> None:
    verdict, longest = tried(total, SLOW)

    assert verdict.padding is not None
    assert verdict.padding.limits == default_limits()
    assert longest < DOUBLED[0]


def test_a_number_in_the_file_of_a_slow_model_is_tested() -> None:
    verdict, longest = tried(total, SLOW, (100,))

    assert verdict.padding is not None
    assert verdict.padding.limits == default_limits()
    assert longest > 100
    assert tried(lambda x: total(x[:, -100:]), SLOW, (100,))[0].padding is None


@pytest.mark.parametrize("number", [150, 200, 256])
def test_only_lengths_below_a_number_that_would_take_too_long_are_padded(number: int) -> None:
    padding = tried(lambda x: total(x[:, -number:]), VERY_SLOW, (1, number, 600))[0].padding

    assert padding is not None
    assert padding.limits == tuple(limit for limit in default_limits() if limit < number)


def test_a_model_with_a_maximum_length_is_padded() -> None:
    padding = tried(total, most=70)[0].padding

    assert padding is not None
    assert padding.limits == default_limits()
