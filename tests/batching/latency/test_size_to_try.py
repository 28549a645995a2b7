"""Which batch sizes are chosen, and which are tried although their estimates rule them out."""

import pytest

from headrace_batching import Options
from headrace_batching.latency.choice import Limits, candidate_sizes, full_size, size_to_try
from headrace_batching.latency.run_times import Curve
from tests.support.latency.arrivals import traces
from tests.support.latency.simulation import Model, Outcome, Simulation

ONE_THREAD = Limits(candidate_sizes(64), 1)
TWO_THREADS = Limits(candidate_sizes(64), 2)


def curve(*runs: tuple[float, float]) -> Curve:
    """The seconds that a run takes for each size; no run is slower than usual."""
    sizes, seconds = (tuple(values) for values in zip(*runs, strict=True))
    return Curve(sizes, seconds, seconds, seconds)


ALONE = curve((1, 0.040))


def test_a_size_that_only_a_guess_rules_out_is_tried() -> None:
    assert full_size(ALONE, 0.120, ONE_THREAD) == 1
    assert size_to_try(ALONE, 1, 1.0, 0.120, ONE_THREAD) == 2


def test_the_size_after_the_largest_that_has_run_is_tried() -> None:
    seen = curve((1, 0.040), (2, 0.041), (4, 0.042))

    assert size_to_try(seen, 4, 4.0, 0.090, ONE_THREAD) == 5
    assert size_to_try(curve((16, 0.040)), 16, 15.0, 0.090, ONE_THREAD) == 18


@pytest.mark.parametrize(
    ("seen", "size", "rows", "seconds", "limits"),
    [
        (curve((1, 0.040), (2, 0.080)), 1, 1.0, 0.200, ONE_THREAD),
        (ALONE, 1, 1.0, 0.079, ONE_THREAD),
        (ALONE, 1, 1.0, 0.059, TWO_THREADS),
        (curve((1, 0.040), (8, 0.041)), 8, 3.0, 0.120, ONE_THREAD),
        (curve((1, 0.040), (64, 0.050)), 64, 64.0, 0.120, ONE_THREAD),
    ],
    ids=[
        "a larger size has run and was not chosen",
        "two runs in a row take too long already",
        "two runs in a row take too long on two threads, too",
        "batches are not full",
        "there is no larger size",
    ],
)
def test_otherwise_the_chosen_size_is_kept(seen: Curve, size: int, rows: float, seconds: float, limits: Limits) -> None:
    assert size_to_try(seen, size, rows, seconds, limits) == size


def test_only_allowed_sizes_are_tried() -> None:
    assert size_to_try(ALONE, 1, 1.0, 0.120, Limits(candidate_sizes(64, (1, 8, 64)), 1)) == 8


def test_if_no_size_fits_larger_ones_that_take_as_long_are_chosen() -> None:
    seen = curve((1, 0.050), (4, 0.051), (8, 0.060))

    assert full_size(seen, 0.090, ONE_THREAD) in (4, 5)
    assert full_size(curve((1, 0.050), (2, 0.056)), 0.090, ONE_THREAD) == 1


def overloaded(model: Model, objective: str, rows_per_second: float) -> Outcome:
    trace = traces(rows_per_second / 1.6, 20.0)[2]
    assert trace.name == "overload"
    return Simulation(model, Options(latency_objective=objective, num_batch_threads=model.threads)).run(trace)


@pytest.mark.parametrize(
    ("threads", "objective", "seconds"),
    [(1, "p99 120ms", 0.120), (1, "p99 100ms", 0.100), (2, "p99 70ms", 0.070)],
)
def test_a_queue_of_single_rows_finds_out_that_larger_batches_take_no_longer(
    threads: int, objective: str, seconds: float
) -> None:
    model = Model(fixed=0.040, per_row=0.0005, threads=threads)
    outcome = overloaded(model, objective, 3 * threads / 0.040)
    alone = 20.0 * threads / 0.040

    assert outcome.good(seconds) > 1.9 * alone
    assert outcome.percentile(0.99) <= 1.05 * seconds


def test_a_queue_whose_larger_batches_take_longer_in_proportion_loses_nothing_by_trying() -> None:
    model = Model(fixed=0.0, per_row=0.040, threads=1, noise=0.0, stalls=0.0)
    outcome = overloaded(model, "p99 120ms", 3 / 0.040)

    assert outcome.good(0.120) > 0.97 * 20.0 / 0.040


def test_a_size_that_is_tried_and_never_fills_refuses_nobody() -> None:
    model = Model(fixed=0.032, per_row=0.008, threads=1)
    outcome = overloaded(model, "p99 90ms", 0.7 / 0.040)

    assert outcome.good(0.090) > 0.7 * outcome.offered
