"""Reports of runs as columns, and their sums by the number of rows."""

from array import array
from dataclasses import fields

import numpy as np
import pytest

from headrace_batching import BatchReport
from headrace_server.metrics.inferences import SIZES_KEPT, InferenceCounts
from headrace_server.metrics.runs import RunColumns


def test_arrays_and_other_sequences_give_the_same_columns() -> None:
    parts = [([1.0, 1.5], [2, 1]), ([2.0], [4])]
    lists = [report(arrivals, sizes) for arrivals, sizes in parts]
    arrays = [report(array("d", arrivals), array("q", sizes)) for arrivals, sizes in parts]

    for reports in (lists, arrays, [lists[0], arrays[1]]):
        columns = RunColumns.of(reports)
        np.testing.assert_allclose(columns.waited, [2.0, 1.5, 1.0])
        assert columns.sizes.tolist() == [2, 1, 4]


def test_runs_without_the_interpreter_give_the_same_columns_as_reports() -> None:
    began, joined, computed, ended = times = [2.0, 2.25, 2.75, 3.0]
    parts = [([1.0, 1.5], [2, 1]), ([2.0], [4])]
    reports = [
        BatchReport(
            len(sizes),
            sum(sizes),
            4 - sum(sizes),
            began,
            ended - began,
            False,
            arrivals,
            sizes,
            0.25,
            computed - joined,
        )
        for arrivals, sizes in parts
    ]
    native = RunColumns.of_native(
        np.array([times, times]).tobytes(),
        np.array([2, 1]).tobytes(),
        np.array([4, 4]).tobytes(),
        np.array([1.0, 1.5, 2.0]).tobytes(),
        np.array([2, 1, 4]).tobytes(),
    )

    expected = RunColumns.of(reports)
    for field in fields(RunColumns):
        np.testing.assert_array_equal(getattr(native, field.name), getattr(expected, field.name))


def test_runs_are_summed_by_their_rows() -> None:
    counts = InferenceCounts()
    counts.add(RunColumns.of([report([1.0], [rows], joined=rows / 10) for rows in (3, 1, 3, 2)]), 0.0)
    by_rows = counts.counted.by_rows

    assert {rows: computing.inputs.count for rows, computing in by_rows.items()} == {1: 1, 2: 1, 3: 2}
    assert by_rows[3].inputs.nanoseconds == 600_000_000


def test_a_bounded_number_of_sizes_is_kept() -> None:
    counts, most = InferenceCounts(), SIZES_KEPT + 2
    for rows in range(1, most + 1):
        counts.add(RunColumns.of([report([1.0], [rows])]), 0.0)
    assert list(counts.counted.by_rows) == list(range(3, most + 1))

    counts.ran_alone(1.0)
    assert list(counts.counted.by_rows) == [*range(4, most + 1), 1]
    assert counts.counted.runs == counts.counted.computing.inputs.count == most + 1


def test_the_last_run_is_the_one_that_ended_last() -> None:
    counts = InferenceCounts()
    late, early = RunColumns.of([report([1.0], [1])]), RunColumns.of([report([1.0], [1])._replace(ran=0.5)])
    counts.add(late, 0.0)
    last = counts.counted.last
    counts.add(early, 0.0)

    assert counts.counted.last == pytest.approx(last, abs=0.25)
    counts.ran_alone(0.0)
    assert counts.counted.last > last


def test_runs_are_counted_while_the_sizes_are_read() -> None:
    counts = InferenceCounts()
    for rows in range(1, SIZES_KEPT + 1):
        counts.add(RunColumns.of([report([1.0], [rows])]), 0.0)
    for rows in counts.counted.by_rows:
        counts.add(RunColumns.of([report([1.0], [SIZES_KEPT + rows])]), 0.0)


def report(arrivals: "list[float] | array[float]", sizes: "list[int] | array[int]", joined: float = 0.0) -> BatchReport:
    return BatchReport(len(sizes), sum(sizes), 0, 3.0, 1.0, False, arrivals, sizes, joined)
