"""How the batch size, the wait and the margin are chosen from the estimates."""

import pytest

from headrace_batching.latency.choice import Limits, aimed, candidate_sizes, full_size, longest_wait, within_reach
from headrace_batching.latency.margin import Margin
from headrace_batching.latency.run_times import Curve
from headrace_batching.latency.wait_search import Seen, WaitSearch

SIZES = (1, 2, 4, 8, 16, 32, 64)


def curve(fixed: float, per_row: float, spread: float = 1.0) -> Curve:
    typical = tuple(fixed + per_row * size for size in SIZES)
    return Curve(SIZES, typical, tuple(spread * seconds for seconds in typical), typical)


CURVE = curve(0.010, 0.001)


def test_only_allowed_sizes_are_considered() -> None:
    assert candidate_sizes(1) == (1,)
    assert candidate_sizes(10) == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert candidate_sizes(40)[-5:] == (28, 30, 32, 36, 40)
    assert candidate_sizes(64, (16, 64)) == (16, 64)


@pytest.mark.parametrize(("threads", "size"), [(1, 8), (2, 16), (4, 16)])
def test_the_largest_size_that_ends_in_time_even_when_all_threads_are_busy_is_chosen(threads: int, size: int) -> None:
    assert full_size(CURVE, 0.040, Limits(SIZES, threads)) == size


def test_a_smaller_size_is_chosen_if_it_is_as_good() -> None:
    assert full_size(curve(0.000001, 0.001), 10.0, Limits(SIZES, 1)) == 1


def test_a_smaller_size_is_chosen_if_the_largest_is_slower() -> None:
    typical = (0.01, 0.011, 0.013, 0.017, 0.025, 0.08, 0.3)

    assert full_size(Curve(SIZES, typical, typical, typical), 10.0, Limits(SIZES, 1)) == 16


def test_runs_that_differ_much_make_batches_smaller() -> None:
    assert full_size(curve(0.010, 0.001, spread=2.0), 0.060, Limits(SIZES, 2)) == 8
    assert full_size(CURVE, 0.060, Limits(SIZES, 2)) == 16


def test_an_objective_out_of_reach_is_not_aimed_at() -> None:
    limits = Limits(SIZES, 1)

    assert within_reach(CURVE, 0.011, limits)
    assert not within_reach(CURVE, 0.0109, limits)
    assert aimed(CURVE, 0.005, limits) == pytest.approx(2.5 * 0.011)


def test_the_wait_leaves_time_for_the_run_and_for_a_thread() -> None:
    limits = Limits(SIZES, 2)

    assert longest_wait(CURVE, 0.100, 8, limits) == pytest.approx(0.100 - 1.5 * 0.018)
    assert longest_wait(CURVE, 0.020, 32, limits) == 0.0


def steady(rate: float, wait: float) -> Seen:
    rows = 1 + rate * wait
    return Seen(
        rows_per_second=rate,
        rows_per_batch=rows,
        waited=20 if wait else 0,
        rows_of_waited=rows,
        late_rows=rate * wait / 2,
    )


def found(rate: float, *, looks: int = 20, alone: bool = False) -> list[float]:
    """The chosen waits for callers that arrive at a rate or, if `alone`, call again only after each answer."""
    search = WaitSearch(0.1, threads=2)
    waits = []
    for _ in range(looks):
        seen = steady(rate, search.wait)
        if alone:
            seen = Seen(rows_per_second=rate, waited=seen.waited, rows_of_waited=1.0)
        waits.append(search.look(CURVE, seen, longest=0.06))
    return waits


def test_batches_wait_while_that_saves_time() -> None:
    assert found(200.0)[-1] == pytest.approx(0.06)
    assert found(200.0) == sorted(found(200.0))


def test_batches_do_not_wait_if_no_requests_arrive() -> None:
    assert set(found(1.0)) == {0.0}


def test_callers_who_wait_for_their_answers_are_not_kept_waiting_for_long() -> None:
    waits = found(90.0, looks=400, alone=True)

    assert sum(bool(wait) for wait in waits) < 0.1 * len(waits)
    assert sum(bool(wait) for wait in waits[200:]) < 0.05 * len(waits)


def test_a_wait_ends_when_the_rows_no_longer_come() -> None:
    search = WaitSearch(0.1, threads=2)
    for _ in range(20):
        search.look(CURVE, steady(200.0, search.wait), longest=0.06)
    for _ in range(10):
        search.look(CURVE, steady(0.5, search.wait), longest=0.06)

    assert search.wait == 0.0


def test_no_wait_is_longer_than_the_time_that_is_left() -> None:
    search = WaitSearch(0.1, threads=2)
    for _ in range(20):
        search.look(CURVE, steady(200.0, search.wait), longest=0.06)

    assert search.look(CURVE, steady(200.0, search.wait), longest=0.02) == pytest.approx(0.02)
    assert search.look(CURVE, steady(200.0, search.wait), longest=0.0) == 0.0


def test_late_answers_make_the_margin_larger_and_early_ones_smaller() -> None:
    margin = Margin(0.99)
    before = margin.part
    margin.look(1000, 50, 0.0)
    assert margin.part < before
    for _ in range(20):
        margin.look(1000, 0, 0.0)
    assert margin.part == 1.0


def test_the_allowed_share_of_late_answers_changes_nothing() -> None:
    margin = Margin(0.99)
    before = margin.part
    for _ in range(50):
        margin.look(1000, 9, 0.0)

    assert margin.part == before


def test_the_margin_is_bounded() -> None:
    margin = Margin(0.99)
    for _ in range(100):
        margin.look(1000, 1000, 0.0)

    assert margin.part == 0.5


def test_the_margin_recovers_within_26_seconds_however_few_answers_there_are() -> None:
    margin = Margin(0.99)
    for _ in range(100):
        margin.look(1000, 1000, 0.0)
    for second in range(1, 27):
        margin.look(1, 0, float(second))

    assert margin.part == 0.9
