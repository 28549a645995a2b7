"""Comparing all columns of an input at once gives the same as comparing each column alone."""

import math

import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_server.monitoring.columns import Columns
from headrace_server.monitoring.profiles import Bins
from headrace_toolkit.data import Data
from headrace_toolkit.profile import profile_of

RANDOM = np.random.default_rng(3)


def bins_of(values: Array) -> list[Bins | None]:
    """The profile of an input of shape [rows, columns]."""
    profile = profile_of(Data("values", "", {"x": values}))
    return [Bins.of(column, profile["quantiles"]) for column in profile["inputs"]["x"]["columns"]]


def compared(bins: list[Bins | None], rows: Array) -> dict[str, float | int]:
    columns = Columns(bins)
    for some in np.array_split(rows, 3):
        columns.add([row[None] for row in some])
    return columns.summary()


def index(bins: Bins | None, values: Array) -> float:
    return 0.0 if bins is None else bins.index(bins.count(values))


PROFILED = RANDOM.normal(size=(2000, 5))
PROFILED[:, 1] = np.where(RANDOM.random(2000) < 0.8, 0.0, PROFILED[:, 1])  # fewer bins than the others
PROFILED[:, 2] = np.nan  # the profile knows nothing about it


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("moved", [0, 1, 3, 4])
def test_the_column_that_has_changed(dtype: type, moved: int) -> None:
    bins = bins_of(PROFILED)
    rows: Array = PROFILED[:600].astype(dtype)
    rows[:, moved] += 2
    summary = compared(bins, rows)
    indices = [index(own, column) for own, column in zip(bins, rows.T, strict=True)]
    assert summary["column"] == moved == int(np.argmax(indices))
    assert summary["index"] == pytest.approx(max(indices))


def test_missing_values_and_values_out_of_range() -> None:
    bins = bins_of(PROFILED)
    rows = np.zeros((100, 5))
    rows[:10, 0], rows[:20, 3], rows[:5, 4] = np.nan, 1e9, -np.inf
    summary = compared(bins, rows)
    assert (summary["missing"], summary["outside"]) == (15 / 500, 20 / 500)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16])
def test_whole_numbers_of_few_and_of_many_values(dtype: type) -> None:
    values: Array = np.stack([np.arange(800) % 4, np.arange(800) % 100], axis=1).astype(dtype)
    bins = bins_of(values)
    assert [own is not None and bool(own.categories) for own in bins] == [True, False]
    assert compared(bins, values)["index"] == pytest.approx(0, abs=0.05)
    moved = values.copy()
    moved[:, 0] = 9
    summary = compared(bins, moved)
    assert summary["column"] == 0
    assert summary["index"] == pytest.approx(index(bins[0], moved[:, 0]))
    assert summary["outside"] == 0.5


def test_strings() -> None:
    words = np.array([["red", "a"], ["green", "b"], ["blue", "c"], ["green", "d"]] * 100, object)
    bins = bins_of(words)
    assert compared(bins, words)["index"] < 0.01
    summary = compared(bins, np.array([[b"red", b"a"], [b"purple", b"b"]] * 100, object))
    assert summary["column"] == 1 or summary["index"] > 0.2
    assert (summary["missing"], summary["outside"]) == (0, 0.25)


def test_one_column_for_a_whole_row() -> None:
    wide = RANDOM.normal(size=(50, 400))
    bins = bins_of(wide)
    assert len(bins) == 1
    assert compared(bins, wide)["index"] < 0.01
    assert compared(bins, wide + 3)["index"] > 1


def test_rows_of_another_size_are_left_out() -> None:
    columns = Columns(bins_of(PROFILED))
    columns.add([np.zeros((1, 4))])
    assert columns.summary() == {"index": 0.0, "column": 0, "missing": 0.0, "outside": 0.0}
    columns.add([np.full((1, 4), math.nan), np.zeros((1, 5))])
    assert columns.summary()["missing"] == 0


def test_an_input_without_rows_has_not_changed() -> None:
    """An optional input may be missing in all requests; this is tried with categories and with numbers."""
    words: Array = np.array([["red", "a"], ["green", "a"], ["green", "a"]] * 100, object)
    for values in (words, PROFILED):
        assert Columns(bins_of(values)).summary() == {"index": 0.0, "column": 0, "missing": 0.0, "outside": 0.0}


def test_later_rows_weigh_more() -> None:
    bins = bins_of(PROFILED)
    columns = Columns(bins)
    columns.add([np.full((1, 5), math.nan)])
    columns.halve()
    columns.add([np.zeros((1, 5))])
    assert columns.summary()["missing"] == pytest.approx(1 / 3)
