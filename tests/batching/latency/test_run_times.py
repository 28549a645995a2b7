"""Estimates of run times from runs that are noisy, few, slow at first, or that get faster."""

import random
from collections.abc import Iterable

import pytest

from headrace_batching.latency.run_times import Curve, RunTimes


def seconds_of(size: int) -> float:
    return 0.010 + 0.001 * size


def learned(sizes: Iterable[int], runs: int = 40, *, times: RunTimes | None = None, at: float = 0.0) -> RunTimes:
    times = times or RunTimes(0.99)
    for number in range(runs):
        times.learn([(size, seconds_of(size)) for size in sizes], at + number / 10)
    return times


def curve_of(times: RunTimes) -> Curve:
    assert times.curve is not None
    return times.curve


def test_no_runs_give_no_estimate() -> None:
    assert RunTimes(0.99).curve is None


def test_sizes_between_those_seen_lie_on_a_line() -> None:
    curve = curve_of(learned([1, 16]))

    assert [curve.typical_of(size) for size in (1, 6, 11, 16)] == pytest.approx([0.011, 0.016, 0.021, 0.026])


def test_larger_sizes_are_estimated_to_take_longer_but_less_than_in_proportion() -> None:
    curve = curve_of(learned([1, 16]))

    assert seconds_of(64) < curve.high_of(64) < 4 * curve.high_of(16)
    assert curve.rate_of(64) > curve.rate_of(16)


def test_a_larger_batch_is_never_estimated_to_be_faster() -> None:
    times = RunTimes(0.99)
    for number in range(40):
        times.learn([(4, 0.020), (8, 0.018)], number / 10)

    assert curve_of(times).typical == pytest.approx((0.020, 0.020))


def test_the_percentile_is_that_of_the_objective() -> None:
    draw = random.Random(1)
    runs = [(8, draw.uniform(0.010, 0.020)) for _ in range(128)]
    times = {share: RunTimes(share) for share in (0.5, 0.9, 0.99)}
    for own in times.values():
        own.learn(runs, 0.0)
    highs = [curve_of(own).high_of(8) for own in times.values()]

    assert highs == pytest.approx([0.015, 0.019, 0.0199], abs=0.001)


def test_one_slow_run_in_a_hundred_changes_nothing() -> None:
    times = learned([8], runs=127)
    times.learn([(8, 1.0)], 13.0)

    assert curve_of(times).high_of(8) == pytest.approx(seconds_of(8))


def test_a_size_with_few_runs_has_the_spread_of_all_sizes() -> None:
    draw = random.Random(1)
    times = RunTimes(0.99)
    times.learn([(8, seconds_of(8) * draw.choice([1.0, 1.0, 1.0, 1.5])) for _ in range(128)], 0.0)
    times.learn([(16, seconds_of(16))], 0.1)

    assert curve_of(times).high_of(16) == pytest.approx(1.5 * seconds_of(16))


def test_one_slow_run_of_a_size_is_forgotten_in_time() -> None:
    times = learned([8])
    times.learn([(16, 1.0)], 4.0)
    assert curve_of(times).typical_of(16) == 1.0
    learned([8], times=times, at=40.0)

    assert curve_of(times).typical_of(16) == pytest.approx(2**0.8 * seconds_of(8))


def test_a_slow_start_is_forgotten() -> None:
    times = RunTimes(0.99)
    times.learn([(1, 0.500)] * 40, 0.0)
    times.learn([(1, 0.500)] * 2 + [(1, 0.010)] * 14, 1.0)

    assert curve_of(times).typical_of(1) == pytest.approx(0.010)
    assert curve_of(times).high_of(1) < 0.020


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_a_slower_machine_changes_the_estimates_of_all_sizes(factor: float) -> None:
    times = learned([2, 4, 32])
    for number in range(10):
        times.learn([(size, factor * seconds_of(size)) for size in (2, 4)], 10 + number / 10)

    assert curve_of(times).typical_of(4) == pytest.approx(factor * seconds_of(4), rel=0.05)
    assert curve_of(times).typical_of(32) == pytest.approx(factor * seconds_of(32), rel=0.1)


def test_noise_does_not_scale_the_estimates() -> None:
    draw = random.Random(1)
    times = RunTimes(0.99)
    for number in range(200):
        times.learn([(size, seconds_of(size) * draw.lognormvariate(0, 0.2)) for size in (2, 32)], number / 10)

    assert curve_of(times).typical_of(32) == pytest.approx(seconds_of(32), rel=0.1)


def test_a_size_with_few_runs_may_be_better_than_estimated() -> None:
    times = RunTimes(0.99)
    times.learn([(8, seconds_of(8) * (1.2 if number % 50 == 0 else 1.0)) for number in range(100)], 0.0)
    times.learn([(16, 1.05 * 2 * seconds_of(8))] * 3, 20.0)

    assert curve_of(times).rate_of(16) > curve_of(times).rate_of(8)


def test_a_machine_that_stalls_does_not_rule_out_large_batches() -> None:
    draw = random.Random(1)
    times = RunTimes(0.99)
    for size in (1, 16):
        times.learn([(size, seconds_of(size) + (0.3 if draw.random() < 0.05 else 0.0)) for _ in range(128)], 0.0)

    assert curve_of(times).high_of(16) == pytest.approx(2 * seconds_of(16))
