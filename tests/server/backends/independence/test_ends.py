"""The larger batch of a trial: an influence between rows that are far from each other, in slow models."""

from collections.abc import Callable

import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_server.backends.independence import Finding
from tests.support.subjects import BETWEEN, IDS, SLOW, X, timed


def shifted(x: Array, far: int, *, later: bool) -> Array:
    """Puts into each row the row that is this much later or earlier, or zeros if there is none."""
    y = np.zeros_like(x)
    if later:
        y[:-far] = x[far:]
    else:
        y[far:] = x[:-far]
    return y


def leak(x: Array, other: Array) -> Array:
    y: Array = x + 0 * other
    return y


@pytest.mark.parametrize("seconds", [SLOW, BETWEEN], ids=["slow", "in between"])
class TestFarRowsOfSlowModels:
    """A row that reads another one far from it, in a model for which many runs of many rows would take too long."""

    @pytest.mark.parametrize("far", [*range(1, 21)])
    @pytest.mark.parametrize("later", [False, True])
    @pytest.mark.parametrize(
        "mix",
        [
            lambda x, other: x + other,
            leak,
            np.maximum,
            lambda x, other: x + np.float32(1e-6) * (np.abs(other) > 1e5),
            lambda x, other: np.where(other > 0, x, -x),
        ],
        ids=["sum", "leak", "maximum", "threshold", "sign"],
    )
    def test_an_influence_of_a_far_row_is_found(
        self, far: int, later: bool, mix: Callable[..., Array], seconds: float
    ) -> None:
        verdict, _ = timed(lambda x: mix(x, shifted(x, far, later=later)), seconds=seconds)

        assert verdict.finding is Finding.DEPENDENT or (verdict.bound == 1e30 and mix is leak)

    @pytest.mark.parametrize("window", [3, 8, 21])
    def test_a_mean_over_a_window_is_found(self, window: int, seconds: float) -> None:
        def model(x: Array) -> Array:
            return np.stack([x[max(0, row - window + 1) : row + 1].mean(axis=0) for row in range(len(x))])

        assert timed(model, seconds=seconds)[0].finding is Finding.DEPENDENT

    @pytest.mark.parametrize("far", [2, 7, 13])
    def test_a_row_that_wraps_around_is_found(self, far: int, seconds: float) -> None:
        assert timed(lambda x: x + np.roll(x, far, axis=0), seconds=seconds)[0].finding is Finding.DEPENDENT

    def test_an_influence_in_large_batches_only_is_found(self, seconds: float) -> None:
        verdict, _ = timed(lambda x: x - x.mean(axis=0) * (len(x) > 8), seconds=seconds)

        assert verdict.finding is Finding.DEPENDENT

    @pytest.mark.parametrize("far", [2, 5, 20])
    @pytest.mark.parametrize("later", [False, True])
    @pytest.mark.parametrize("known", [2, 6])
    def test_an_influence_of_integers_is_found(self, far: int, later: bool, known: int, seconds: float) -> None:
        """A table of a few rows; the first one adds nothing."""
        table = np.arange(4.0 * known, dtype=np.float32).reshape(known, 4) + 1
        table[0] = 0

        def model(ids: Array, x: Array) -> Array:
            rows: Array = x + shifted(table[ids], far, later=later)
            return rows

        assert timed(model, IDS, X, seconds=seconds)[0].finding is Finding.DEPENDENT

    @pytest.mark.parametrize("most", [3, 6, 21, 22, 30])
    @pytest.mark.parametrize("later", [False, True])
    def test_an_influence_in_the_largest_batch_of_an_engine_is_found(
        self, most: int, later: bool, seconds: float
    ) -> None:
        far = min(20, most - 1)

        verdict, rows = timed(lambda x: x + 0 * shifted(x, far, later=later), seconds=seconds, most_rows=most)

        assert verdict.finding is Finding.DEPENDENT
        assert max(rows) <= most

    @pytest.mark.parametrize(
        "model",
        [
            lambda x: np.tanh(x),
            lambda x: np.argmax(np.round(x), axis=1)[:, np.newaxis],
            lambda x: x * np.float32(1 + len(x) * 1e-7),
        ],
        ids=["plain", "classes", "rounds by the number of rows"],
    )
    def test_independent_rows_are_still_independent(self, model: Callable[..., Array], seconds: float) -> None:
        assert timed(model, seconds=seconds)[0].finding is Finding.INDEPENDENT

    @pytest.mark.parametrize("far", [2, 5, 11])
    def test_the_bound_is_no_larger_than_the_values_that_change_a_far_row(self, far: int, seconds: float) -> None:
        def model(x: Array) -> Array:
            y: Array = x + 0 * x.sum() + (np.abs(shifted(x, far, later=True)) > 1e5)
            return y

        assert not timed(model, seconds=seconds)[0].batched

    def test_a_bounded_model_is_still_bounded(self, seconds: float) -> None:
        verdict, _ = timed(lambda x: x + 0 * x.sum(), seconds=seconds)

        assert (verdict.finding, verdict.bound) == (Finding.BOUNDED, 1e30)

    def test_a_model_that_takes_only_a_few_rows_runs_one_by_one(self, seconds: float) -> None:
        def model(x: Array) -> Array:
            if len(x) > 4:
                raise ValueError("too many")
            return x

        verdict, _ = timed(model, seconds=seconds)

        assert verdict.finding is Finding.DEPENDENT
        assert verdict.reason == "the model takes two rows, but not 22: too many"
