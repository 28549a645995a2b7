"""Traces on a virtual clock: a latency objective compared with the best fixed settings of a sweep.

`python -m scripts.objective simulate` compares it with all 84 settings of the sweep, on longer traces.
"""

import re
from functools import cache

import pytest

from headrace_batching import Options
from tests.support.latency.arrivals import Arrivals, traces
from tests.support.latency.simulation import Model, Outcome, Simulation
from tests.support.latency.sweep import Comparison, Fixed, best_over_all, compare

MODEL = Model(fixed=0.040, per_row=0.004)
OBJECTIVE, SECONDS = "p99 300ms", 0.300
SETTINGS = (Fixed(16, 0, 10), Fixed(32, 0, 1), Fixed(32, 60_000, 1), Fixed(32, 120_000, 10), Fixed(24, 120_000, 2))
TRACES = {trace.name: trace for trace in traces(MODEL.capacity(SECONDS), 30.0)}


@cache
def compared(name: str) -> Comparison:
    return compare(MODEL, OBJECTIVE, TRACES[name], SETTINGS)


@pytest.mark.parametrize("name", TRACES)
def test_no_fixed_setting_is_much_better_in_any_trace(name: str) -> None:
    assert compared(name).ratio >= 0.97


def test_no_fixed_setting_is_better_over_all_traces() -> None:
    every = [compared(name) for name in TRACES]

    assert sum(comparison.good for comparison in every) > best_over_all(every)[1]


@pytest.mark.parametrize("name", [name for name in TRACES if name != "slow start"])
def test_the_objective_is_kept(name: str) -> None:
    assert compared(name).kept.percentile(0.99) <= 1.05 * SECONDS


def test_batches_that_wait_save_time_at_a_light_load() -> None:
    kept, immediate = compared("light").kept, compared("light").outcomes[Fixed(16, 0, 10)]

    assert kept.busy < 0.75 * immediate.busy


def test_a_request_that_would_be_late_is_refused_and_the_others_are_in_time() -> None:
    kept = compared("overload").kept

    assert len(kept.latencies) < 0.75 * kept.offered
    assert kept.good(SECONDS) > 0.98 * len(kept.latencies)


def test_an_objective_out_of_reach_is_missed_by_little() -> None:
    outcome = Simulation(MODEL, Options(latency_objective="p99 20ms", num_batch_threads=2)).run(TRACES["overload"])
    _, beliefs = outcome.beliefs[-1]

    assert not beliefs.kept_within_reach
    assert beliefs.reason.startswith("the objective is out of reach: a batch of one row runs for up to ")
    assert " ms is the target instead" in beliefs.reason
    assert outcome.percentile(0.99) < 4 * MODEL.fixed
    assert len(outcome.latencies) > 500


def test_the_reason_gives_short_times_in_microseconds() -> None:
    quick = Model(fixed=0.000_120, per_row=0.000_002)
    options = Options(max_batch_size=8, latency_objective="p99 20ms", num_batch_threads=2)
    outcome = Simulation(quick, options).run(TRACES["light"])
    _, beliefs = outcome.beliefs[-1]

    assert re.match(
        r"a batch of \w+ rows? runs for up to \d+ us and waits about \d+(\.\d)? us for a thread, ", beliefs.reason
    )


def test_a_model_that_becomes_three_times_slower_is_noticed() -> None:
    steady = TRACES["busy"]
    slower = Arrivals("slower", steady.times, steady.rows, slow_start=15.0)
    outcome = Simulation(MODEL, Options(latency_objective=OBJECTIVE, num_batch_threads=2)).run(slower)
    after = [good for came, good in zip(outcome.answered_at, outcome.latencies, strict=True) if came > 17.0]

    assert sum(seconds <= SECONDS for seconds in after) > 0.98 * len(after)


def after_stalls(*stalls: tuple[float, float]) -> Outcome:
    overload = traces(2.0 * MODEL.capacity(SECONDS), 30.0)[2]
    arrivals = Arrivals("stalls", overload.times, overload.rows, stalls=stalls)
    return Simulation(MODEL, Options(latency_objective=OBJECTIVE, num_batch_threads=2)).run(arrivals)


def test_a_stall_reduces_the_planned_time_once() -> None:
    aims = [beliefs.aimed for at, beliefs in after_stalls((0.5, 0.5)).beliefs if 0.5 < at < 2.0]

    assert min(aims) == pytest.approx(0.95 * aims[0])


def test_stalls_at_the_start_do_not_keep_batches_small() -> None:
    outcome = after_stalls(*((0.2 + 0.8 * number, 0.5) for number in range(8)))
    later = [took for came, took in zip(outcome.answered_at, outcome.latencies, strict=True) if 15.0 <= came < 25.0]

    assert sum(took <= SECONDS for took in later) > 0.6 * 10.0 * MODEL.capacity(SECONDS)
