"""Finds the first output whose rows differ between two runs, and says how."""

import numpy as np
import pytest

from headrace_server.backends.independence.compare import first_change


@pytest.mark.parametrize(
    ("now", "how"),
    [
        ([1, np.nan], "becomes NaN"),
        ([np.inf, np.nan], "becomes NaN"),
        ([1, np.inf], "becomes infinite"),
        ([1, -np.inf], "becomes infinite"),
        ([1, 3], "changes by up to 0.5 of its largest value"),
        ([1, 2], None),
    ],
)
def test_a_change_is_described_by_the_values_after_it(now: list[float], how: str | None) -> None:
    before, after = ({"y": np.array([row], np.float32)} for row in ([1, 2], now))
    change = first_change(before, after, [0], exact=True)
    assert (None if change is None else change.text) == how


def test_a_number_instead_of_nan_is_another_value() -> None:
    before, after = ({"y": np.array([[row]], np.float32)} for row in (np.nan, 1))
    change = first_change(before, after, [0], exact=True)
    assert change is not None
    assert change.text == "takes other values"
